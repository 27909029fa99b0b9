"""Changes that accounts ask for: what each would change, and making it in the account's name."""

from collections.abc import Mapping

from detector.console import UsageError
from qc_daemon.operations.changes import identity_changes, model_changes, service_changes
from qc_daemon.operations.changes.change import MAX_IDS, Change, Choice, Made, Plan
from qc_daemon.operations.finding_lists import NotVisibleError
from qc_daemon.operations.principals import Principal, record_access
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.tables import AccessAction
from qc_daemon.settings import Settings

CHANGES: Mapping[str, Change] = {
    **service_changes.CHANGES,
    **identity_changes.CHANGES,
    **model_changes.CHANGES,
}
"""Everything that accounts may change here, by name."""


def plan_change(settings: Settings, principal: Principal, name: str, choice: Choice) -> Plan:
    """What the change would be of. Raises NotVisibleError for a change that there is not, or that
    the account may not make, UsageError for too many rows."""
    change = _change(principal, name)
    _check_ids(change, choice)
    return change.plan(settings, choice)


def make_change(
    settings: Settings,
    principal: Principal,
    name: str,
    choice: Choice,
    clock: Clock = utc_now,
) -> Made:
    """Make the change in the account's name, and record that it did.

    Raises as `plan_change`, UsageError where a field is missing, and what the operation raises.
    """
    change = _change(principal, name)
    _check_ids(change, choice)
    for field in change.fields:
        if field not in change.optional and not getattr(choice, field):
            raise UsageError(f"{field}: give it")
    outcome = change.make(settings, choice, principal.account.full_name, clock)
    if outcome.count:
        subject = f"{name} {choice.words}"
        record_access(settings, principal, AccessAction.CHANGE, subject=subject, clock=clock)
    return outcome


def _change(principal: Principal, name: str) -> Change:
    change = CHANGES.get(name)
    if change is None or not principal.may(change.verb):
        raise NotVisibleError
    return change


def _check_ids(change: Change, choice: Choice) -> None:
    if "ids" in change.fields and not choice.ids:
        raise UsageError("choose one row or more")
    if len(choice.ids) > MAX_IDS:
        raise UsageError(f"choose at most {MAX_IDS} rows at once")
