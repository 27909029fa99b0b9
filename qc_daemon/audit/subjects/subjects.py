"""Subjects of the audit as JSON values: measures, flags, devices and examples of persons."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from qc_daemon.audit.measures import Frame, Kind
from qc_daemon.audit.rows import UNDECIDED, Rows
from qc_daemon.audit.statistics.benchmark import Bools, Ints
from qc_daemon.audit.statistics.history import rounded
from qc_daemon.audit.subjects.flags import flags_of, measure_order
from qc_daemon.audit.subjects.subject_measures import SubjectMeasures

EXAMPLES = 3


def subjects_of(
    measures: SubjectMeasures, of_devices: SubjectMeasures, frame: Frame, kind: Kind, window: Bools
) -> list[dict[str, Any]]:
    """Subjects of the kind in the order of their names; examples are ids of findings."""
    rows, names = frame.rows, frame.names(kind)
    column = {"person": rows.person, "device": rows.device, "site": rows.site}[kind]
    own = window & (column >= 0)
    findings = np.bincount(column[own], minlength=len(names))
    pairs = np.unique(np.stack((column[own], rows.exam[own])), axis=1)
    exams = np.bincount(pairs[0], minlength=len(names)) if pairs.size else findings
    subjects = []
    for subject, name in enumerate(names):
        of_subject = measures.by_subject.get(subject, {})
        listed = [of_subject[each] for each in sorted(of_subject, key=measure_order)]
        values: dict[str, Any] = {
            "kind": kind,
            "id": name,
            "findings": int(findings[subject]),
            "exams": int(exams[subject]),
            "assessable": any(each["judged"] for each in listed),
            "measures": listed,
            "flags": flags_of(of_subject),
        }
        if kind == "person":
            row_index = np.flatnonzero(window & (rows.person == subject))
            values["devices"] = _devices(row_index, of_devices, frame)
            values["examples"] = _examples(row_index, rows)
        subjects.append(values)
    return subjects


def _devices(row_index: Ints, of_devices: SubjectMeasures, frame: Frame) -> list[dict[str, Any]]:
    """A person's devices, with what each is like by itself: `effect` is the difference of its
    share from everybody's, other things being equal."""
    rows = frame.rows
    device = rows.device[row_index]
    is_decided = rows.is_view[row_index] & (rows.verdict[row_index] != UNDECIDED)
    total = int((device >= 0).sum())
    listed = []
    for each in np.unique(device[device >= 0]).tolist():
        own = is_decided & (device == each)
        measure = of_devices.by_subject.get(each, {}).get("standard", {})
        adjusted = measure.get("adjusted")
        x, n = int((rows.verdict[row_index[own]] == 1).sum()), int(own.sum())
        effect = None if adjusted is None else adjusted["value"] - adjusted["overall"]
        listed.append(
            {
                "id": rows.devices[each],
                "share": rounded(int((device == each).sum()) / total),
                "x": x,
                "n": n,
                "value": rounded(x / n) if n else None,
                "device_x": measure.get("x"),
                "device_n": measure.get("n"),
                "effect": rounded(effect),
            }
        )
    return listed


def _examples(row_index: Ints, rows: Rows) -> dict[str, list[int]]:
    """Findings to look at: the most and the least probably standard ones, of unlike views."""
    scored_rows = row_index[rows.is_view[row_index] & np.isfinite(rows.probability[row_index])]
    order = scored_rows[np.argsort(rows.probability[scored_rows], kind="stable")]
    good = [row for row in order[::-1].tolist() if rows.verdict[row] == 1]
    poor = [row for row in order.tolist() if rows.verdict[row] == 0]
    return {
        "good": _of_unlike_views(good, rows),
        "instructive": _of_unlike_views(poor, rows),
    }


def _of_unlike_views(ordered: Sequence[int], rows: Rows) -> list[int]:
    views, finding_ids = set[int](), list[int]()
    for row in ordered:
        if len(finding_ids) == EXAMPLES:
            break
        if int(rows.view[row]) not in views:
            views.add(int(rows.view[row]))
            finding_ids.append(int(rows.finding_id[row]))
    return finding_ids
