"""How many wrong passwords are taken: of a name from an address, of a name, and of an address."""

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from qc_daemon.settings.web import WebSettings

# An account that anybody could lock from anywhere would be a way to keep its person out.
_WIDER = 10
_LETTERS = 64  # A name is cut to so many, so that no request fills the memory.


class LoginLimits:
    """Counts refused log-ins in this process's memory, each for the time of the settings."""

    def __init__(self, settings: WebSettings) -> None:
        seconds = max(1, round(60 * settings.lock_minutes))
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._narrow = RateLimitItemPerSecond(settings.login_attempts, seconds)
        self._wide = RateLimitItemPerSecond(_WIDER * settings.login_attempts, seconds)

    def is_locked(self, name: str, address: str) -> bool:
        """Whether a log-in by this name from this address is not even tried."""
        return not all(self._limiter.test(item, *keys) for item, keys in self._items(name, address))

    def count_refusal(self, name: str, address: str) -> None:
        """A log-in was refused."""
        for item, keys in self._items(name, address):
            self._limiter.hit(item, *keys)

    def forget(self, name: str, address: str) -> None:
        """A log-in succeeded: what this person mistyped before counts no more."""
        (item, keys), *_ = self._items(name, address)
        self._limiter.clear(item, *keys)

    def _items(
        self, name: str, address: str
    ) -> tuple[tuple[RateLimitItemPerSecond, tuple[str, ...]], ...]:
        name = name.strip().casefold()[:_LETTERS]
        return (
            (self._narrow, ("both", name, address)),
            (self._wide, ("name", name)),
            (self._wide, ("address", address)),
        )
