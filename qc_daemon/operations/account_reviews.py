"""What an account says of a finding: its full name is the reader, its verbs say what it may say."""

from collections.abc import Sequence
from enum import StrEnum

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.operations import reviews
from qc_daemon.operations.finding_lists import read_entry
from qc_daemon.operations.principals import Principal, record_access
from qc_daemon.operations.reviews import Answer
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.tables import AccessAction
from qc_daemon.review.state import ReviewState, ReviewStatus
from qc_daemon.settings import Settings
from qc_daemon.verbs import Verb


class ReviewVerb(StrEnum):
    """What one may say, as the commands of `review` are called."""

    ACCEPT = "accept"
    OVERRIDE = "override"
    READ = "read"
    DISPUTE = "dispute"
    RESOLVE = "resolve"
    REMARK = "remark"


_SAY = {
    ReviewVerb.ACCEPT: reviews.accept,
    ReviewVerb.OVERRIDE: reviews.override,
    ReviewVerb.READ: reviews.read_blinded,
    ReviewVerb.DISPUTE: reviews.dispute,
    ReviewVerb.RESOLVE: reviews.resolve,
    ReviewVerb.REMARK: reviews.remark,
}
_NEEDED = {
    ReviewVerb.DISPUTE: (Verb.DISPUTE, Verb.REVIEW),
    ReviewVerb.REMARK: (Verb.DISPUTE, Verb.REVIEW),
}
_UNREAD = (ReviewVerb.ACCEPT, ReviewVerb.OVERRIDE)
# What is asked for in each state; a remark is possible in all.
_OF_STATE: dict[ReviewStatus, tuple[ReviewVerb, ...]] = {
    ReviewStatus.AUTOMATIC: (*_UNREAD, ReviewVerb.DISPUTE),
    ReviewStatus.WAITING: _UNREAD,
    ReviewStatus.ACCEPTED: (*_UNREAD, ReviewVerb.DISPUTE),
    ReviewStatus.OVERRIDDEN: (*_UNREAD, ReviewVerb.DISPUTE),
    ReviewStatus.SECOND_READING: (ReviewVerb.READ,),
    ReviewStatus.DISAGREEMENT: (ReviewVerb.RESOLVE,),
    ReviewStatus.RESOLVED: (ReviewVerb.DISPUTE,),
}


def allowed_verbs(principal: Principal, state: ReviewState | None) -> tuple[ReviewVerb, ...]:
    """What a form offers the account in this state; the database decides anew what may be said."""
    if state is None:
        return ()
    offered = (*_OF_STATE[state.status], ReviewVerb.REMARK)
    return tuple(verb for verb in offered if _may(principal, verb))


def _may(principal: Principal, verb: ReviewVerb) -> bool:
    return any(principal.may(each) for each in _NEEDED.get(verb, (Verb.REVIEW,)))


def say_review(
    settings: Settings,
    principal: Principal,
    finding_id: int,
    verb: str,
    *,
    view: str | None = None,
    verdict: str | None = None,
    criteria: Sequence[str] = (),
    reason: str | None = None,
    remark: str | None = None,
    seconds: float | None = None,
    version: str | int | None,
    clock: Clock = utc_now,
) -> str:
    """Add what the account says; returns a line that says what follows. `version` is the number of
    the last event that was shown, so that nobody answers what changed meanwhile; `seconds` is how
    long it took.

    Raises NotVisibleError, UsageError, QCError.
    """
    if verb not in list(ReviewVerb):
        raise UsageError(f"verb: give one of {', '.join(ReviewVerb)}")
    review_verb = ReviewVerb(verb)
    entry = read_entry(settings, principal, finding_id)
    if not _may(principal, review_verb):
        raise QCError(
            ErrorCode.STORAGE, f"the role of this account does not allow to {review_verb}"
        )
    try:
        expected_version = int(version if version is not None else "")
    except ValueError:
        raise UsageError("version: give the number of the last event that was shown") from None
    answer = Answer(
        principal.account.full_name,
        view=view,
        verdict=verdict,
        criteria=tuple(criteria),
        reason=reason,
        remark=remark,
        seconds=seconds,
        version=expected_version,
    )
    line = _SAY[review_verb](settings, finding_id, answer, clock)
    record_access(
        settings,
        principal,
        AccessAction.REVIEW,
        exam_id=entry.stored.exam_id,
        finding_id=finding_id,
        clock=clock,
    )
    return line
