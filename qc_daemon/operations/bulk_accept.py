"""Many findings accepted at once, after a page that lists them: none that needs a closer look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.operations.account_reviews import ReviewVerb, allowed_verbs, say_review
from qc_daemon.operations.finding_lists import Entry, NotVisibleError, read_entry
from qc_daemon.operations.principals import Principal
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.settings import Settings

MAX_FINDINGS = 50


@dataclass(frozen=True, slots=True)
class AcceptItem:
    """A finding, and why it is not accepted with others; empty where it is."""

    entry: Entry
    reason: str

    @property
    def version(self) -> int:
        """The number of the last event that was shown."""
        return 0 if self.entry.state is None else self.entry.state.version


def plan_accept(settings: Settings, principal: Principal, ids: Sequence[int]) -> list[AcceptItem]:
    """The findings in their order, those that the account may not see left out.

    Raises UsageError for none, and for more than MAX_FINDINGS.
    """
    unique = list(dict.fromkeys(ids))
    if not 1 <= len(unique) <= MAX_FINDINGS:
        raise UsageError(f"finding: choose 1 to {MAX_FINDINGS} findings")
    items = []
    for id in unique:
        try:
            entry = read_entry(settings, principal, id)
        except NotVisibleError:
            continue
        items.append(AcceptItem(entry, _reason(principal, entry)))
    return items


def _reason(principal: Principal, entry: Entry) -> str:
    state, stored = entry.state, entry.stored
    if state is None or stored.is_superseded or stored.quarantine is not None:
        return "it is in quarantine, or other pixels took its place"
    if entry.is_rejected:
        return "its image is rejected"
    if entry.is_hidden or ReviewVerb.ACCEPT not in allowed_verbs(principal, state):
        return "it waits for another reading"
    if state.outcome is not None:
        return "it was read already"
    if state.remarks:
        return "somebody remarked on it"
    return ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """How many findings were accepted, and a line for each that was not."""

    count: int
    problems: tuple[str, ...]


def accept_many(
    settings: Settings,
    principal: Principal,
    versions: Mapping[int, int],
    clock: Clock = utc_now,
) -> Accepted:
    """Accept the findings of which these versions were shown; one that changed meanwhile, or needs
    a closer look, is left and named. Raises UsageError as `plan_accept`."""
    count, problems = 0, []
    for item in plan_accept(settings, principal, list(versions)):
        id = item.entry.stored.finding_id or 0
        try:
            if item.reason:
                raise UsageError(item.reason)
            say_review(
                settings, principal, id, ReviewVerb.ACCEPT, version=versions[id], clock=clock
            )
            count += 1
        except (UsageError, QCError) as error:
            if error.__cause__ is not None:
                raise
            problems.append(f"finding {id}: {error}")
    return Accepted(count, tuple(problems))
