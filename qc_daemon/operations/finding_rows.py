"""Findings as rows of a table or CSV: one value a column."""

from collections.abc import Mapping
from typing import Any

FINDING_COLUMNS = (
    "source",
    "frame",
    "view",
    "view_probability",
    "verdict",
    "probability",
    "not_met",
    "flags",
    "error",
)
"""Of a table of findings."""
GATE_COLUMNS = ("gate_image", "gate_text", "gate_spatial")
SCORE_COLUMNS = (*FINDING_COLUMNS[:-1], *GATE_COLUMNS, "error_code", "error_message")
"""Of findings as CSV."""
GATES_HELP = (
    "Probability: that the view is a standard one. Gates (in CSV and JSON): how much the picture,"
    " its description and the layout of its structures (image, text, spatial) weighed in that; they"
    " sum to 1."
)


def flat(finding: Mapping[str, Any]) -> dict[str, Any]:
    """One row of a table or CSV, one value a key, from a finding or an error object."""
    row: dict[str, Any] = dict.fromkeys((*FINDING_COLUMNS, *SCORE_COLUMNS))
    row["source"] = finding["source"] or finding["sop_instance_uid"]
    if "error" in finding:
        error = finding["error"]
        return row | {
            "frame": finding.get("frame"),
            "verdict": "not scored",
            "error": f"{error['code']}: {error['message']}",
            "error_code": error["code"],
            "error_message": error["message"],
        }
    return row | {
        "frame": finding["frame"],
        "view": finding["view"]["code"],
        "view_probability": _rounded(finding["view"]["probability"]),
        "verdict": finding["quality"]["label"],
        "probability": _rounded(finding["quality"]["probability"]),
        "gate_image": _rounded(finding["gates"]["image"]),
        "gate_text": _rounded(finding["gates"]["text"]),
        "gate_spatial": _rounded(finding["gates"]["spatial"]),
        "not_met": [
            criterion["code"].removeprefix("CRIT-")
            for criterion in finding["criteria"]
            if criterion["met"] is False
        ],
        "flags": list(finding["flags"]),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
