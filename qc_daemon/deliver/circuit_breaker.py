"""What a process remembers of destinations: those not reachable now, those that break off at every
object or store none, those without commitment."""

import time
from collections import Counter
from collections.abc import Callable

from detector.errors import ErrorCode, QCError

# So many seconds after a failed connection a destination's other jobs fail at once, instead of each
# waiting for the same timeout, which would delay healthy destinations too.
_MIN_COOLDOWN, _MAX_COOLDOWN = 5.0, 60.0
# So many refusals in a row are no accident. Requests are tried again after an hour.
_MAX_REFUSALS = 3
_UNSUPPORTED_SECONDS = 3600.0
# So many unlike objects in a row that a destination broke off at, and no object is to blame.
_MAX_ABORTED = 3
# So many answers in a row that an object cannot be stored now.
_MAX_UNSTORED = 3


class CircuitBreaker:
    """Destinations whose last connection failed; shared by the threads of a process."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[str, float] = {}

    def check(self, name: str) -> None:
        """Raises QCError DELIVERY_UNREACHABLE while the destination is blocked."""
        if self._until.get(name, 0.0) > self._monotonic():
            raise QCError(
                ErrorCode.DELIVERY_UNREACHABLE, f"destination {name} was just found unreachable"
            )

    def blocked(self) -> list[str]:
        """The destinations that are not to be tried now."""
        now = self._monotonic()
        return [name for name, until in self._until.items() if until > now]

    def record_failure(self, name: str, duration_seconds: float) -> None:
        """Block the destination for twice as long as the failed connection took, within limits."""
        cooldown = min(max(2 * duration_seconds, _MIN_COOLDOWN), _MAX_COOLDOWN)
        self._until[name] = self._monotonic() + cooldown


class AbortedObjects:
    """Objects that each destination broke off at since it last answered one; shared like a circuit
    breaker."""

    def __init__(self) -> None:
        self._objects: dict[str, set[str]] = {}

    def record(self, name: str, uid: str) -> bool:
        """Note that the destination broke off at the object; True once that says more of the
        destination than of its objects."""
        objects = self._objects.setdefault(name, set())
        if len(objects) < _MAX_ABORTED:
            objects.add(uid)
        return len(objects) >= _MAX_ABORTED

    def clear(self, name: str) -> None:
        """The destination answered for an object."""
        self._objects.pop(name, None)


class UnstoredObjects:
    """Objects for which each destination answered, since it last stored one, that it is out of
    resources or failed; shared like a circuit breaker."""

    def __init__(self) -> None:
        self._failures: dict[str, Counter[str]] = {}
        # They failed before the destination stored another object.
        self._suspects: dict[str, set[str]] = {}

    def record(self, name: str, uid: str) -> bool:
        """Note such an answer for the object; True once that says more of the destination than of
        its objects: for three unlike ones in a row, or three times for one and no other stored."""
        failures = self._failures.setdefault(name, Counter())
        if uid in self._suspects.get(name, ()):
            return False
        if uid in failures or len(failures) < _MAX_UNSTORED:
            failures[uid] += 1
        return len(failures) >= _MAX_UNSTORED or max(failures.values()) >= _MAX_UNSTORED

    def clear(self, name: str, uid: str) -> None:
        """The destination stored the object: those that it did not store are to blame."""
        suspects = self._suspects.setdefault(name, set())
        suspects.update(self._failures.pop(name, ()))
        suspects.discard(uid)


class CommitmentRefusals:
    """Destinations that refuse requests for storage commitment; shared like a circuit breaker."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._refusals: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def is_unsupported(self, name: str) -> bool:
        """Whether the destination accepts no requests, by its refusals so far."""
        return self._until.get(name, 0.0) > self._monotonic()

    def record_refusal(self, name: str, *, is_offered: bool) -> None:
        """Count a refusal by a destination that never accepted a request.

        Not `is_offered`: it accepted no presentation context either, which needs no second refusal.
        """
        count = self._refusals[name] = self._refusals.get(name, 0) + 1
        if not is_offered or count >= _MAX_REFUSALS:
            self._until[name] = self._monotonic() + _UNSUPPORTED_SECONDS

    def clear(self, name: str) -> None:
        """The destination accepted a request."""
        self._refusals.pop(name, None)
        self._until.pop(name, None)
