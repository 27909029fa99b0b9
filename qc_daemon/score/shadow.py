"""Scores stored pictures again with another bundle, as the worker would; stores nothing.

An engine takes tasks and yields what came of each, in any order; an error that is not the picture's
own it raises. This one does them here, one
after the other; another one may spread them over processes or machines.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detector.errors import ErrorCode, FailureClass, QCError
from model.device import device_failure
from qc_daemon.records.received.revisions import Originals, RevisionFacts
from qc_daemon.records.store import Store
from qc_daemon.score.decode import DecodeProcess
from qc_daemon.score.sites import site_use
from qc_daemon.settings import Settings
from qc_daemon.spool.verification import content_hash

if TYPE_CHECKING:
    from model.judge import Judge


@dataclass(frozen=True, slots=True)
class ShadowTask:
    """Frames of a revision to score; `conditions` are what else the answer depends on."""

    facts: RevisionFacts
    institution: str | None
    frames: tuple[int, ...]
    conditions: str


@dataclass(frozen=True, slots=True)
class ShadowResult:
    """The findings (JSON objects) of a task, or why there are none."""

    task: ShadowTask
    findings: tuple[dict[str, Any], ...] = ()
    error: QCError | None = None


ShadowEngine = Callable[[Iterable[ShadowTask]], Iterator[ShadowResult]]


def is_of_the_picture(error: QCError) -> bool:
    """Whether only this picture cannot be scored; else the cause is ours, and others fail too."""
    return error.failure_class is FailureClass.QUARANTINE or error.code in (
        ErrorCode.SPOOL_MISSING,
        ErrorCode.SPOOL_DAMAGED,
    )


def score_here(
    store: Store, settings: Settings, judge: "Judge", originals: Originals
) -> ShadowEngine:
    """The engine of this process: decoding in a child, one picture at a time."""
    # Who only compares what is scored need not load the networks' libraries.
    from qc_daemon.score.findings import judge_frames

    def run(tasks: Iterable[ShadowTask]) -> Iterator[ShadowResult]:
        with DecodeProcess.of(settings.score) as decoder:
            for task in tasks:
                try:
                    yield ShadowResult(task, _score(task, decoder))
                except QCError as error:
                    if not is_of_the_picture(error):
                        raise
                    yield ShadowResult(task, error=error)

    def _score(task: ShadowTask, decoder: DecodeProcess) -> tuple[dict[str, Any], ...]:
        facts = task.facts
        path = originals(facts)
        site = site_use(
            store, settings.score, facts.revision_id, task.institution, judge.bundle_id.model_id
        )
        try:
            findings = judge_frames(
                decoder.frames(path, task.frames, content_hash(path, facts.sha256)),
                judge,
                revision=facts.number,
                study_instance_uid=facts.study_instance_uid,
                series_instance_uid=facts.series_instance_uid,
                sop_instance_uid=facts.sop_instance_uid,
                site=site,
            )
        except (RuntimeError, MemoryError) as error:
            failure = device_failure(error)
            if failure is None:
                raise
            raise failure from error
        return tuple(finding.to_json() for finding in findings)

    return run
