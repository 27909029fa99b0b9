"""What the model card says of the data: each sentence from the counts of a bundle's manifest."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detector.anatomy import View
from training.data import fetal_planes, heads
from training.data.fetus_framework import DATASET
from training.data.samples import Origin

Row = Mapping[str, Any]
PARTS = {"detector": "detector", "spatialclip": "SpatialCLIP"}
_CITED = {
    heads.DATASET: "van den Heuvel et al. 2018, Zenodo 1327317: axial heads with the skull's"
    " ellipse; structures are boxed in some of the same heads",
    fetal_planes.DATASET: "Burgos-Artizzu et al. 2020, Zenodo 3904280: second- and third-trimester"
    " planes, of none of the views",
    DATASET: "Cui and Dong 2022, doi:10.17632/n2rbrb9t4f.1: one hospital; no machine, gestational"
    " age or patient is known, so that a picture counts as a patient but for near duplicates",
}


def is_counted(facts: Mapping[str, Any]) -> bool:
    """Whether the manifest counts its data; earlier ones do not."""
    return "data" in facts["training"].get("calibration", {})


def training_rows(facts: Mapping[str, Any], part: str) -> list[Row] | None:
    """What the part and what it began with learnt from; None where its run did not count."""
    run = facts["training"][part]
    own = run["training"].get("data")
    before = run.get("start data") if run.get("start") else []
    return None if own is None or before is None else [*own, *before]


def views_with_real_pictures(facts: Mapping[str, Any]) -> str:
    """The card's first sentence: which views have learnt from real pictures."""
    rows = [row for part in PARTS for row in training_rows(facts, part) or ()]
    if any(training_rows(facts, part) is None for part in PARTS):
        return "What its parts learnt from was not all recorded."
    real = _real(rows)
    views = [view for view in facts["views"] if any(row["view"] == view for row in real)]
    views = [view for view in views if view != View.OTHER]
    if not views:
        others = sum(
            row["standard"] + row["non-standard"] + row.get("unlabelled", 0) for row in real
        )
        more = f", and on {others} real pictures that show or name none of the views"
        return f"Trained on simulations{more if others else ''}."
    sets = {(row["dataset"], row["source"]) for row in real if row["view"] in views}
    datasets = {row["dataset"] or row["source"] for row in real if row["view"] in views}
    named = ", ".join(sorted(datasets))
    have = "has" if len(views) == 1 else "have"
    only = "Only " if len(views) < len(facts["views"]) - 1 else ""
    parts = "part" if len(sets) == 1 else "parts"
    return (
        f"{only}{', '.join(views)} {have} learnt from real pictures, of {len(sets)} {parts} of"
        f" {len(datasets)} data set{'s' * (len(datasets) > 1)} ({named})."
    )


def training_data(facts: Mapping[str, Any]) -> str:
    """The section: a table of all that was used, and what is known of named data sets."""
    calibration = facts["training"]["calibration"]
    tables: list[tuple[str, Sequence[Row] | None]] = []
    for part, name in PARTS.items():
        run = facts["training"][part]
        tables.append((f"{name}, learnt from", run["training"].get("data")))
        if run.get("start"):
            tables.append((f"{name}, began with a model of", run.get("start data")))
        validation = run.get("validation data", run["validation"].get("data"))
        tables.append((f"{name}, held out", validation))
    tables.append(("calibration", calibration["data"]))
    lines = [line for name, rows in tables for line in _lines(name, rows)]
    used = {row["dataset"] for _, rows in tables for row in rows or ()}
    cited = "".join(f"- {name}: {text}.\n" for name, text in _CITED.items() if name in used)
    files = calibration.get("other ultrasound files", 0)
    others = (
        f"- {files} files of other ultrasound, on which the outlier score was tried.\n"
        if files
        else ""
    )
    table = "\n".join(lines)
    columns = (
        *("part", "data set", "folder or split", "origin", "view", "standard", "non-standard"),
        *("no label", "groups", "hospitals"),
    )
    return f"""\
A group is what must not be divided: an exam, a patient, or a picture with what is made of it.
"hospitals" are those that the samples name.

| {" | ".join(columns)} |
|{"---|" * len(columns)}
{table}

{cited}{others}- The describer learns from sentences made for it, from no picture.
"""


def limits(facts: Mapping[str, Any]) -> str:
    """What the counts say must not be expected."""
    rows = [row for part in PARTS for row in training_rows(facts, part) or ()]
    text = ""
    for view in facts["views"]:
        real = [row for row in _real(rows) if row["view"] == view]
        if view == View.OTHER or not real:
            continue
        sets = sorted({row["dataset"] or row["source"] for row in real})
        hospitals = sum(row["hospitals"] for row in real)
        statement = "" if hospitals else ", of no named hospital"
        text += (
            f"- {view} has learnt from real pictures of {', '.join(sets)}{statement}."
            " Validate it on your own pictures before use.\n"
        )
    if {"CP1", "CP2"} & set(facts["vocabulary"]):
        text += "- Choroid plexuses are named by their side in the picture.\n"
    return text


def calibration_pictures(facts: Mapping[str, Any]) -> str:
    """The pictures that the calibration and its error are of; whether a part learnt from some."""
    rows = facts["training"]["calibration"]["data"]
    judged = [row for row in rows if row["view"] != View.OTHER]
    statement = f"Calibration pictures: {_origins(judged)}."
    if "cross_validation" in facts:
        real = facts["cross_validation"]["set 2"]["pictures"]
        statement += (
            f" Of the views that the cross-validation judged, its {real} real pictures stand in"
            " their place, as its networks judged them; the parts of this bundle learnt from most"
            " of these."
        )
    overlap = facts["training"]["calibration"].get("learnt from")
    if overlap is None:
        return statement + " Whether a part learnt from some of them was not recorded."
    return (
        statement
        + f" Of the pictures given to calibrate on, a part learnt from {overlap or 'none'}."
    )


def calibration_by_view(facts: Mapping[str, Any]) -> str:
    """The pictures that the probability is calibrated on, view by view."""
    rows = [r for r in facts["training"]["calibration"]["data"] if r["view"] != View.OTHER]
    by_view = {
        view: _origins([row for row in rows if row["view"] == view])
        for view in dict.fromkeys(row["view"] for row in rows)
    }
    if "cross_validation" in facts:
        real = facts["cross_validation"]["set 2"]
        for view in facts["real_views"]:
            by_view[view] = (
                f"{real['pictures']} real ({real['standard']} standard) as the cross-validation's"
                " networks judged them"
            )
    return "The probability is calibrated, by view, on " + "; ".join(
        f"{view}: {statement}" for view, statement in by_view.items()
    )


def boxed_quality(facts: Mapping[str, Any]) -> str:
    """What the held-out boxes cannot tell; empty where they can."""
    rows = facts["training"]["detector"]["validation"].get("data")
    if rows is None or any(row["boxed non-standard"] for row in _real(rows)):
        return ""
    if not _real(rows):
        return "No real picture was held out: how well structures are found in them is not known.\n"
    return """Only standard real pictures are boxed: how well structures are found in non-standard
ones is not known.
"""


def criteria_pictures(facts: Mapping[str, Any]) -> str:
    """Which pictures tell which criteria they meet."""
    rows = facts["training"]["calibration"].get("criteria data", ())
    return f"on the pictures that their thresholds were fitted on: {_origins(rows)}"


def _origins(rows: Iterable[Row]) -> str:
    """ "900 simulated (450 standard)" and the like, by origin."""
    parts = []
    of_all = list(rows)
    for origin in Origin:
        own = [row for row in of_all if row["origin"] == origin]
        standard = sum(row["standard"] for row in own)
        total = standard + sum(row["non-standard"] for row in own)
        if total:
            parts.append(f"{total} {origin} ({standard} standard)")
    return ", ".join(parts) or "none"


def _real(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["origin"] == Origin.REAL]


def _lines(name: str, rows: Sequence[Row] | None) -> list[str]:
    if rows is None:
        return [f"| {name} | not recorded: trained by an earlier version | | | | | | | | |"]
    return [
        f"| {name} | {row['dataset'] or 'not named'} | {row['source']} | {row['origin']}"
        f" | {row['view']} | {row['standard']} | {row['non-standard']} | {row.get('unlabelled', 0)}"
        f" | {row['groups']} | {row['hospitals'] or 'not named'} |"
        for row in rows
    ]
