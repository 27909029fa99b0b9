"""Back-off, and what a failure makes of a job."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import FailureClass
from qc_daemon.records.queue.retry import RetryPolicy, backoff, decide_retry
from qc_daemon.records.tables import JobState
from qc_daemon.settings import JobSettings

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
POLICY = RetryPolicy(max_attempts=3, backoff_seconds=10.0)


def test_policy_is_read_from_settings() -> None:
    assert RetryPolicy.of(JobSettings()) == RetryPolicy()


@given(
    attempt=st.integers(1, 10**9),
    # No seconds so small that half of them is none.
    base=st.floats(0, 1e6).map(lambda seconds: round(seconds, 6)),
    cap=st.floats(0, 1e6).map(lambda seconds: round(seconds, 6)),
    u=st.floats(0, 1, exclude_max=True),
)
def test_back_off_stays_between_half_and_all_of_a_doubling_capped_wait(
    attempt: int, base: float, cap: float, u: float
) -> None:
    policy = RetryPolicy(backoff_seconds=base, backoff_cap_seconds=cap)
    wait = backoff(attempt, policy, u)
    full = backoff(attempt, policy, 0) * 2
    assert 0 <= full / 2 <= wait <= full <= cap
    assert backoff(attempt + 1, policy, u) >= wait
    if attempt < 60 and base * 2 ** (attempt - 1) <= cap:
        assert full == pytest.approx(base * 2 ** (attempt - 1))


@pytest.mark.parametrize(
    ("failure_class", "attempts", "state", "attempts_after", "alarms_after"),
    [
        (FailureClass.RETRY, 0, JobState.READY, 1, 5),
        (FailureClass.RETRY, 2, JobState.DEAD, 3, 5),
        (FailureClass.ALARM, 2, JobState.READY, 2, 6),
        (FailureClass.QUARANTINE, 0, JobState.QUARANTINED, 1, 5),
    ],
)
def test_failure_class_decides_state_and_count(
    failure_class: FailureClass,
    attempts: int,
    state: JobState,
    attempts_after: int,
    alarms_after: int,
) -> None:
    decision = decide_retry(
        failure_class, NOW, POLICY, random.Random(1), attempts=attempts, alarms=5
    )
    assert decision.state is state
    assert (decision.attempts, decision.alarms) == (attempts_after, alarms_after)


def test_retry_waits_by_attempts_and_alarm_by_alarms() -> None:
    retried = decide_retry(FailureClass.RETRY, NOW, POLICY, random.Random(1), attempts=1, alarms=0)
    alarmed = decide_retry(FailureClass.ALARM, NOW, POLICY, random.Random(1), attempts=0, alarms=3)
    u = random.Random(1).random()
    assert retried.not_before == NOW + timedelta(seconds=backoff(2, POLICY, u))
    assert alarmed.not_before == NOW + timedelta(seconds=backoff(4, POLICY, u))
