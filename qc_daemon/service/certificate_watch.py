"""Warns of a certificate that is about to expire."""

from datetime import datetime, timedelta
from pathlib import Path

from qc_daemon.dicom.certificates import WARN_BEFORE, earliest_expiry
from qc_daemon.observe import log
from qc_daemon.records.clock import Clock, utc_now

_CHECK_INTERVAL = timedelta(days=1)


class CertificateWatch:
    """Warns of a certificate that ends soon: at the first check, then once a day."""

    def __init__(self, path: Path, clock: Clock = utc_now) -> None:
        self.path = path
        self._clock = clock
        self._due: datetime | None = None

    def check(self) -> None:
        now = self._clock()
        if self._due is not None and now < self._due:
            return
        self._due = now + _CHECK_INTERVAL
        try:
            remaining = earliest_expiry(self.path) - now
        except (OSError, ValueError) as error:
            log.get().warning(
                "certificate not readable", path=str(self.path), error_type=type(error).__name__
            )
            return
        if remaining < WARN_BEFORE:
            event = (
                "certificate expires soon"
                if remaining > timedelta(0)
                else "certificate has expired"
            )
            log.get().warning(event, path=str(self.path), seconds=round(remaining.total_seconds()))
