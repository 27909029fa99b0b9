"""From frames to findings: judges each frame and adds its identifiers and flags."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from detector.errors import Flag
from detector.frame import Frame
from detector.imaging.reader import BadFrame
from model.finding import Finding, Judgement, UnreadableFrame, utc
from model.judge import Judge
from model.site.use import SiteUse
from qc_daemon.records.clock import Clock, utc_now


def judge_frames(
    frames: Iterable[Frame],
    judge: Judge,
    *,
    revision: int = 1,
    source: str | None = None,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    flags: tuple[Flag, ...] = (),
    bad_frames: Sequence[BadFrame] = (),
    after_each: Callable[[], None] = lambda: None,
    clock: Clock = utc_now,
    site: SiteUse | None = None,
) -> list[Finding]:
    """One finding per frame and tissue region; `after_each` runs after each frame (leases).

    `bad_frames`, which cannot be judged, are named in each finding of their object. `site`: whose
    calibration gives the probabilities.
    """
    findings = []
    if bad_frames:
        flags = (*flags, Flag.UNREADABLE_FRAMES)
    unreadable = tuple(
        UnreadableFrame(each.number, each.code.value, each.message) for each in bad_frames
    )
    for frame in frames:
        for judgement in judge.judge(frame, site):
            findings.append(
                Finding(
                    judgement=_add_flags(judgement, flags),
                    bundle=judge.bundle_id,
                    frame=frame.number,
                    revision=revision,
                    source=source,
                    study_instance_uid=study_instance_uid,
                    series_instance_uid=series_instance_uid,
                    sop_instance_uid=sop_instance_uid,
                    created=utc(clock()),
                    unreadable_frames=unreadable,
                    runtime=judge.inexact_runtime,
                )
            )
        after_each()
    return findings


def _add_flags(judgement: Judgement, flags: tuple[Flag, ...]) -> Judgement:
    return replace(judgement, flags=judgement.flags + flags) if flags else judgement
