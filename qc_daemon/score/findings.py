"""From a file to its findings: choose frames, judge them, say where they come from."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from detector.codes import Flag
from detector.frame import Frame
from model.finding import Finding, Judgement, utc
from model.judge import Judge


def findings_of(
    frames: Iterable[Frame],
    judge: Judge,
    *,
    revision: int = 1,
    source: str | None = None,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    flags: tuple[Flag, ...] = (),
    after_each: Callable[[], None] = lambda: None,
) -> list[Finding]:
    """One finding per frame and tissue region; `after_each` runs after each frame (leases)."""
    findings = []
    for frame in frames:
        for judgement in judge.judge(frame):
            findings.append(
                Finding(
                    judgement=_flagged(judgement, flags),
                    bundle=judge.bundle_id,
                    frame=frame.number,
                    revision=revision,
                    source=source,
                    study_instance_uid=study_instance_uid,
                    series_instance_uid=series_instance_uid,
                    sop_instance_uid=sop_instance_uid,
                    created=utc(datetime.now(UTC)),
                )
            )
        after_each()
    return findings


def _flagged(judgement: Judgement, flags: tuple[Flag, ...]) -> Judgement:
    return replace(judgement, flags=judgement.flags + flags) if flags else judgement
