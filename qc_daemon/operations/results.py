"""Stored findings as rows for people, spreadsheets and programs."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import groupby
from typing import Any, Literal

from qc_daemon.operations.shared import open_store, parse_moment
from qc_daemon.records.listings import ExamFilter, Window
from qc_daemon.records.results import findings, rejections
from qc_daemon.records.results.findings import StoredFinding, best_of, rank
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
SCORE_COLUMNS = (
    *(column for column in FINDING_COLUMNS if column not in ("reasons", "error")),
    *GATE_COLUMNS,
    "error_code",
    "error_message",
    "reasons",
)
"""The columns of scored files as CSV."""
TABLE_COLUMNS = ("exam_id", "sop_instance_uid", *FINDING_COLUMNS[1:])
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
)


def read_findings(
    settings: Settings,
    exam_filter: ExamFilter,
    window: Window,
    form: Literal["finding", "row"],
    *,
    all_frames: bool,
    all_revisions: bool,
    best_first: bool = False,
) -> Iterator[dict[str, Any]]:
    """Stored findings in order of arrival, one by one as they are read: finding objects with the
    keys of `provenance`, or rows of `CSV_COLUMNS`. At most `window.limit`."""
    with open_store(settings).read() as session:
        rejected = rejections.standing(session)
        count = 0
        every = findings.iter_findings(
            session, exam_filter, window, all_revisions=all_revisions, best_first=best_first
        )
        for each in every:
            if not (all_frames or each.is_best):
                continue
            if window.limit is not None and count >= window.limit:
                return
            count += 1
            is_rejected = each.revision.sop_instance_uid in rejected
            if form == "finding":
                yield each.body | provenance(each) | {"rejected": is_rejected}
            else:
                yield stored_finding_row(each) | {"rejected": is_rejected}


def provenance(stored: StoredFinding) -> dict[str, Any]:
    """Keys beside those of `Finding.to_json`; readers may do without them.

    `quarantine` is there only where the object was scored and no report has it: the reason.
    """
    return {
        "exam_id": stored.exam_id,
        "calling_ae": stored.revision.calling_ae,
        "received": stored.revision.received_at.isoformat(timespec="seconds"),
        "superseded": stored.is_superseded,
        "best_frame": stored.is_best,
    } | ({} if stored.quarantine is None else {"quarantine": asdict(stored.quarantine)})


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
    }
    if "error" in body:
        return row
    if stored.quarantine is not None:
        row |= _error_columns(stored.quarantine.code, stored.quarantine.message)
    return row | {
        "frames_scored": stored.frames,
        "best_frame": stored.is_best,
        "region": body["region"]["index"],
        "raw_probability": body["quality"]["raw_probability"],
        "created": body["created"],
        "bundle": body["bundle"]["name"],
        "bundle_version": body["bundle"]["version"],
        "model_id": body["bundle"]["model_id"],
    }


def select_frames(scored: Iterable[dict[str, Any]], all_frames: bool) -> Iterator[dict[str, Any]]:
    """Finding and error objects file by file, the best frame of each first, and of a cine only the
    best of each view unless `all_frames`."""
    for _, group in groupby(scored, key=lambda finding: finding["source"]):
        objects = list(group)
        file_findings = [finding for finding in objects if "error" not in finding]
        best_positions = best_of(file_findings)
        chosen = [
            each
            for position, each in enumerate(file_findings)
            if all_frames or position in best_positions
        ]
        yield from sorted(chosen, key=rank, reverse=True)
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
    }


def table_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as a table has room for: of each reason what is wrong, not what to do about it; and
    with the verdict whether a person rejected the image."""
    statements = [words.partition(": ")[0] for words in row["reasons"] or ()]
    verdict = f"{row['verdict']}, rejected" if row.get("rejected") else row["verdict"]
    return {**row, "reasons": statements, "verdict": verdict}


def _error_columns(code: str, message: str) -> dict[str, str]:
    return {"error": f"{code}: {message}", "error_code": code, "error_message": message}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def stored_findings(
    settings: Settings, study: str | None, since: str | None
) -> list[dict[str, Any]]:
    """Finding and error objects of a study, or received since a moment (ISO 8601, UTC)."""
    moment = None if since is None else parse_moment(since, "--since")
    with open_store(settings).read() as session:
        return findings.query(session, study=study, since=moment)
