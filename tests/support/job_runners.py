"""Runners of one kind of job, put together as the roles do; models only where they score."""

import contextlib
from collections.abc import Iterator
from typing import Any

from qc_daemon.deliver.worker import DeliverHandler
from qc_daemon.job_runner import JobRunner
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings


def deliver_runner(
    store: Store, settings: Settings, owner: str = "test", *, clock: Clock = utc_now, **parts: Any
) -> JobRunner:
    """A runner of deliver jobs; `parts` as of `DeliverHandler`."""
    handler = DeliverHandler(store, settings, clock=clock, **parts)
    return JobRunner(store, [handler], owner, settings.jobs, role="deliver", clock=clock)


@contextlib.contextmanager
def score_runner(store: Store, settings: Settings) -> Iterator[JobRunner]:
    """A runner of score jobs, with its decoding child."""
    from qc_daemon.score.decode import DecodeProcess
    from qc_daemon.score.worker import ScoreHandler

    with contextlib.closing(DecodeProcess.of(settings.score)) as decoder:
        handler = ScoreHandler(store, settings, decoder)
        yield JobRunner(store, [handler], "work:test", settings.jobs, role="work")
