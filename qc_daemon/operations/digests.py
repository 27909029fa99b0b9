"""Digests for an operator and for the service: make those that are due, send, list, try again."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import count_of
from qc_daemon.digest import sending
from qc_daemon.digest.message import (
    MAIL,
    WEBHOOK,
    Digest,
    mail_message,
    signature_headers,
    webhook_body,
)
from qc_daemon.language.wording import Wording
from qc_daemon.observe import log
from qc_daemon.operations.shared import Outcome, describe_unchanged, open_store
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.queue.retry import RetryPolicy, next_try
from qc_daemon.records.results import audit_contents, digests
from qc_daemon.records.results.audits import NIGHTLY
from qc_daemon.records.results.digests import Recipient
from qc_daemon.records.store import Store
from qc_daemon.records.tables import DigestRow, DigestState
from qc_daemon.settings import Settings

COLUMNS = (
    "id",
    "channel",
    "recipient",
    "about",
    "date",
    "state",
    "attempts",
    "next_try",
    "sent",
    "error",
)
Wait = Callable[[float], bool]
"""Waits so many seconds; True: it is time to stop."""


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """How many digests were sent, and why each of the others was not."""

    sent: int
    failures: tuple[QCError, ...] = ()


def recipients(settings: Settings) -> list[Recipient]:
    """Whoever the settings send digests to."""
    mails = [
        Recipient(MAIL, each.address, each.person or "")
        for each in settings.mail.recipient
        if settings.mail.host is not None
    ]
    return [*mails, *(Recipient(WEBHOOK, hook.name) for hook in settings.webhook)]


def send_due(settings: Settings, store: Store, clock: Clock, wait: Wait) -> SendOutcome:
    """Make the digests of the newest audit that are missing, and send those that are due, at most
    `mail.per_minute` in a minute."""
    receivers = recipients(settings)
    if not receivers:
        return SendOutcome(0)
    with store.begin() as session:
        digests.create_for_newest(session, NIGHTLY, receivers, clock())
    policy, count = RetryPolicy.of(settings.jobs), 0
    failures: list[QCError] = []
    while True:
        with store.begin() as session:
            row = digests.claim(session, clock())
        if row is None:
            break
        failure = _send_one(settings, store, row, policy, clock)
        if failure is None:
            count += 1
        else:
            failures.append(failure)
        if wait(60.0 / settings.mail.per_minute):
            break
    return SendOutcome(count, tuple(failures))


def _send_one(
    settings: Settings, store: Store, row: DigestRow, policy: RetryPolicy, clock: Clock
) -> QCError | None:
    """Why it could not be sent; None if it was."""
    try:
        if row.channel == MAIL:
            _mail(settings, row)
        else:
            _call(settings, store, row, clock)
    except QCError as error:
        now = clock()
        is_over = error.code is ErrorCode.DELIVERY_REFUSED or row.attempts >= policy.max_attempts
        again = None if is_over else next_try(row.attempts, now, policy, random.Random())
        with store.begin() as session:
            digests.mark_failed(session, row.id, error, again)
        # An address names a person: the log has the channel and the reason.
        log.get(role="schedule").warning(
            "digest not sent", kind=row.channel, code=error.code, attempt=row.attempts
        )
        return error
    with store.begin() as session:
        digests.mark_sent(session, row.id, clock())
    log.get(role="schedule").info("digest sent", kind=row.channel, attempt=row.attempts)
    return None


def _mail(settings: Settings, row: DigestRow) -> None:
    sending.send_mail(_message(settings, row), settings.mail)


def _message(settings: Settings, row: DigestRow) -> EmailMessage:
    """Raises QCError DELIVERY_REFUSED where the settings have no such recipient any more."""
    recipient = next(
        (
            each
            for each in settings.mail.recipient
            if (each.address, each.person or "") == (row.recipient, row.subject_id)
        ),
        None,
    )
    if recipient is None or settings.mail.sender is None:
        raise QCError(ErrorCode.DELIVERY_REFUSED, "the settings have this recipient no more")
    language = recipient.language or settings.report.language
    digest = Digest(row.recipient, row.audit, row.local_date, row.subject_id or None)
    return mail_message(digest, settings.mail.sender, settings.mail.link, Wording(language))


def _call(settings: Settings, store: Store, row: DigestRow, clock: Clock) -> None:
    hook = next((each for each in settings.webhook if each.name == row.recipient), None)
    if hook is None:
        raise QCError(ErrorCode.DELIVERY_REFUSED, "the settings have this webhook no more")
    with store.read() as session:
        sha256 = audit_contents.data_sha256(session, row.audit, row.local_date)
    body = webhook_body(
        Digest(row.recipient, row.audit, row.local_date), sha256, settings.mail.link
    )
    secret = sending.read_secret(hook.secret, f"webhook {hook.name}: secret")
    sending.call_webhook(hook, body, signature_headers(body, secret, int(clock().timestamp())))


def send_now(settings: Settings, clock: Clock = utc_now) -> str:
    """Send what is due; returns a line that says how many.

    Raises UsageError without recipients, QCError where one could not be sent: what is not given up
    stays due, and the service or the next call tries it again.
    """
    if not recipients(settings):
        raise UsageError("nobody gets digests; see [mail] and [[webhook]] of the settings")
    store = open_store(settings)
    outcome = send_due(settings, store, clock, lambda _seconds: False)
    if not outcome.failures:
        if outcome.sent:
            return f"{outcome.sent} sent; see digest list"
        return f"nothing is due: {_describe_newest(store)}"
    last, count = outcome.failures[-1], len(outcome.failures)
    raise QCError(
        last.code,
        f"{outcome.sent} sent; {count_of(count, 'digest')} could not be: {last.message};"
        " digest list says when each is tried again",
    )


def _describe_newest(store: Store) -> str:
    """What became of the newest audit's digests, where none is due."""
    with store.read() as session:
        rows = digests.listing(session)
    if not rows:
        return "there is no nightly audit yet; audit run makes one"
    day = rows[0].local_date
    states = Counter(row.state for row in rows if row.local_date == day)
    parts = [
        f"{count_of(states[state], singular, plural)}{hint}"
        for state, singular, plural, hint in _NOT_DUE
        if states[state]
    ]
    return f"of the audit of {day} {', '.join(parts)}; see digest list"


_NOT_DUE = (
    (DigestState.SENT, "digest was sent already", "digests were sent already", ""),
    (DigestState.DEAD, "digest was given up", "digests were given up", " (digest retry)"),
    (DigestState.READY, "digest is to be tried again", "digests are to be tried again", ""),
)


def list_digests(settings: Settings) -> list[dict[str, Any]]:
    """All digests, the newest first."""
    with open_store(settings).read() as session:
        return [
            {
                "id": row.id,
                "channel": row.channel,
                "recipient": row.recipient,
                "about": row.subject_id or None,
                "date": row.local_date,
                "state": row.state,
                "attempts": row.attempts,
                "next_try": row.next_at.isoformat(timespec="seconds")
                if row.state == DigestState.READY
                else None,
                "sent": None if row.sent_at is None else row.sent_at.isoformat(timespec="seconds"),
                "error": row.error_message,
            }
            for row in digests.listing(session)
        ]


def retry_digests(settings: Settings, ids: Sequence[int], clock: Clock = utc_now) -> Outcome:
    """Have dead digests sent again."""
    with open_store(settings).begin() as session:
        states = digests.retry(session, ids, clock())
    unchanged = describe_unchanged(ids, states, {DigestState.DEAD}, "digest", "digest list")
    return Outcome(sum(state == DigestState.DEAD for state in states.values()), unchanged)
