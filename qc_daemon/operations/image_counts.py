"""How many images persons and devices have, counted now and then for all who look.

To count goes over every image, which takes a second with a million of them. A list waits for that
once, after the start; later ones show the last counts, while newer ones are made.
"""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from detector.errors import QCError
from qc_daemon.operations.shared import open_store
from qc_daemon.records.acquisition import identities
from qc_daemon.records.acquisition.identities import ImageCount
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.tables import IdentityKind
from qc_daemon.settings import Settings

_FRESH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Counted:
    """The images of each person or device that has any, by id, and when they were counted."""

    images: Mapping[str, ImageCount]
    at: datetime


class ImageCounts:
    """The last counts; any thread may ask."""

    def __init__(self, settings: Settings, clock: Clock = utc_now) -> None:
        self._settings = settings
        self._clock = clock
        self._counted: dict[IdentityKind, Counted] = {}
        self._made_at: dict[IdentityKind, float] = {}
        self._locks = {kind: threading.Lock() for kind in IdentityKind}

    def of(self, kind: IdentityKind) -> Counted:
        """The last counts; they are made anew in the background once they are a minute old. Raises
        QCError where there are none yet and the database cannot be read."""
        if kind not in self._counted:
            with self._locks[kind]:
                if kind not in self._counted:
                    self._count(kind)
        elif time.monotonic() - self._made_at[kind] > _FRESH_SECONDS:
            self.renew(kind)
        return self._counted[kind]

    def renew(self, kind: IdentityKind) -> None:
        """Count in the background, unless somebody counts already."""
        if self._locks[kind].acquire(blocking=False):
            threading.Thread(
                target=self._renew, args=(kind,), name="image counts", daemon=True
            ).start()

    def _renew(self, kind: IdentityKind) -> None:
        try:
            # What cannot be counted now is counted when somebody asks again.
            with suppress(QCError):
                self._count(kind)
        finally:
            self._locks[kind].release()

    def _count(self, kind: IdentityKind) -> None:
        began, at = time.monotonic(), self._clock()
        with open_store(self._settings).read() as session:
            images = identities.count_images(session, kind)
        self._counted[kind] = Counted(images, at)
        self._made_at[kind] = began
