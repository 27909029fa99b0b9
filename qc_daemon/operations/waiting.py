"""What waits for people, as numbers for whoever watches the service: reviews, sites, promises.

Counting reads every finding, so that the role `schedule` does it now and then, and not each scrape.
"""

from collections import Counter
from collections.abc import Callable

from qc_daemon.operations.review_lists import count_waiting
from qc_daemon.operations.sites import SITE_STATES, broken_promises, site_states
from qc_daemon.records.store import Store
from qc_daemon.review.state import ReviewStatus
from qc_daemon.settings import Settings

_REVIEWS = {
    ReviewStatus.WAITING: "reviews_waiting",
    ReviewStatus.SECOND_READING: "reviews_second_reading",
    ReviewStatus.DISAGREEMENT: "reviews_disagreement",
}


def read_gauges(settings: Settings, store: Store, goes_on: Callable[[], bool]) -> dict[str, float]:
    """The values of the shared gauges (`observe.counters`) now; empty if `goes_on` said no before
    all was counted."""
    with store.read() as session:
        waiting = count_waiting(session, settings, goes_on)
    if not waiting.is_whole:
        return {}
    values = {name: float(waiting.counts[status]) for status, name in _REVIEWS.items()}
    values["reviews_oldest"] = 0.0 if waiting.oldest is None else waiting.oldest.timestamp()
    is_calibrated = settings.score.site_calibration != "off"
    states = Counter(site_states(settings, store).values() if is_calibrated else ())
    values |= {f"sites_{state}": float(states[state]) for state in SITE_STATES}
    broken = broken_promises(settings, store) if is_calibrated else []
    return values | {"promises_broken": float(len(broken))}
