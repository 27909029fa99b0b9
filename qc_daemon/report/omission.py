"""Objects that a report omits, with the reason: one bad object must not delay the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from detector.errors import ErrorCode, FailureClass, QCError
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.report.source import SourceInstance

MAX_WAITING_TRIES = 3
"""A report job waits this many tries for an object that may come back, as from an archive that
cannot be reached; the next try omits the object."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Omission:
    """A received content that cannot be reported or drawn, with the error."""

    facts: RevisionFacts
    error: QCError


def is_final(error: QCError, job: Job, *, are_others_sound: bool) -> bool:
    """Whether to omit the object now, because waiting does not help or has not helped.

    Where none of the exam's objects is sound the fault lies elsewhere, as with a spool that is not
    mounted; then the job waits.
    """
    if error.failure_class is FailureClass.QUARANTINE:
        return True
    return are_others_sound and job.attempts + job.alarms >= MAX_WAITING_TRIES


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
