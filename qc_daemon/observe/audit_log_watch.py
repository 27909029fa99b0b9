"""Whether this machine's audit log is as it was written, and how far its servers are."""

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qc_daemon.audit_trail import forwarding
from qc_daemon.audit_trail.chain import FormError, Link, read_head, read_link, segments
from qc_daemon.audit_trail.recorder import chain_folder
from qc_daemon.audit_trail.verification import verify
from qc_daemon.observe import log
from qc_daemon.settings import Settings

_CHECK_SECONDS = 3600.0
_FIRST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class AuditLogState:
    """The number of the last record, the problems of the last verification, and how many records
    wait for each server."""

    records: int = 0
    problems: int = 0
    waiting: Mapping[str, int] = field(default_factory=dict)


class AuditLogWatch:
    """Verifies the log now and then, in a thread of the supervisor."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._problems = 0

    def run(self, stop: threading.Event) -> None:
        """Check now and then until `stop`, for no more than a hundredth of the time."""
        wait = _FIRST_SECONDS
        while not stop.wait(wait):
            begun = time.monotonic()
            try:
                self.check()
            except OSError as error:
                log.get(role="supervisor").warning(
                    "audit log not verified", reason=(error.strerror or "error").lower()
                )
            wait = max(_CHECK_SECONDS, 100 * (time.monotonic() - begun))

    def check(self) -> None:
        """Verify what is here of the log; log where the answer changes. Raises OSError."""
        folder = chain_folder(self._settings)
        before, self._problems = self._problems, _count_problems(folder)
        if self._problems == before:
            return
        logger = log.get(role="supervisor")
        if self._problems:
            logger.error("audit log broken", path=str(folder), count=self._problems)
        else:
            logger.info("audit log whole", path=str(folder))

    def state(self) -> AuditLogState:
        """As of now; problems as of the last check, and a head that cannot be read at once."""
        folder = chain_folder(self._settings)
        records, problems = 0, self._problems
        try:
            head = read_head(folder)
            records = 0 if head is None else head.sequence
        except (FormError, OSError):
            problems = max(problems, 1)
        waiting = {}
        for server in self._settings.audit_log.server:
            with contextlib.suppress(OSError):
                state = forwarding.read_state(folder, server.name)
                if state is not None:
                    waiting[server.name] = state.waiting
        return AuditLogState(records, problems, waiting)


def _count_problems(folder: Path) -> int:
    """Problems of the chain from its first record here on: earlier files may be archived."""
    if not folder.is_dir():
        return 0
    after = _before_first(folder)
    # Writers wait only where a first look, which they may have come into, was not clean.
    if verify(folder, after=after, holds_writers=False).is_sound:
        return 0
    return len(verify(folder, after=after).problems)


def _before_first(folder: Path) -> Link | None:
    """The record before the first one that is here; None where that is the first of all."""
    for path in segments(folder)[:1]:
        with path.open("rb") as file, contextlib.suppress(FormError):
            first = read_link(file.readline().rstrip(b"\n"))
            if first.sequence > 1:
                return Link(first.sequence - 1, first.previous)
    return None
