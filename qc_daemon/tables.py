"""Findings and rows as a table, JSON lines or CSV on standard output."""

import csv
import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

_COLUMNS = (
    "source",
    "frame",
    "view",
    "label",
    "probability",
    "gates",
    "unmet",
    "flags",
)


def write_findings(findings: Iterable[dict[str, Any]], format: str) -> int:
    """Write them as they come; returns how many are errors."""
    failed = 0
    rows = []
    for finding in findings:
        failed += "error" in finding
        if format == "jsonl":
            print(json.dumps(finding), flush=True)
        else:
            rows.append(flat(finding))
    if format == "csv":
        writer = csv.DictWriter(sys.stdout, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    elif format == "table":
        write_rows("findings", rows)
    return failed


def flat(finding: dict[str, Any]) -> dict[str, Any]:
    """One row of a table, from a finding or an error object."""
    source = finding["source"] or finding["sop_instance_uid"]
    if "error" in finding:
        error = finding["error"]
        return dict.fromkeys(_COLUMNS, "") | {
            "source": source,
            "label": f"not scored: {error['code']}",
            "flags": error["message"],
        }
    quality, gates = finding["quality"], finding["gates"]
    probability = quality["probability"]
    return {
        "source": source,
        "frame": finding["frame"],
        "view": f"{finding['view']['code']} {finding['view']['probability']:.2f}",
        "label": quality["label"],
        "probability": "" if probability is None else f"{probability:.2f}",
        "gates": " ".join(f"{gates[name]:.2f}" for name in ("image", "text", "spatial")),
        "unmet": " ".join(
            c["code"].removeprefix("CRIT-") for c in finding["criteria"] if c["met"] is False
        ),
        "flags": " ".join(finding["flags"]),
    }


def write_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """A table of dictionaries that share their keys."""
    if not rows:
        print(f"no {title}")
        return
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    # Piped output keeps whole lines: a table cut at 80 columns would lose UIDs.
    Console(width=None if sys.stdout.isatty() else 240).print(table)
