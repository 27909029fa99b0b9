"""Audits that score stored pictures again with another bundle, in shadow, and compare.

Nothing that is stored of the pictures changes. What the other bundle says lies in a table of its
own, so that an audit that was interrupted goes on where it was, and a second one scores nothing
again. Pictures are taken from the spool alone: none is fetched back from an archive for it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol

from detector.errors import ErrorCode, QCError
from model.bundle.bundle import Bundle
from model.finding import BundleId
from model.runtime.precision import (
    BFLOAT16,
    FAST,
    bfloat16_flag,
    fast_networks,
    is_fast_allowed,
    openvino_release,
)
from model.site.names import site_of
from qc_daemon.audit.bundle_comparison import Answer, ComparedPicture, Reading, compare_bundles
from qc_daemon.backup.contents import own_version
from qc_daemon.operations.bundles import active_bundle, bundle_folder
from qc_daemon.records.clock import Clock
from qc_daemon.records.received import retention, revisions
from qc_daemon.records.received.revisions import in_spool
from qc_daemon.records.results import audit_rows, shadow_findings, sites
from qc_daemon.records.results.audit_rows import AuditedFinding
from qc_daemon.records.results.audits import ShadowBundle
from qc_daemon.records.results.shadow_findings import ShadowKey
from qc_daemon.records.store import Store
from qc_daemon.score.parts import BACKBONE, named_parts
from qc_daemon.score.shadow import ShadowEngine, ShadowTask
from qc_daemon.settings import Settings

KIND = "bundle"
"""The key `kind` of what such an audit says."""
_READ, _SCORED = 0.05, 0.95
"""Shares of the audit that are over when all is read, and when all is scored."""
_PAGE = 500
_STEP = 2000
_NO_FILE = QCError(ErrorCode.NOT_AVAILABLE, "it was imported: there is no file of it")
_DROPPED = QCError(ErrorCode.NOT_AVAILABLE, "its file has left the spool")
_NO_ANSWER = QCError(ErrorCode.NOT_AVAILABLE, "the other bundle has no answer on its region")


class Step(Protocol):
    """Told how far an audit is, 0 to 1, and whether what was done is stored; may raise."""

    def __call__(self, part: float, *, has_stored: bool = False) -> None: ...


EngineMaker = Callable[[Settings, Store, Bundle], ShadowEngine]


def engine_here(settings: Settings, store: Store, bundle: Bundle) -> ShadowEngine:
    """The engine of this process, as the worker scores. Raises QCError as `Judge.open`."""
    from qc_daemon.score.models import open_judge
    from qc_daemon.score.shadow import score_here

    judge = open_judge(bundle, settings.score, needs_parts=False)
    return score_here(store, settings, judge, in_spool(settings.store.spool))


def open_shadow(name: str) -> ShadowBundle:
    """A shipped bundle by name, else that in a folder, every file of it verified. Raises QCError
    where there is none or it is damaged."""
    bundle = Bundle.open(bundle_folder(name))
    return ShadowBundle(bundle.model_id, str(bundle.path))


def compare_in_shadow(
    settings: Settings,
    store: Store,
    shadow: ShadowBundle,
    first: date,
    last: date,
    step: Step,
    clock: Clock,
    make_engine: EngineMaker = engine_here,
) -> dict[str, Any]:
    """Score the pictures of these days (both included) with the bundle, as far as that is not done
    yet, and compare. Raises QCError for a bundle that has changed, a spool that is away, and what
    else is no picture's own fault."""
    bundle = Bundle.open(shadow.path)
    if bundle.model_id != shadow.model_id:
        raise QCError(
            ErrorCode.BUNDLE_MISMATCH,
            f"bundle {bundle.id.name} has changed since the audit began: run it again",
        )
    pictures = _read_pictures(settings, store, first, last, step)
    left_out = {each.revision_id: _NO_FILE for each in pictures if each.is_imported}
    scoring = _Scoring(settings, store, bundle, clock)
    left_out |= scoring.score(
        [each for each in pictures if not each.is_imported], step, make_engine
    )
    step(_SCORED)
    compared, unmatched = _pair(store, bundle.model_id, pictures, left_out)
    content = compare_bundles(compared)
    step(1.0)
    active = active_bundle(store)
    return {
        "kind": KIND,
        "window": {"from": first.isoformat(), "to": last.isoformat()},
        "bundle": None if active is None else _bundle_json(active),
        "shadow": _bundle_json(bundle.id),
        "is_active": active is not None and active.model_id == bundle.model_id,
        "bundles": _bundles(pictures),
        **content,
        "left_out": _left_out(pictures, left_out, unmatched),
    }


@dataclass(frozen=True, slots=True)
class _Picture:
    """A stored finding that stands for its picture."""

    finding_id: int
    revision_id: int
    study_instance_uid: str | None
    sop_instance_uid: str
    revision: int
    frame: int
    region: int
    exam: int
    device: str | None
    institution: str | None
    is_imported: bool
    bundle: tuple[str, str, str]
    answer: Answer
    readings: tuple[Reading, ...]

    @property
    def key(self) -> ShadowKey:
        return self.revision_id, self.frame, self.region


def _read_pictures(
    settings: Settings, store: Store, first: date, last: date, step: Step
) -> list[_Picture]:
    """What stands, of images made on these local days; as the nightly audit reads it."""
    from qc_daemon.operations.audits import moment_of

    zone = settings.schedule.local_zone
    end = (last + timedelta(days=1)).isoformat()
    pictures = []
    with store.read() as session:
        total = max(1, audit_rows.count_findings(session, first.isoformat(), end))
        for count, finding in enumerate(audit_rows.iter_audited(session, first.isoformat(), end)):
            if count % _STEP == 0:
                step(_READ * min(1.0, count / total))
            if first.toordinal() <= moment_of(finding, zone)[0] <= last.toordinal():
                pictures.append(_picture(finding))
    return pictures


def _picture(finding: AuditedFinding) -> _Picture:
    body, review = finding.body, finding.review
    bundle = body["bundle"]
    readings = () if review is None else review.readings
    return _Picture(
        finding_id=finding.finding_id,
        revision_id=finding.revision_id,
        study_instance_uid=body["study_instance_uid"],
        sop_instance_uid=body["sop_instance_uid"],
        revision=body["revision"],
        frame=body["frame"],
        region=body["region"]["index"],
        exam=finding.exam_id,
        device=finding.device,
        institution=finding.institution,
        is_imported=finding.is_imported,
        bundle=(bundle["name"], bundle["version"], bundle["model_id"]),
        answer=_answer(body),
        readings=tuple(
            Reading(None if each.view is None else str(each.view), each.verdict, each.is_blinded)
            for each in readings
        ),
    )


def _answer(body: Mapping[str, Any]) -> Answer:
    quality = body["quality"]
    return Answer(body["view"]["code"], quality["label"], quality["probability"])


class _Scoring:
    """Has the engine score what the bundle has not judged yet under today's conditions."""

    def __init__(self, settings: Settings, store: Store, bundle: Bundle, clock: Clock) -> None:
        self._settings, self._store, self._bundle = settings, store, bundle
        self._clock = clock
        backbone, opinion_parts = named_parts(bundle, settings.score, needs_parts=False)
        parts_by_role = {BACKBONE: backbone, **opinion_parts}
        self._parts = "".join(
            f" {role}={part.id.model_id}"
            for role, part in parts_by_role.items()
            if part is not None
        )
        self._precision = _precision(bundle, settings)
        self._sites: dict[str, str] = {}
        self._frames: dict[int, set[int]] = {}
        self._institutions: dict[int, str | None] = {}

    def score(
        self, pictures: Sequence[_Picture], step: Step, make_engine: EngineMaker
    ) -> dict[int, QCError]:
        """Score and store; returns why revisions could not be scored, by id."""
        for each in pictures:
            self._frames.setdefault(each.revision_id, set()).add(each.frame)
            self._institutions[each.revision_id] = each.institution
        missing = self._missing()
        if not missing:
            return {}
        if not self._settings.store.spool.is_dir():
            raise QCError(ErrorCode.SPOOL_MISSING, "the spool is away")
        failures = dict[int, QCError]()
        total = len(self._frames)
        done = total - len(missing)
        step(_READ + (_SCORED - _READ) * done / total)
        engine = make_engine(self._settings, self._store, self._bundle)
        for result in engine(self._tasks(missing)):
            revision_id = result.task.facts.revision_id
            if result.error is not None:
                failures[revision_id] = self._reason(revision_id, result.error)
            else:
                with self._store.begin() as session:
                    shadow_findings.store(
                        session,
                        revision_id,
                        result.task.conditions,
                        result.findings,
                        self._clock(),
                    )
            done += 1
            step(_READ + (_SCORED - _READ) * done / total, has_stored=True)
        return failures

    def _missing(self) -> dict[int, tuple[tuple[int, ...], str]]:
        """Frames to score and their conditions, by revision id in order."""
        missing = dict[int, tuple[tuple[int, ...], str]]()
        with self._store.read() as session:
            judged = shadow_findings.judged_frames(
                session, self._bundle.model_id, self._frames.keys()
            )
        for revision_id, frames in sorted(self._frames.items()):
            conditions = self._conditions(self._institutions[revision_id])
            lacking = tuple(f for f in sorted(frames) if judged.get((revision_id, f)) != conditions)
            if lacking:
                missing[revision_id] = (lacking, conditions)
        return missing

    def _tasks(self, missing: Mapping[int, tuple[tuple[int, ...], str]]) -> Iterator[ShadowTask]:
        ids = list(missing)
        for page in (ids[start : start + _PAGE] for start in range(0, len(ids), _PAGE)):
            with self._store.read() as session:
                facts = revisions.facts_of(session, page)
            for revision_id in page:
                frames, conditions = missing[revision_id]
                institution = self._institutions[revision_id]
                yield ShadowTask(facts[revision_id], institution, frames, conditions)

    def _conditions(self, institution: str | None) -> str:
        """What the bundle's answer depends on beside the picture."""
        settings = self._settings.score
        conditions = f"{own_version()} augment={settings.augment}{self._parts}{self._precision}"
        if settings.site_calibration == "off":
            return conditions
        site = site_of(settings.site or institution)
        if site not in self._sites:
            with self._store.read() as session:
                active = sites.active(session, site, self._bundle.model_id)
            ids = [each.id for each in active.records]
            self._sites[site] = ",".join([*ids, *(["waived"] if active.is_waived else [])])
        return f"{conditions} site={self._sites[site]}"

    def _reason(self, revision_id: int, error: QCError) -> QCError:
        if error.code is not ErrorCode.SPOOL_MISSING:
            return error
        with self._store.read() as session:
            return _DROPPED if retention.was_dropped(session, revision_id) else error


def _precision(bundle: Bundle, settings: Settings) -> str:
    """What computes in another precision than float32, as `open_judge` has it; empty if nothing
    does."""
    if settings.score.precision != FAST or not is_fast_allowed(bundle.manifest):
        return ""
    flag = bfloat16_flag()
    networks = "+".join(fast_networks(bundle.manifest, flag))
    return f" {BFLOAT16}={networks} by openvino {openvino_release()} on {flag}"


def _pair(
    store: Store, model_id: str, pictures: Sequence[_Picture], left_out: Collection[int]
) -> tuple[list[ComparedPicture], list[_Picture]]:
    """Pictures with both answers, and those that the other bundle has no answer on."""
    scored = [each for each in pictures if each.revision_id not in left_out]
    wanted = {each.key for each in scored}
    with store.read() as session:
        bodies = shadow_findings.iter_bodies(
            session, model_id, {each.revision_id for each in scored}
        )
        answers = {key: _answer(body) for key, body in bodies if key in wanted}
    compared = [
        ComparedPicture(
            finding_id=each.finding_id,
            study_instance_uid=each.study_instance_uid,
            sop_instance_uid=each.sop_instance_uid,
            revision=each.revision,
            frame=each.frame,
            region=each.region,
            exam=each.exam,
            device=each.device,
            stored=each.answer,
            shadow=answers[each.key],
            readings=each.readings,
        )
        for each in scored
        if each.key in answers
    ]
    return compared, [each for each in scored if each.key not in answers]


def _left_out(
    pictures: Iterable[_Picture], left_out: Mapping[int, QCError], unmatched: Iterable[_Picture]
) -> dict[str, Any]:
    reasons = {id(each): _NO_ANSWER for each in unmatched}
    listed = list[dict[str, Any]]()
    for each in pictures:
        error = left_out.get(each.revision_id) or reasons.get(id(each))
        if error is not None:
            listed.append(
                {
                    "finding_id": each.finding_id,
                    "study_instance_uid": each.study_instance_uid,
                    "sop_instance_uid": each.sop_instance_uid,
                    "frame": each.frame,
                    "code": error.code.value,
                    "reason": error.message,
                }
            )
    listed.sort(key=lambda each: each["finding_id"])
    counts = Counter((each["code"], each["reason"]) for each in listed)
    return {
        "n": len(listed),
        "counts": [
            {"code": code, "reason": reason, "n": n} for (code, reason), n in sorted(counts.items())
        ],
        "pictures": listed,
    }


def _bundle_json(bundle: BundleId) -> dict[str, str]:
    return {"name": bundle.name, "version": bundle.version, "model_id": bundle.model_id}


def _bundles(pictures: Iterable[_Picture]) -> list[dict[str, Any]]:
    """The bundles whose answers are stored, that of most pictures first."""
    counts = Counter(each.bundle for each in pictures)
    return [
        {"name": name, "version": version, "model_id": model_id, "n": n}
        for (name, version, model_id), n in sorted(
            counts.items(), key=lambda item: (-item[1], item[0])
        )
    ]


# As tables and CSV.

GROUP_COLUMNS = (
    "group",
    "n",
    "standard",
    "shadow_standard",
    "stored_only",
    "shadow_only",
    "p",
    "change",
    "change_low",
    "change_high",
    "agree",
    "kappa",
    "ac1",
    "prevalence",
)
CHANGE_COLUMNS = (
    "finding_id",
    "study_instance_uid",
    "sop_instance_uid",
    "frame",
    "region",
    "device",
    "view",
    "shadow_view",
    "verdict",
    "shadow_verdict",
    "probability",
    "shadow_probability",
    "change",
)
SHORT_CHANGE_COLUMNS = tuple(
    name
    for name in CHANGE_COLUMNS
    if name not in ("study_instance_uid", "sop_instance_uid", "frame", "region")
)


def describe_comparison(content: Mapping[str, Any]) -> list[str]:
    """Lines that stand before the tables."""
    window, counts, shadow = content["window"], content["counts"], content["shadow"]
    lines = [
        f"audit {content['audit']} of {content['date']}: {window['from']} to {window['to']}"
        f" ({content['timezone']})",
        f"stored answers against bundle {shadow['name']} {shadow['version']}"
        f" ({shadow['model_id'][:12]}) in shadow",
    ]
    if content["is_active"]:
        lines.append(
            "it is the active bundle: pictures that it judged differ only where settings, site"
            " calibrations or the program changed since"
        )
    lines.append(
        f"{counts['compared']} pictures of {counts['exams']} exams compared, {counts['changed']}"
        f" differ: {counts['verdicts_changed']} in the verdict, {counts['views_changed']} in the"
        " view"
    )
    lines += [
        f"left out: {each['n']} ({each['code']}: {each['reason']})"
        for each in content["left_out"]["counts"]
    ]
    readers = content["readers"]
    if readers["stored"] is None:
        lines.append("no blinded readings to hold both against")
    else:
        lines.append(
            f"{readers['stored']['n']} blinded readings: stored answers agree with"
            f" {readers['stored']['observed']:.1%} (kappa {_figure(readers['stored']['kappa'])},"
            f" AC1 {_figure(readers['stored']['ac1'])}), those in shadow with"
            f" {readers['shadow']['observed']:.1%} (kappa {_figure(readers['shadow']['kappa'])},"
            f" AC1 {_figure(readers['shadow']['ac1'])})"
        )
    return lines


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def verdict_rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of verdicts: stored in rows, in shadow in columns."""
    group = content["all"]
    return [
        {"stored": answer, **dict(zip(group["answers"], counts, strict=True))}
        for answer, counts in zip(group["answers"], group["table"], strict=True)
    ]


def group_rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for all pictures, each view and each device."""
    groups = [("all", content["all"])]
    groups += [(each["view"], each) for each in content["views"]]
    groups += [(each["id"], each) for each in content["devices"]]
    return [_group_row(name, group) for name, group in groups]


def _group_row(name: str, group: Mapping[str, Any]) -> dict[str, Any]:
    table, test, change = group["table"], group["mcnemar"], group["change"]
    agreement = group["agreement"] or {}
    return {
        "group": name,
        "n": group["n"],
        "standard": sum(table[0]),
        "shadow_standard": sum(row[0] for row in table),
        "stored_only": test["stored_only"],
        "shadow_only": test["shadow_only"],
        "p": test["p"],
        "change": change["value"],
        "change_low": change["low"],
        "change_high": change["high"],
        "agree": agreement.get("observed"),
        "kappa": agreement.get("kappa"),
        "ac1": agreement.get("ac1"),
        "prevalence": (agreement.get("prevalence") or [None])[0],
    }


def change_rows(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each picture whose answers differ."""
    return (_change_row(each) for each in content["changes"])


def largest_rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the largest changes of probability, the largest first."""
    by_id = {each["finding_id"]: each for each in content["changes"]}
    return [_change_row(by_id[finding_id]) for finding_id in content["largest"]]


def _change_row(change: Mapping[str, Any]) -> dict[str, Any]:
    stored, shadow = change["stored"], change["shadow"]
    row = {name: stored[name] for name in ("view", "verdict", "probability")}
    row |= {f"shadow_{name}": shadow[name] for name in ("view", "verdict", "probability")}
    return {name: row[name] if name in row else change[name] for name in CHANGE_COLUMNS}
