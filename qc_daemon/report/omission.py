"""What a report leaves out, and why: no object of an exam may hold back the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from detector.errors import ErrorCode, FailureClass, QCError
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.report.source import SourceInstance

PATIENCE = 3
"""Tries of a report job that wait for an object which may come back, as from an archive that is
away; the next one goes without it."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Omission:
    """A received content that cannot be told of or drawn, and why."""

    facts: RevisionFacts
    error: QCError


def is_final(error: QCError, job: Job, *, are_others_sound: bool) -> bool:
    """Whether to go on without the object: waiting does not help, or has not helped.

    Where none of the exam's objects is sound the fault is no object's, as with a spool that is not
    mounted: that is waited for.
    """
    if error.failure_class is FailureClass.QUARANTINE:
        return True
    return are_others_sound and job.attempts + job.alarms >= PATIENCE


def check_identity(source: SourceInstance, facts: RevisionFacts) -> None:
    """Raises QCError REPORT_INVALID for a header that names another object or study than the one
    received, so that the report would refer to what is not there."""
    if facts.sop_instance_uid and source.sop_instance_uid.strip() != facts.sop_instance_uid:
        raise _invalid("the file's header names another object than was received")
    if facts.study_instance_uid and source.study_instance_uid.strip() != facts.study_instance_uid:
        raise _invalid("the file's header names another study than it was received in")


def find_faults(
    parts: Sequence[T], build: Callable[[Sequence[T]], object]
) -> list[tuple[T, QCError]]:
    """The parts that `build` refuses by themselves, with its error, by halving.

    Empty if it refuses none or only several together. One fault costs about two full builds.
    """
    try:
        build(parts)
    except QCError as error:
        if len(parts) == 1:
            return [(parts[0], error)]
        middle = len(parts) // 2
        return find_faults(parts[:middle], build) + find_faults(parts[middle:], build)
    return []


def _invalid(reason: str) -> QCError:
    return QCError(ErrorCode.REPORT_INVALID, reason)
