"""What waits, failed or is a person's to decide: service, queue, quarantine, digests, reviews."""

import time

from detector.plain_text import count_of
from qc_daemon.operations.doctor_checks.check_result import NoticeError, first_of
from qc_daemon.operations.queue import missing_sender, missing_worker, read_backlog, stopped_service
from qc_daemon.operations.review_lists import count_waiting
from qc_daemon.records import gauges, listings, schema
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentState, DigestState
from qc_daemon.review.state import ReviewStatus
from qc_daemon.settings import Settings
from qc_daemon.spool import service_lock

REVIEWS_SECONDS = 20.0


def check_service(settings: Settings) -> str:
    """Whether a service runs on the spool."""
    if service_lock.is_running(settings.store.spool):
        return "runs"
    if schema.has_no_tables(settings.store.url):
        return "not running yet; start it with qc-daemon serve"
    raise NoticeError(
        "not running: nothing is received, scored or sent; start it with qc-daemon serve"
    )


def check_queue(settings: Settings, clock: Clock = utc_now) -> str:
    """How long jobs have waited, and whether anybody does them."""
    if schema.check(settings.store.url):
        return "nothing to check yet"
    store = Store(settings.store.url)
    problem = (
        stopped_service(settings, store) or missing_worker(store) or missing_sender(settings, store)
    )
    if problem:
        raise OSError(0, problem)
    now = clock()
    backlog = read_backlog(store, now)
    if not backlog.counts:
        return "no job waits"
    with store.read() as session:
        retried = listings.count_retried(session)
    if not retried:
        return backlog.describe(now)
    listed = first_of(f"{count} {code}" for code, count in retried.items())
    raise NoticeError(
        f"{backlog.describe(now)}; {sum(retried.values())} of them after a failure ({listed}):"
        " see qc-daemon queue list"
    )


def check_failed_jobs(settings: Settings) -> str:
    """Warn of jobs that were given up, but for those of objects in quarantine."""
    if schema.check(settings.store.url):
        return "nothing to check yet"
    with Store(settings.store.url).read() as session:
        failed = listings.count_failed_jobs(session)
    if not failed:
        return "none"
    total = sum(each.count for each in failed)
    listed = first_of(
        f"{each.count} {each.kind.value}"
        f"{f' to {each.destination}' if each.destination else ''}: {each.code}"
        for each in failed
    )
    raise NoticeError(
        f"{count_of(total, 'job was', 'jobs were')} given up ({listed});"
        " see qc-daemon queue list --state dead --state quarantined, then queue retry"
    )


def check_quarantine(settings: Settings) -> str:
    """Warn of objects that could not be scored or reported."""
    if schema.check(settings.store.url):
        return "nothing to check yet"
    with Store(settings.store.url).read() as session:
        counts = listings.count_quarantined(session)
    if not counts:
        return "empty"
    number = count_of(sum(counts.values()), "object is", "objects are")
    listed = first_of(f"{count} {code}" for code, count in counts.items())
    raise NoticeError(
        f"{number} in quarantine, not scored or not reported ({listed});"
        " see qc-daemon quarantine list, then quarantine release or dismiss"
    )


def check_commitment_requests(settings: Settings) -> str:
    """Warn of storage commitment reports that no requester took."""
    if schema.check(settings.store.url):
        return "nothing to check yet"
    with Store(settings.store.url).read() as session:
        count = gauges.read(session).commitments.get(CommitmentState.DEAD, 0)
    if not count:
        return "none was given up"
    raise NoticeError(
        f"{count_of(count, 'report was', 'reports were')} given up;"
        " see qc-daemon commitment list --state dead, then commitment retry"
    )


def check_digests(settings: Settings) -> str:
    """Warn of digests that were given up or are tried again."""
    from qc_daemon.operations.digests import list_digests

    if schema.check(settings.store.url):
        return "nothing to check yet"
    rows = list_digests(settings)
    dead = [row for row in rows if row["state"] == DigestState.DEAD]
    if dead:
        number = count_of(len(dead), "digest was", "digests were")
        raise NoticeError(
            f"{number} given up, the last one: {dead[0]['error']};"
            " see qc-daemon digest list, then digest retry"
        )
    late = [row for row in rows if row["state"] == DigestState.READY and row["error"]]
    if late:
        number = count_of(len(late), "digest is", "digests are")
        raise NoticeError(f"{number} tried again: {late[0]['error']}")
    return f"{count_of(len(rows), 'digest')} sent"


def check_reviews(settings: Settings) -> str:
    """Warn of findings that wait for a person."""
    if schema.check(settings.store.url):
        return "nothing to check yet"
    end = time.monotonic() + REVIEWS_SECONDS
    with Store(settings.store.url).read() as session:
        waiting = count_waiting(session, settings, lambda: time.monotonic() < end)
    parts = [
        f"{count} for {words}"
        for status, words in (
            (ReviewStatus.WAITING, "a first reading"),
            (ReviewStatus.SECOND_READING, "a blinded one by another person"),
            (ReviewStatus.DISAGREEMENT, "a decision between two readings"),
        )
        if (count := waiting.counts[status])
    ]
    cut = "" if waiting.is_whole else f", as far as counted in {REVIEWS_SECONDS:.0f} s"
    if waiting.oldest is None:
        return f"no finding waits for a person{cut}"
    raise NoticeError(
        f"{count_of(waiting.total, 'finding waits', 'findings wait')} for a person, the longest"
        f" since {waiting.oldest:%Y-%m-%d}{cut}: {first_of(parts)}; see review list"
    )
