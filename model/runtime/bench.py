"""Times a judge stage by stage, to compare runtimes on the pictures given to them in turn."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from detector.boxes import filter_by_confidence
from detector.frame import Frame
from detector.letterbox import crop
from model.criteria import checks
from model.describer.lexicon import NOTHING, Wording
from model.judge import Judge, likeliest_view
from model.spatialclip.network import VIEWS

DETECTOR, DESCRIBER, IMAGE_TOWER = "detector", "describer", "image tower"
SPATIALCLIP, CRITERIA, WHOLE = "SpatialCLIP", "criteria", "whole image"
STAGES = (DETECTOR, IMAGE_TOWER, SPATIALCLIP, DESCRIBER, CRITERIA, WHOLE)
"""What is timed; SpatialCLIP has the image tower in it, the whole image all of them and what lies
between."""

Timer = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Seconds:
    """Medians over the pictures: of the process's CPUs together, and by the clock."""

    cpu: float
    clock: float


def time_stages(
    judges: Mapping[str, Judge],
    frames: Sequence[Frame],
    rounds: int = 3,
    after_each: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Seconds]]:
    """The time of each stage by judge, for the first region of each frame.

    The judges see a frame one after the other, so that what else the machine does slows all alike.
    A first round, which is not counted, warms up. `after_each` runs after each frame of a round.
    """
    samples: dict[str, dict[str, list[Seconds]]] = {name: defaultdict(list) for name in judges}
    for number in range(rounds + 1):
        for frame in frames:
            for name, judge in judges.items():
                of_judge: dict[str, list[Seconds]] = samples[name] if number else defaultdict(list)
                run_stages(judge, frame, _timer(of_judge))
            after_each()
    return {
        name: {
            stage: Seconds(
                statistics.median(each.cpu for each in seconds),
                statistics.median(each.clock for each in seconds),
            )
            for stage, seconds in by_stage.items()
        }
        for name, by_stage in samples.items()
    }


@torch.inference_mode()
def run_stages(judge: Judge, frame: Frame, timed: Timer) -> None:
    """Run each stage alone on the first region of the frame, then all of them as a service does,
    each within `timed` of its name. What a stage gives is fetched from its device."""
    pixels = crop(frame, frame.regions[0]).pixels
    size = (pixels.shape[1], pixels.shape[0])
    with timed(DETECTOR):
        (boxes,) = judge.detector.detect([pixels])
    detections = filter_by_confidence(judge.thresholds.detection, boxes)
    layout = filter_by_confidence(judge.thresholds.layout, boxes)
    with timed(DESCRIBER):
        # As of a picture whose structures lie like no earlier one's.
        mentions = judge.describer.mentions_that_fit(detections, *size, Wording.GROUPED)
        words = judge.describer.write([mentions], Wording.GROUPED) if mentions else [NOTHING]
    with timed(SPATIALCLIP):
        inputs = judge.preprocessor.batch(
            [judge.preprocessor.letterbox(pixels)], words, [layout], [size]
        ).to(judge.spatialclip.device)
        arguments = inputs.arguments()
        views = judge.spatialclip(**arguments).view_logits.softmax(-1)[0].tolist()
    with timed(IMAGE_TOWER):
        judge.spatialclip.trimodal_clip.encode_image(arguments["pixel_values"]).cpu()
    view = likeliest_view(dict(zip(VIEWS, views, strict=True)))
    with timed(CRITERIA):
        checks.judge(view, detections, *size, pixels, judge.criteria_thresholds)
    with timed(WHOLE):
        judge.judge(frame)


def _timer(samples: dict[str, list[Seconds]]) -> Timer:
    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        cpu, clock = time.process_time(), time.perf_counter()
        yield
        samples[stage].append(Seconds(time.process_time() - cpu, time.perf_counter() - clock))

    return timed
