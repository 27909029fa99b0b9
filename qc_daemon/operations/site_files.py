"""Site calibration from files: findings as `score` or `results` wrote them, labels as a table."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import Flag
from detector.plain_text import count_of
from model.bundle.bundle import read_manifest, read_model_id
from model.finding import NON_STANDARD, STANDARD, BundleId, utc
from model.site.calibrate import SiteQuestion, calibrate_site
from model.site.names import UNNAMED, site_of
from model.site.promise import Tolerance
from model.site.record import SiteRecord
from model.site.reference import Reference
from model.site.samples import SiteSample, log_odds_of
from qc_daemon.operations.shared import parse_moment
from qc_daemon.records.clock import Clock, utc_now

LABELS = {STANDARD: True, NON_STANDARD: False}
_LEFT_OUT = {Flag.NO_REAL_EVIDENCE.value, Flag.NOT_ULTRASOUND.value}
_MAX_LINE = 16 << 20


@dataclass(frozen=True, slots=True)
class Choice:
    """Which findings count: of a view, of a device, made or received since a moment (UTC)."""

    view: View | None = None
    device: str | None = None
    since: datetime | None = None


def parse_choice(view: str | None, device: str | None, since: str | None) -> Choice:
    """The choice that the options name. Raises UsageError."""
    try:
        parsed_view = None if view is None else View(view.upper())
    except ValueError:
        parsed_view = View.OTHER
    if parsed_view is View.OTHER:
        views = ", ".join(each for each in View if each is not View.OTHER)
        raise UsageError(f"--view {view}: give one of {views}")
    return Choice(parsed_view, device, None if since is None else parse_moment(since, "--since"))


def make_question(
    bundle: str,
    site: str,
    choice: Choice,
    tolerance: Tolerance,
    clock: Clock = utc_now,
) -> SiteQuestion:
    """What is calibrated, with the bundle's own thresholds and reference. Raises QCError or
    UsageError on a bundle that cannot be read."""
    manifest = read_manifest(bundle)
    low, high = manifest["thresholds"]["review"]
    try:
        reference = Reference.from_manifest(manifest)
    except ValueError as error:
        raise UsageError(f"bundle {bundle}: {error}; build it again") from error
    return SiteQuestion(
        site=site,
        bundle=BundleId(manifest["name"], manifest["version"], read_model_id(bundle)),
        review=(float(low), float(high)),
        reference=reference,
        created=utc(clock()),
        version=version("qc-daemon"),
        view=choice.view,
        device=choice.device,
        tolerance=tolerance,
    )


def parse_tolerance(standard: float, non_standard: float, confidence: float) -> Tolerance:
    """Raises UsageError on what cannot be promised."""
    try:
        return Tolerance(standard, non_standard, confidence)
    except ValueError as error:
        raise UsageError(str(error)) from None


def fit_files(
    findings: Path,
    labels: Path | None,
    bundle: str,
    site: str | None,
    choice: Choice,
    tolerance: Tolerance,
    clock: Clock = utc_now,
    warn: Callable[[str], None] = lambda _: None,
) -> SiteRecord:
    """The calibration that a file of findings, with labels if there are, makes; `warn` gets a line
    on labels that match no finding of the file.

    Raises UsageError on files that are none, findings of another bundle, labels that match none.
    """
    # A file may hold a picture's finding more than once, as when it was scored again: the last one.
    every = {_key(body): body for body in read_findings(findings) if not body.get("superseded")}
    bodies = [body for body in every.values() if _is_chosen(body, choice)]
    if not bodies:
        raise UsageError(f"{findings}: no findings with a probability that match")
    question = make_question(bundle, _site_name(site, bodies), choice, tolerance, clock)
    others = {body["bundle"]["model_id"] for body in bodies} - {question.bundle.model_id}
    if others:
        raise UsageError(
            f"{findings}: findings of another bundle ({sorted(others)[0][:12]}) than"
            f" {question.bundle.name}: name theirs with --bundle, or score the files again"
        )
    answers = {} if labels is None else read_labels(labels)
    if labels is not None:
        _check_labels(labels, answers, bodies)
        unmatched = _unmatched(answers, every.values())
        if unmatched:
            warn(_describe_unmatched(unmatched, len(answers)))
    rows = [
        make_sample(
            body,
            key=_key(body),
            exam=body["study_instance_uid"] or body["source"] or name_of(body),
            device=(body.get("acquisition") or {}).get("device_id"),
            is_standard=label_of(body, answers),
        )
        for body in bodies
    ]
    return calibrate_site(rows, question)


def make_sample(
    body: Mapping[str, Any],
    *,
    key: str,
    exam: object,
    device: str | None = None,
    is_standard: bool | None = None,
    weight: float = 1.0,
) -> SiteSample:
    """The sample of a finding's JSON object that `has_evidence`: by the bundle's own
    probability, also where a site's stands in its place."""
    site = body.get("site") or {}
    own = site.get("bundle_probability")
    probability = body["quality"]["probability"] if own is None else own
    return SiteSample(
        key,
        log_odds_of(float(probability)),
        str(exam),
        View(body["view"]["code"]),
        device,
        is_standard,
        weight,
    )


def has_evidence(body: Mapping[str, Any]) -> bool:
    """Whether a finding or error object has a probability that a site can be calibrated on."""
    return (
        "error" not in body
        and body["quality"]["probability"] is not None
        and not _LEFT_OUT.intersection(body["flags"])
    )


def read_findings(path: Path) -> Iterator[dict[str, Any]]:
    """The finding objects of a file, one a line; errors of files are left out. Raises UsageError
    naming the line."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    body = _parse_finding(path, number, line)
                    if has_evidence(body):
                        yield body
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read; give what score --format jsonl wrote") from error


def _parse_finding(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        body = json.loads(line[:_MAX_LINE])
        if "error" not in body:
            probability = body["quality"]["probability"]
            if probability is not None and not 0 <= float(probability) <= 1:
                raise ValueError("a probability outside 0..1")
            View(body["view"]["code"])
            _ = body["bundle"]["model_id"], body["region"]["index"], body["frame"], body["flags"]
            _ = body["study_instance_uid"], body["source"], body["sop_instance_uid"]
        if not isinstance(body, dict):
            raise TypeError("no object")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path}: line {number} is no finding; give what score --format jsonl wrote"
        ) from error
    return body


LabelKey = tuple[str, int | None]
"""Source or SOP Instance UID, and frame; None: every frame."""
Answers = Mapping[LabelKey, bool]
"""Labels of pictures: whether each is standard."""


def read_labels(path: Path) -> dict[LabelKey, bool]:
    """Labels by source or SOP instance and frame (None: every frame) of a CSV file.

    Columns: `source` or `sop_instance_uid`, `label` (standard or non-standard), and `frame` where
    there are several. Raises UsageError naming the line.
    """
    answers: dict[LabelKey, bool] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            # Spreadsheets of some countries separate by semicolons.
            delimiter = max(",;\t", key=header.count)
            names = next(csv.reader([header], delimiter=delimiter), [])
            names = [name.strip().lower() for name in names]
            reader = csv.DictReader(file, names, delimiter=delimiter)
            columns = set(names)
            if "label" not in columns or not columns & {"source", "sop_instance_uid"}:
                raise UsageError(
                    f"{path}: give the columns source or sop_instance_uid, frame, and label"
                )
            for row in reader:
                _add_label(answers, row, f"{path}: line {reader.line_num + 1}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as CSV in UTF-8") from error
    return answers


def _add_label(answers: dict[LabelKey, bool], row: Mapping[str, str | None], at: str) -> None:
    names = [(row.get(column) or "").strip() for column in ("source", "sop_instance_uid")]
    name = next((each for each in names if each), None)
    label = (row.get("label") or "").strip().lower()
    if name is None:
        raise UsageError(f"{at}: no source and no sop_instance_uid; give one of them")
    if not label:
        return
    if label not in LABELS:
        raise UsageError(
            f"{at}: label {label!r}; give {STANDARD} or {NON_STANDARD}, or leave it empty"
        )
    text = (row.get("frame") or "").strip()
    try:
        # Spreadsheets may write 1.0 for 1.
        frame = int(text.removesuffix(".0")) if text else None
    except ValueError:
        raise UsageError(f"{at}: frame {text!r} is no number") from None
    if answers.setdefault((name, frame), LABELS[label]) != LABELS[label]:
        raise UsageError(f"{at}: another label than before for the same picture; keep one")


def label_of(body: Mapping[str, Any], answers: Answers) -> bool | None:
    """The finding's label, None if there is none: by its source, else its SOP instance; of its
    frame, else of every frame."""
    return next((answers[key] for key in _label_keys(body) if key in answers), None)


def _label_keys(body: Mapping[str, Any]) -> list[LabelKey]:
    names = (body["source"], body["sop_instance_uid"])
    return [(name, frame) for name in names if name for frame in (body["frame"], None)]


def _unmatched(answers: Answers, bodies: Iterable[Mapping[str, Any]]) -> list[LabelKey]:
    """The labels that are of none of these findings."""
    keys = {key for body in bodies for key in _label_keys(body)}
    return [key for key in answers if key not in keys]


_NAMED = 3


def _describe_unmatched(unmatched: Sequence[LabelKey], labels: int) -> str:
    named = [
        name if frame is None else f"{name} frame {frame}" for name, frame in unmatched[:_NAMED]
    ]
    more = [f"and {len(unmatched) - _NAMED} more"] if len(unmatched) > _NAMED else []
    return (
        f"left out, for they match no finding with a probability: {len(unmatched)} of"
        f" {count_of(labels, 'label')} ({', '.join([*named, *more])}); source, or"
        " sop_instance_uid, and frame must be as in the findings"
    )


def _check_labels(
    path: Path,
    answers: Answers,
    bodies: Sequence[Mapping[str, Any]],
) -> None:
    if not answers:
        raise UsageError(f"{path}: no labels; fill the column label in")
    if all(label_of(body, answers) is None for body in bodies):
        raise UsageError(
            f"{path}: no label matches a finding; source, or sop_instance_uid, and frame must be"
            " as in the findings"
        )


def _is_chosen(body: Mapping[str, Any], choice: Choice) -> bool:
    if choice.view is not None and body["view"]["code"] != choice.view:
        return False
    if choice.device is not None:
        acquisition = body.get("acquisition") or {}
        if acquisition.get("device_id") != choice.device:
            return False
    if choice.since is None:
        return True
    moment = body.get("received") or body.get("created")
    return bool(moment) and parse_moment(str(moment), "created") >= choice.since


def _site_name(site: str | None, bodies: Iterable[Mapping[str, Any]]) -> str:
    name = " ".join((site or "").split())
    return name or _site_of(bodies)


def _site_of(bodies: Iterable[Mapping[str, Any]]) -> str:
    """The one institution that the findings name, if they do, as the first one writes it."""
    written: dict[str, str] = {}
    for body in bodies:
        name = (body.get("acquisition") or {}).get("site")
        if name is not None:
            written.setdefault(site_of(name), name)
    if len(written) > 1:
        raise UsageError("the findings are of several sites: name one with --site")
    return next(iter(written.values()), UNNAMED)


def _key(body: Mapping[str, Any]) -> str:
    return f"{name_of(body)}#{body['frame']}#{body['region']['index']}"


def name_of(body: Mapping[str, Any]) -> str:
    """What a finding is of: the path it was read from, else its SOP Instance UID."""
    return str(body["source"] or body["sop_instance_uid"])
