"""A write that a program sends again after it lost the answer happens once: Idempotency-Key."""

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.operations.principals import Principal
from qc_daemon.operations.shared import open_store
from qc_daemon.records.accounts import api_answers
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.settings import Settings

KEPT = timedelta(hours=24)
"""How long an answer is given again."""
_AT_WORK = timedelta(minutes=10)


def answer_once(
    settings: Settings,
    principal: Principal,
    key: str | None,
    request: bytes,
    make: Callable[[], dict[str, Any]],
    clock: Clock = utc_now,
) -> dict[str, Any]:
    """The answer that `make` gives, or that it gave when the account sent this key before.

    `request` is what was asked, method and path included. A request that failed is not remembered.
    Raises UsageError where the key was sent with another request, QCError while the first is at
    work, and what `make` raises.
    """
    if key is None:
        return make()
    store, now = open_store(settings), clock()
    account, sha256 = principal.account.id, hashlib.sha256(request).hexdigest()
    with store.begin() as session:
        api_answers.prune(session, now - KEPT, now - _AT_WORK)
        id = api_answers.begin(session, account, key, sha256, now)
        stored = None if id is not None else api_answers.find(session, account, key)
    if id is None:
        if stored is not None and stored.request_sha256 != sha256:
            raise UsageError("Idempotency-Key: was sent with another request; make a new one")
        if stored is None or stored.answer is None:
            raise QCError(ErrorCode.STORAGE, "the first request with this key is still at work")
        return stored.answer
    try:
        answer = make()
    except Exception:
        with store.begin() as session:
            api_answers.give_up(session, id)
        raise
    with store.begin() as session:
        api_answers.finish(session, id, answer)
    return answer
