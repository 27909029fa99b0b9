"""Compares what judges say of the same pictures: whether a faster one may replace another."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from detector.frame import Frame
from model.finding import Judgement
from model.judge import Judge
from model.runtime.precision import BFLOAT16, OPENVINO, PrecisionRecord


def measure_agreement(
    exact: Sequence[Sequence[Judgement]],
    fast: Judge,
    frames: Iterable[Frame],
    *,
    version: str,
    parts: tuple[str, ...],
    cpu_flag: str,
    after_each: Callable[[], None] = lambda: None,
) -> PrecisionRecord:
    """What the fast judge, with these parts in bfloat16 by openvino of this version, changes of the
    exact judgements of each frame. A picture is one region of a frame; `after_each` runs after each
    frame.

    Raises ValueError without pictures.
    """
    changes: list[float] = []
    of_scanners: list[float] = []
    simulated = verdicts = views = 0
    for judgements, frame in zip(exact, frames, strict=True):
        for first, second in zip(judgements, fast.judge(frame), strict=True):
            change = probability_change(first, second)
            changes.append(change)
            if frame.simulated:
                simulated += 1
            else:
                of_scanners.append(change)
            has_other_view = first.view is not second.view
            views += has_other_view
            verdicts += has_other_view or first.quality != second.quality
        after_each()
    if not changes:
        raise ValueError("no pictures to compare")
    return PrecisionRecord(
        runtime=OPENVINO,
        version=version,
        precision=BFLOAT16,
        parts=parts,
        cpu_flag=cpu_flag,
        pictures=len(changes),
        simulated=simulated,
        probability_change_p95=float(np.percentile(of_scanners or changes, 95)),
        probability_change_max=max(changes),
        verdict_changes=verdicts,
        view_changes=views,
    )


def probability_change(first: Judgement, second: Judgement) -> float:
    """By how much P(standard) differs; 1 where only one of them has any."""
    if first.probability is None or second.probability is None:
        return float(first.probability is not second.probability)
    return abs(first.probability - second.probability)
