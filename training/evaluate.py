"""How good a bundle is: on phantoms of unseen seeds, and on other organs' real pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.metrics import roc_auc_score

from detector.codes import QCError
from detector.detection import Detection
from detector.frame import Frame, Region
from detector.letterbox import crop
from detector.reader import read_frames
from detector.vocabulary import BY_CODE, View
from model.bundle import Bundle
from model.calibration import bootstrap_interval, expected_calibration_error
from model.finding import STANDARD, Judgement
from model.judge import Judge
from training.metrics import score_detector
from training.phantom import Phantom, make
from training.us_dicom import halves


def evaluate_bundle(bundle: str, count: int, seed: int, dicom: Path | None) -> dict[str, Any]:
    """Figures of the bundle with 95 % intervals by bootstrap; also printed as a table."""
    judge = Judge.open(Bundle.open(bundle))
    figures: dict[str, Any] = {
        "bundle": judge.bundle_id.model_id,
        "phantoms": on_phantoms(judge, count, seed),
    }
    if dicom is not None:
        figures["other ultrasound, judging half"] = on_others(judge, halves(dicom)[1])
    show(figures)
    return figures


def on_phantoms(judge: Judge, count: int, seed: int) -> dict[str, Any]:
    """View accuracy, AUROC of P(standard), detector mAP50, calibration error over `count` phantoms
    of the seeds from `seed` on."""
    phantoms: list[Phantom] = []
    judgements: list[Judgement] = []
    found: list[tuple[Detection, ...]] = []
    for i in track(range(count), "judging phantoms", console=Console(stderr=True)):
        phantom = make(seed + i)
        region = Region(0, phantom.region, (phantom.spacing_mm, phantom.spacing_mm))
        frame = Frame(1, phantom.pixels, (region,))
        judgements += judge.judge(frame)
        found += judge.detector.detect([crop(frame, region).pixels], confidence=0.001)
        phantoms.append(phantom)

    standard = np.array([p.standard for p in phantoms])
    right_view = np.array([j.view is p.view for j, p in zip(judgements, phantoms, strict=True)])
    # A picture taken for OTHER has no probability: it counts as not standard, at chance.
    probability = np.array([0.5 if j.probability is None else j.probability for j in judgements])
    labels = np.array([j.quality for j in judgements])
    groups = [str(i) for i in range(count)]
    truths = [_in_region(phantom) for phantom in phantoms]
    everything = frozenset(BY_CODE)
    detector = score_detector(found, truths, [everything] * count)

    def auroc(rows: Any) -> float:
        if len(set(standard[rows])) < 2:
            return float("nan")
        return float(roc_auc_score(standard[rows], probability[rows]))

    def error(rows: Any) -> float:
        return expected_calibration_error(probability[rows], standard[rows])

    everyone = np.arange(count)
    decided = labels != "review"
    return {
        "count": count,
        "view accuracy": _figure(lambda rows: float(np.mean(right_view[rows])), groups),
        "AUROC standard": _figure(auroc, groups),
        "expected calibration error (10 equal-mass bins)": _figure(error, groups),
        "detector mAP50": {"value": detector.map50, "per label": detector.ap50},
        "review share": float(np.mean(~decided)),
        "accuracy of the decided": float(
            np.mean((labels == STANDARD)[decided] == standard[decided])
        ),
        "AUROC by view": {
            view.value: auroc(everyone[[p.view is view for p in phantoms]])
            for view in (View.HEAD, View.NT, View.CRL, View.ABDOMEN)
        },
        "missed by defect": _by_defect(phantoms, probability),
        "criteria": _criteria(phantoms, judgements),
    }


def on_others(judge: Judge, files: list[Path]) -> dict[str, Any]:
    """How the frames of files that show none of the views end."""
    ends = [j for path in files for frame in _frames(path) for j in judge.judge(frame)]
    safe = [j.view is View.OTHER or j.quality == "review" for j in ends]
    return {
        "files": len(files),
        "regions judged": len(ends),
        "OTHER or review": float(np.mean(safe)),
        "standard": sum(j.quality == STANDARD for j in ends),
    }


def _frames(path: Path) -> Iterator[Frame]:
    try:
        yield from read_frames(path)
    except QCError:
        return


def _in_region(phantom: Phantom) -> list[Detection]:
    """The truth in the pixels of the region's crop."""
    x, y = int(np.floor(phantom.region[0])), int(np.floor(phantom.region[1]))
    return [
        Detection(code, (b[0] - x, b[1] - y, b[2] - x, b[3] - y), 1.0) for code, b in phantom.boxes
    ]


def _figure(metric: Any, groups: list[str]) -> dict[str, Any]:
    low, high = bootstrap_interval(metric, groups)
    return {"value": metric(np.arange(len(groups))), "interval": [low, high]}


def _by_defect(phantoms: list[Phantom], probability: Any) -> dict[str, str]:
    """How many phantoms of each defect were given P(standard) of 0.5 or more."""
    counts: dict[str, list[bool]] = {}
    for phantom, p in zip(phantoms, probability, strict=True):
        for defect in phantom.defects:
            counts.setdefault(defect.value, []).append(p >= 0.5)
    return {name: f"{sum(missed)} of {len(missed)}" for name, missed in sorted(counts.items())}


def _criteria(phantoms: list[Phantom], judgements: list[Judgement]) -> dict[str, str]:
    """Per criterion: how many outcomes were right, wrong, and left open."""
    tally: dict[str, list[int]] = {}
    for phantom, judgement in zip(phantoms, judgements, strict=True):
        if judgement.view is not phantom.view:
            continue
        for criterion in judgement.criteria:
            right, wrong, open_ = tally.setdefault(criterion.code, [0, 0, 0])
            tally[criterion.code] = [
                right + (criterion.met is phantom.criteria[criterion.code]),
                wrong + (criterion.met is (not phantom.criteria[criterion.code])),
                open_ + (criterion.met is None),
            ]
    return {
        code: f"{right} right, {wrong} wrong, {open_} cannot tell"
        for code, (right, wrong, open_) in sorted(tally.items())
    }


def show(figures: dict[str, Any]) -> None:
    """The figures as a table on standard output."""
    table = Table(title=f"bundle {figures['bundle'][:12]}")
    table.add_column("figure")
    table.add_column("value")
    for group, values in figures.items():
        if not isinstance(values, dict):
            continue
        table.add_section()
        table.add_row(f"[bold]{group}[/bold]", "")
        for name, value in values.items():
            table.add_row(name, _shown(value))
    Console(width=120).print(table)


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "interval" in value:
        low, high = value["interval"]
        return f"{value['value']:.4f} (95 % interval {low:.4f} to {high:.4f})"
    if isinstance(value, dict):
        return "\n".join(f"{k}: {_shown(v)}" for k, v in value.items())
    return f"{value:.4f}" if isinstance(value, float) else str(value)
