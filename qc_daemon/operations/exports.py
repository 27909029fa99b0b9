"""Findings, reviews and audits as rows for other programs, without a patient's identifiers.

Whoever needs patients' identifiers beside findings has `results`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.operations.audit_reports import ReportPeriod
from qc_daemon.operations.results import CSV_COLUMNS, read_findings
from qc_daemon.operations.shared import open_store
from qc_daemon.records.listings import ALL, ExamFilter, Window
from qc_daemon.records.results import audit_contents
from qc_daemon.settings import Settings

_PATIENT_COLUMNS = ("patient_id", "accession_number", "study_description")
FINDING_COLUMNS = tuple(column for column in CSV_COLUMNS if column not in _PATIENT_COLUMNS)
AUDIT_COLUMNS = (
    "date",
    "audit",
    "from",
    "to",
    "kind",
    "id",
    "measure",
    "view",
    "unit",
    "x",
    "n",
    "value",
    "low",
    "high",
    "judged",
    "target",
    "low_alarm",
    "low_warning",
    "high_warning",
    "high_alarm",
    "adjusted",
    "adjusted_low",
    "adjusted_high",
    "expected",
    "p",
    "q",
    "power",
    "flag",
    "rule",
    "criteria_version",
    "model_id",
)


def export_findings(
    settings: Settings, window: Window = ALL, *, as_rows: bool
) -> Iterator[dict[str, Any]]:
    """Current findings of all frames, received within the window: rows of FINDING_COLUMNS, else
    JSON objects. Free text of the study is left out of both."""
    form: Literal["row", "finding"] = "row" if as_rows else "finding"
    every = read_findings(
        settings, ExamFilter(), window, form, all_frames=True, all_revisions=False
    )
    for each in recorded(settings, "findings", every):
        if as_rows:
            yield {name: each.get(name) for name in FINDING_COLUMNS}
        else:
            acquisition = {**each["acquisition"]}
            acquisition.pop("study_description", None)
            yield each | {"acquisition": acquisition}


Row = TypeVar("Row")


def recorded(settings: Settings, what: str, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows; when they end, or break off, the audit log has that so many were exported."""
    count, is_whole = 0, False
    try:
        for row in rows:
            yield row
            count += 1
        is_whole = True
    finally:
        detail = {"what": what, "count": count}
        record(settings, AuditKind.EXPORTED, is_success=is_whole, detail=detail)


def export_audits(
    settings: Settings, period: ReportPeriod, *, as_rows: bool
) -> Iterator[dict[str, Any]]:
    """The audits of local dates within the period, oldest first: a row of AUDIT_COLUMNS for each
    measure of each subject, else each audit whole."""
    with open_store(settings).read() as session:
        audits = audit_contents.every_in(session, period.start, period.end)
        for body in recorded(settings, "audits", audits):
            if as_rows:
                yield from _rows(body)
            else:
                yield body


def _rows(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    window = body.get("window") or {}
    common = {
        "date": body["date"],
        "audit": body.get("audit"),
        "from": window.get("from"),
        "to": window.get("to"),
        "criteria_version": body.get("criteria_version"),
        "model_id": (body.get("bundle") or {}).get("model_id"),
    }
    for subject in body.get("subjects") or ():
        for measure in subject.get("measures") or ():
            limits, adjusted = measure.get("limits") or {}, measure.get("adjusted") or {}
            yield {
                **common,
                "kind": subject["kind"],
                "id": subject["id"],
                "measure": measure["name"],
                **{
                    name: measure.get(name)
                    for name in (
                        *("view", "unit", "x", "n", "value", "low", "high", "judged"),
                        *("power", "flag", "rule"),
                    )
                },
                **{
                    name: limits.get(name)
                    for name in (
                        *("target", "low_alarm", "low_warning"),
                        *("high_warning", "high_alarm"),
                    )
                },
                "adjusted": adjusted.get("value"),
                "adjusted_low": adjusted.get("low"),
                "adjusted_high": adjusted.get("high"),
                "expected": adjusted.get("expected"),
                "p": adjusted.get("p"),
                "q": adjusted.get("q"),
            }
