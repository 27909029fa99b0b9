"""Evaluate a bundle on phantoms of unseen seeds, on labelled pictures, and on real pictures of
other organs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import QCError
from detector.frame import Frame
from detector.imaging.reader import read_frames
from model.bundle.bundle import Bundle
from model.finding import STANDARD
from model.judge import Judge
from training.data.other_organs import split_by_vendor
from training.data.samples import Sample
from training.evaluation.predict import assign_styles, judge_pictures, load_pictures, make_phantoms
from training.evaluation.report import headline_metrics
from training.evaluation.summary import WORST, evaluate, to_plain

PHANTOMS = "phantoms"
OTHER_ORGANS = "other ultrasound, judging half"


def evaluate_bundle(
    bundle: str,
    count: int,
    seed: int,
    dicom: Path | None,
    *,
    labelled: Sequence[Sample] = (),
    ablation: bool = False,
    augment: int = 0,
    worst: int = WORST,
) -> dict[str, Any]:
    """Figures of the bundle as plain values, with 95 % intervals by bootstrap of groups.

    "sets" has those of `count` phantoms of the seeds from `seed` on, and of each source of the
    labelled pictures, and of all these where there are more than one.
    """
    judge = Judge.open(Bundle.open(bundle), augment=augment)
    sets: dict[str, Any] = {}
    figures: dict[str, Any] = {
        "bundle": judge.bundle_id.name,
        "version": judge.bundle_id.version,
        "model id": judge.bundle_id.model_id,
        "further looks at each region": augment,
        "sets": sets,
    }
    if count:
        sets[PHANTOMS] = evaluate_phantoms(judge, count, seed, ablation=ablation, worst=worst)
    if labelled:
        samples, separation = assign_styles(judge_pictures(judge, load_pictures(labelled)))
        figures["looks"] = {"silhouette": separation}
        sources = sorted({sample.source for sample in samples})
        if len(sources) > 1:
            sets["all labelled pictures"] = evaluate(samples, ablation=ablation, worst=worst)
        for source in sources:
            own = [sample for sample in samples if sample.source == source]
            sets[source] = evaluate(own, ablation=ablation, worst=worst)
    if dicom is not None:
        figures[OTHER_ORGANS] = evaluate_other_organs(judge, split_by_vendor(dicom)[1])
    return dict(to_plain(figures))


def evaluate_phantoms(
    judge: Judge, count: int, seed: int, *, ablation: bool = False, worst: int = WORST
) -> dict[str, Any]:
    """The figures of `summary.evaluate` on `count` phantoms of the seeds from `seed` on."""
    return evaluate(
        judge_pictures(judge, make_phantoms(count, seed)), ablation=ablation, worst=worst
    )


def evaluate_other_organs(judge: Judge, files: list[Path]) -> dict[str, Any]:
    """How the frames of files that show none of the views are judged.

    Files that no decoder reads are named on standard error; raises UsageError where none is read.
    """
    judgements = [j for path in files for frame in _read_frames(path) for j in judge.judge(frame)]
    if not judgements:
        raise UsageError(f"none of {len(files)} files of other ultrasound can be judged")
    is_safe = [j.view is View.OTHER or j.quality == "review" for j in judgements]
    return {
        "files": len(files),
        "regions judged": len(judgements),
        "OTHER or review": float(np.mean(is_safe)),
        "standard": sum(j.quality == STANDARD for j in judgements),
    }


def _read_frames(path: Path) -> Iterator[Frame]:
    try:
        yield from read_frames(path)
    except QCError as error:
        Console(stderr=True, markup=False, emoji=False).print(
            f"left out: {path.name}: {error.message}", soft_wrap=True
        )


def print_table(figures: dict[str, Any]) -> None:
    """The headline figures as a table on standard output."""
    # Names of sets and bundles are the user's own: as Text they are never taken for markup.
    table = Table(title=Text(f"bundle {figures['bundle']} {figures['version']}"))
    table.add_column("figure")
    table.add_column("value")
    for name, metrics in figures["sets"].items():
        table.add_section()
        table.add_row(Text(name, "bold"), f"{metrics['pictures']} pictures")
        for figure, value in headline_metrics(metrics).items():
            table.add_row(figure, _format(value))
        for part, quality in metrics.get("ablation", {}).items():
            table.add_row(f"AUROC, {part}", _format(quality["AUROC"]))
        for label, precision in metrics.get("detector", {}).get("ap50", {}).items():
            table.add_row(f"AP50 {label}", _format(precision))
    if OTHER_ORGANS in figures:
        table.add_section()
        table.add_row(Text(OTHER_ORGANS, "bold"), "")
        for figure, value in figures[OTHER_ORGANS].items():
            table.add_row(figure, _format(value))
    console = Console(width=120, markup=False, emoji=False)
    console.print(table)
    console.print(
        "Intervals are by bootstrap of whole groups. Those of ECE lie high, and may lie beside the"
        " figure: resampling adds to that error."
    )


def _format(value: Any) -> str:
    if isinstance(value, dict):
        low, high = value["interval"]
        interval = "" if low is None else f" (95 % interval {low:.4f} to {high:.4f})"
        return _format(value["value"]) + interval
    if value is None:
        return "undefined"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
