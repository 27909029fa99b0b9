"""Stored findings as rows for people, spreadsheets and programs."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from typing import Any, Literal

from sqlalchemy.orm import Session

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import decimals
from model.finding import QUALITY_LABELS
from model.parts.opinion import ROLES
from model.site.names import UNNAMED, site_of
from qc_daemon.operations.identity_names import resolve_identity
from qc_daemon.operations.review_lists import add_states, review_of
from qc_daemon.operations.searches import record_search
from qc_daemon.operations.shared import open_store, parse_moment
from qc_daemon.records.acquisition import identities
from qc_daemon.records.acquisition.acquisitions import ACQUISITION_KEYS, AcquisitionFilter
from qc_daemon.records.listings import ExamFilter, Window
from qc_daemon.records.results import findings, image_features, rejections, sites
from qc_daemon.records.results.findings import StoredFinding, best_of, rank
from qc_daemon.records.tables import IdentityKind
from qc_daemon.review.state import ReviewStatus
from qc_daemon.settings import Settings

FINDING_COLUMNS = (
    "source",
    "frame",
    "view",
    "view_probability",
    "verdict",
    "probability",
    "reasons",
    "not_met",
    "flags",
    "error",
)
"""The columns of a table of findings."""
GATE_COLUMNS = ("gate_image", "gate_text", "gate_spatial")
OPINION_COLUMNS = tuple(
    f"{role.replace('-', '_')}{suffix}" for role in ROLES for suffix in ("", "_probability")
)
"""Of each role the class that its part names, and its probability."""
SCORE_COLUMNS = (
    *(column for column in FINDING_COLUMNS if column not in ("reasons", "error")),
    *GATE_COLUMNS,
    "error_code",
    "error_message",
    "reasons",
    *OPINION_COLUMNS,
)
"""The columns of scored files as CSV."""
TABLE_COLUMNS = ("exam_id", "sop_instance_uid", *FINDING_COLUMNS[1:])
ACQUISITION_COLUMNS = ("acquisition", *ACQUISITION_KEYS[1:])
"""The key `acquisition` of a finding, a column each; the first says whether it was read."""
CSV_COLUMNS = (
    "exam_id",
    "patient_id",
    "accession_number",
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "revision",
    "superseded",
    "frame",
    "frames_scored",
    "best_frame",
    "region",
    "view",
    "view_probability",
    "verdict",
    "probability",
    "raw_probability",
    "bundle_probability",
    "site_calibration",
    "gate_image",
    "gate_text",
    "gate_spatial",
    "not_met",
    "flags",
    "error_code",
    "error_message",
    "calling_ae",
    "received",
    "created",
    "bundle",
    "bundle_version",
    "model_id",
    "reasons",
    "rejected",
    *ACQUISITION_COLUMNS,
    "finding_id",
    "review_state",
    "review_view",
    "review_verdict",
    "reviewed_by",
    "reviewed",
    *OPINION_COLUMNS,
)


@dataclass(frozen=True, slots=True)
class FindingFilter:
    """Which findings; None or empty: any.

    `person` and `device` are ids or names of `person list` and `device list`, also of one that is
    merged into another; `site` is an institution's name. With views or verdicts, what could not be
    scored is left out.
    """

    person: str | None = None
    device: str | None = None
    site: str | None = None
    views: Sequence[str] = ()
    verdicts: Sequence[str] = ()

    @property
    def asks_for_answers(self) -> bool:
        """Whether it depends on the models' answers which findings it has."""
        return bool(self.views or self.verdicts)

    def has(self, finding: Mapping[str, Any]) -> bool:
        """Whether a finding or error object has one of the views and one of the verdicts."""
        if "error" in finding:
            return not self.views and not self.verdicts
        return (not self.views or finding["view"]["code"] in self.views) and (
            not self.verdicts or finding["quality"]["label"] in self.verdicts
        )


_BATCH = 500
TO_READ_BLINDED = "to be read blinded"
_ANSWER_COLUMNS = (
    *("view", "view_probability", "probability", "reasons", "not_met", "flags"),
    *OPINION_COLUMNS,
)
ANY_FINDING = FindingFilter()


def parse_finding_filter(
    person: str | None,
    device: str | None,
    site: str | None,
    views: Sequence[str],
    verdicts: Sequence[str],
) -> FindingFilter:
    """The filter that options name. Raises UsageError for a view or verdict that there is not."""
    codes = [view.upper() for view in views]
    _require(codes, [each.value for each in View], "--view")
    _require(verdicts, QUALITY_LABELS, "--verdict")
    return FindingFilter(person, device, site, codes, verdicts)


def _require(values: Sequence[str], choices: Sequence[str], option: str) -> None:
    for value in values:
        if value not in choices:
            raise UsageError(f"{option} {value}: give one of {', '.join(choices)}")


def read_findings(
    settings: Settings,
    exam_filter: ExamFilter,
    window: Window,
    form: Literal["finding", "row"],
    *,
    all_frames: bool,
    all_revisions: bool,
    best_first: bool = False,
    finding_filter: FindingFilter = ANY_FINDING,
    with_image_features: bool = False,
    left_out: list[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Stored findings in order of arrival, one by one as they are read: finding objects with the
    keys of `provenance`, or rows of `CSV_COLUMNS`. At most `window.limit`. Of finding objects
    `with_image_features` adds the key `image_features`, where they are stored. `left_out`: see
    `iter_listed`.

    Raises QCError STORAGE for a person, device or site that there is not, UsageError for a name
    that several have.
    """
    record_search(settings, "findings", exam_filter)
    with open_store(settings).read() as session:
        listed = iter_listed(
            session,
            settings,
            exam_filter,
            window,
            form,
            all_frames=all_frames,
            all_revisions=all_revisions,
            best_first=best_first,
            finding_filter=finding_filter,
            left_out=left_out,
        )
        yield from add_image_features(session, listed) if with_image_features else listed


def add_image_features(
    session: Session, objects: Iterator[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The finding objects with the key `image_features`, where they are stored."""
    while batch := list(islice(objects, _BATCH)):
        ids = {each["finding_id"] for each in batch if "finding_id" in each}
        features_by_finding = image_features.of_findings(session, ids)
        for each in batch:
            features = features_by_finding.get(each.get("finding_id", 0))
            yield each if features is None else each | {"image_features": features.to_json()}


def iter_listed(
    session: Session,
    settings: Settings,
    exam_filter: ExamFilter,
    window: Window,
    form: Literal["finding", "row"],
    *,
    all_frames: bool,
    all_revisions: bool,
    best_first: bool = False,
    finding_filter: FindingFilter = ANY_FINDING,
    revision_ids: Collection[int] | None = None,
    left_out: list[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """As `read_findings`; `revision_ids`: only findings of these revisions, and no errors.

    Where views or verdicts are asked for, that a finding is listed is its answer: with `left_out`
    the numbers of those that wait for a blinded reading go there.
    """
    acquisition_filter = select_acquisitions(session, finding_filter)
    rejected = rejections.standing(session)
    count = 0
    every = findings.iter_findings(
        session,
        exam_filter,
        window,
        all_revisions=all_revisions,
        best_first=best_first,
        acquisition_filter=acquisition_filter,
        revision_ids=revision_ids,
    )
    for each, state, _ in add_states(session, settings, every):
        # Which frame is best does not depend on what is asked for.
        if not (all_frames or each.is_best):
            continue
        is_blinded = state is not None and state.is_blinded
        if left_out is not None and is_blinded and finding_filter.asks_for_answers:
            left_out.append(each.finding_id or 0)
            continue
        if not finding_filter.has(each.body):
            continue
        if window.limit is not None and count >= window.limit:
            return
        count += 1
        is_rejected = each.revision.sop_instance_uid in rejected
        review = None if state is None else review_of(state)
        if form == "finding":
            about = provenance(each) | {"rejected": is_rejected}
            yield each.body | about | ({} if review is None else {"review": review})
        else:
            columns = {} if review is None else _review_columns(review)
            yield stored_finding_row(each) | {"rejected": is_rejected} | columns


def _review_columns(review: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "review_state": review["state"],
        "review_view": review["view"],
        "review_verdict": review["outcome"],
        "reviewed_by": review["reader"],
        "reviewed": review["at"],
    }


def select_acquisitions(session: Session, finding_filter: FindingFilter) -> AcquisitionFilter:
    """The filter by person, device and site. Raises QCError STORAGE for one that there is not,
    UsageError for a name that several have."""
    if finding_filter.site is not None:
        _require_site(session, finding_filter.site)
    return AcquisitionFilter(
        persons=_members(session, IdentityKind.PERSON, finding_filter.person),
        devices=_members(session, IdentityKind.DEVICE, finding_filter.device),
        site=finding_filter.site,
    )


def _members(session: Session, kind: IdentityKind, value: str | None) -> frozenset[str] | None:
    """Everyone who counts as the one of this id or name; None for no value. Raises QCError STORAGE,
    UsageError."""
    if value is None:
        return None
    id = resolve_identity(session, kind, value)
    return frozenset(identities.members(session, kind, id) or ())


def _require_site(session: Session, site: str) -> None:
    """Raises QCError STORAGE where no image is of the site, with the sites that there are."""
    name, names = site_of(site), sites.names(session)
    if name in names or name == UNNAMED:
        return
    others = ", ".join(sorted(sites.written_name(session, each) for each in names))
    raise QCError(
        ErrorCode.STORAGE,
        f"there is no site {site.strip()}; "
        + (f"images are of: {others}" if others else "no image names one"),
    )


def provenance(stored: StoredFinding) -> dict[str, Any]:
    """Keys beside those of `Finding.to_json`; readers may do without them.

    `quarantine` is there only where the object was scored and no report has it: the reason.
    `imported` only where the finding came from a file.
    """
    keys: dict[str, Any] = {
        "exam_id": stored.exam_id,
        "calling_ae": stored.revision.calling_ae,
        "received": stored.revision.received_at.isoformat(timespec="seconds"),
        "superseded": stored.is_superseded,
        "best_frame": stored.is_best,
        "acquisition": stored.acquisition,
    }
    if stored.finding_id is not None:
        keys["finding_id"] = stored.finding_id
    if stored.quarantine is not None:
        keys["quarantine"] = asdict(stored.quarantine)
    if stored.is_imported:
        keys["imported"] = True
    return keys


def stored_finding_row(stored: StoredFinding) -> dict[str, Any]:
    """The CSV row of a stored finding, one value a key; identifiers are those of its revision."""
    body, facts = stored.body, stored.revision
    row = finding_row(body) | {
        "exam_id": stored.exam_id,
        "patient_id": stored.patient_id,
        "accession_number": stored.accession_number,
        "study_instance_uid": facts.study_instance_uid,
        "series_instance_uid": facts.series_instance_uid,
        "sop_instance_uid": facts.sop_instance_uid,
        "revision": facts.number,
        "superseded": stored.is_superseded,
        "calling_ae": facts.calling_ae,
        "received": facts.received_at.isoformat(timespec="seconds"),
        **_acquisition_columns(stored.acquisition),
    }
    if "error" in body:
        return row
    if stored.quarantine is not None:
        row |= _error_columns(stored.quarantine.code, stored.quarantine.message)
    return row | {
        "frames_scored": stored.frames,
        "best_frame": stored.is_best,
        "finding_id": stored.finding_id,
        "region": body["region"]["index"],
        "raw_probability": body["quality"]["raw_probability"],
        # Findings of earlier versions say nothing of a site.
        "bundle_probability": (body.get("site") or {}).get("bundle_probability"),
        "site_calibration": (body.get("site") or {}).get("kind"),
        "created": body["created"],
        "bundle": body["bundle"]["name"],
        "bundle_version": body["bundle"]["version"],
        "model_id": body["bundle"]["model_id"],
    }


def _opinion_columns(body: Mapping[str, Any]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for opinion in body.get("opinions", ()):
        name = opinion["role"].replace("-", "_")
        columns[name] = None if opinion["reason"] else opinion["class"]
        columns[f"{name}_probability"] = _round(opinion["probability"])
    return columns


def _acquisition_columns(acquisition: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(ACQUISITION_COLUMNS, acquisition.values(), strict=True))


def select_frames(scored: Iterable[dict[str, Any]], all_frames: bool) -> Iterator[dict[str, Any]]:
    """Finding and error objects file by file, the best frame of each first, and of a cine only the
    best of each view unless `all_frames`."""
    for _, group in groupby(scored, key=lambda finding: finding["source"]):
        objects = list(group)
        file_findings = [finding for finding in objects if "error" not in finding]
        best_positions = best_of(file_findings)
        selection = [
            each
            for position, each in enumerate(file_findings)
            if all_frames or position in best_positions
        ]
        yield from sorted(selection, key=rank, reverse=True)
        yield from (finding for finding in objects if "error" in finding)


def finding_row(finding: Mapping[str, Any]) -> dict[str, Any]:
    """One row of a table or CSV, one value a key, from a finding or an error object."""
    row: dict[str, Any] = dict.fromkeys((*FINDING_COLUMNS, *SCORE_COLUMNS))
    row["source"] = finding["source"] or finding["sop_instance_uid"]
    if "error" in finding:
        error = finding["error"]
        columns = _error_columns(error["code"], error["message"])
        return row | {"frame": finding.get("frame"), "verdict": "not scored"} | columns
    return row | {
        "frame": finding["frame"],
        "view": finding["view"]["code"],
        "view_probability": _round(finding["view"]["probability"]),
        "verdict": finding["quality"]["label"],
        "probability": _round(finding["quality"]["probability"]),
        "gate_image": _round(finding["gates"]["image"]),
        "gate_text": _round(finding["gates"]["text"]),
        "gate_spatial": _round(finding["gates"]["spatial"]),
        # Findings of earlier versions have none.
        "reasons": [reason["words"] for reason in finding.get("reasons", ())],
        "not_met": [
            criterion["code"].removeprefix("CRIT-")
            for criterion in finding["criteria"]
            if criterion["met"] is False
        ],
        "flags": list(finding["flags"]),
        **_opinion_columns(finding),
    }


def table_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as a table has room for: of each reason what is wrong, not what to do about it; and
    with the verdict whether a person rejected the image, and what a person says of the finding.

    A table is what people look at: of a finding that waits for a blinded reading it has no answer.
    """
    if row.get("review_state") == ReviewStatus.SECOND_READING:
        row = {**row, **dict.fromkeys(_ANSWER_COLUMNS), "verdict": TO_READ_BLINDED}
    statements = [words.partition(": ")[0] for words in row["reasons"] or ()]
    verdict = f"{row['verdict']}, rejected" if row.get("rejected") else row["verdict"]
    if row.get("review_view") is not None:
        person = row["review_verdict"] or row["review_view"]
        verdict = f"{verdict}; {row['reviewed_by']}: {person}"
    view = row["view"]
    for role in ROLES:
        # With the view, which it is about; nothing where no part was asked.
        if view is not None and (name := row.get(role.replace("-", "_"))) is not None:
            view = f"{view}; {role}: {name}"
    return {**row, "view": view, "reasons": statements, "verdict": verdict}


def _error_columns(code: str, message: str) -> dict[str, str]:
    return {"error": f"{code}: {message}", "error_code": code, "error_message": message}


def _round(value: float | None) -> float | None:
    return None if value is None else float(decimals(value))


def stored_findings(
    settings: Settings, study: str | None, since: str | None
) -> list[dict[str, Any]]:
    """Finding and error objects of a study, or received since a moment (ISO 8601, UTC)."""
    moment = None if since is None else parse_moment(since, "--since")
    with open_store(settings).read() as session:
        return findings.query(session, study=study, since=moment)
