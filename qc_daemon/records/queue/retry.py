"""When a failed job is tried again, and when it is given up. Values only, no database.

    failure class   counted as   then
    RETRY           attempt      tried again after a back-off; dead once its attempts are used up
    ALARM           alarm        tried again after a back-off, without end
    QUARANTINE      attempt      quarantined at once

A worker's death is no answer about the job and waits for nothing: `jobs.claim` counts it.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from detector.errors import FailureClass
from qc_daemon.records.tables import JobState
from qc_daemon.settings import JobSettings


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast: seconds double from `backoff_seconds` up to the cap."""

    max_attempts: int = 15
    max_deaths: int = 3
    backoff_seconds: float = 30.0
    backoff_cap_seconds: float = 3600.0

    @classmethod
    def of(cls, settings: JobSettings) -> "RetryPolicy":
        """The policy that the settings ask for."""
        return cls(
            max_attempts=settings.max_attempts,
            max_deaths=settings.max_deaths,
            backoff_seconds=settings.backoff_seconds,
            backoff_cap_seconds=settings.backoff_cap_seconds,
        )


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What a job becomes after a failure: its state, its counts, and when it is due if ready."""

    state: JobState
    attempts: int
    alarms: int
    not_before: datetime


def backoff(attempt: int, policy: RetryPolicy, u: float) -> float:
    """Seconds to wait after the `attempt`-th failure (from 1), `u` uniform in [0, 1).

    The full wait doubles with each attempt up to the cap; jitter takes up to half of it away, so
    that jobs which failed together do not come back together.
    """
    # 2^64 first waits outlast any cap; larger exponents would only overflow.
    full = min(policy.backoff_cap_seconds, policy.backoff_seconds * 2.0 ** min(attempt - 1, 64))
    return full * (0.5 + 0.5 * u)


def next_try(failures: int, now: datetime, policy: RetryPolicy, rng: random.Random) -> datetime:
    """When to try again after so many failures of one kind, the latest at `now`."""
    return now + timedelta(seconds=backoff(failures, policy, rng.random()))


def decide_retry(
    failure_class: FailureClass,
    now: datetime,
    policy: RetryPolicy,
    rng: random.Random,
    *,
    attempts: int,
    alarms: int,
) -> RetryDecision:
    """What becomes of a job that failed at `now`; the counts are those before this failure."""
    match failure_class:
        case FailureClass.ALARM:
            due = next_try(alarms + 1, now, policy, rng)
            return RetryDecision(JobState.READY, attempts, alarms + 1, due)
        case FailureClass.QUARANTINE:
            return RetryDecision(JobState.QUARANTINED, attempts + 1, alarms, now)
        case FailureClass.RETRY:
            attempts += 1
            state = JobState.DEAD if attempts >= policy.max_attempts else JobState.READY
            return RetryDecision(state, attempts, alarms, next_try(attempts, now, policy, rng))
