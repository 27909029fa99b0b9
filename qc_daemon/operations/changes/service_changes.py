"""Changes of what the service does: queue, quarantine, commitments, destinations, peers, audits."""

from collections.abc import Mapping

from qc_daemon.operations.audits import change_audit, list_audits
from qc_daemon.operations.changes.change import Change, Choice, Made, Plan
from qc_daemon.operations.commitments import list_commitments, retry_commitments
from qc_daemon.operations.destinations import (
    list_destinations,
    relearn_destination,
    retry_destination,
)
from qc_daemon.operations.peers import add_peer, approve_caller, list_peers, remove_peer
from qc_daemon.operations.quarantine import (
    dismiss_quarantined,
    list_quarantined,
    release_quarantined,
)
from qc_daemon.operations.queue import cancel_jobs, list_jobs, retry_jobs
from qc_daemon.records.clock import Clock
from qc_daemon.records.listings import ALL, IdChoice
from qc_daemon.records.tables import AuditState, CommitmentState, JobState
from qc_daemon.settings import Settings
from qc_daemon.verbs import Verb

JOB = ("id", "kind", "destination", "state", "tries", "code")
OBJECT = ("id", "code", "message", "since", "dismissed")
COMMITMENT = ("id", "requested by", "state", "requested", "reason")
DESTINATION = ("name", "state", "waiting", "given up", "does not take")
PEER = ("state", "ae_title", "address", "certificate", "attempts", "last_seen")
AUDIT = ("date", "audit", "state", "progress")


def _jobs(settings: Settings, choice: Choice) -> Plan:
    return Plan(JOB, list_jobs(settings, list(JobState), choice=IdChoice(choice.ids)))


def _objects(settings: Settings, choice: Choice) -> Plan:
    rows = list_quarantined(settings, (), ALL, IdChoice(choice.ids), with_dismissed=True)
    return Plan(OBJECT, rows)


def _commitments(settings: Settings, choice: Choice) -> Plan:
    rows = list_commitments(settings, list(CommitmentState), ALL, IdChoice(choice.ids))
    return Plan(COMMITMENT, rows)


def _destination(settings: Settings, choice: Choice) -> Plan:
    rows = [row for row in list_destinations(settings) if row["name"] == choice.name]
    return Plan(DESTINATION, rows)


def _peers(settings: Settings, choice: Choice) -> Plan:
    rows = [
        row
        for row in list_peers(settings)
        if row["ae_title"] == choice.name and choice.address in ("", row["address"])
    ]
    return Plan(PEER, rows)


def _audit(settings: Settings, choice: Choice) -> Plan:
    rows = [
        row
        for row in list_audits(settings)
        if row["date"] == choice.name and choice.into in ("", row["audit"])
    ]
    return Plan(AUDIT, rows)


def _retry_jobs(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    outcome = retry_jobs(settings, choice.ids, clock)
    return Made.of(outcome, "job is ready again", "jobs are ready again")


def _cancel_jobs(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    outcome = cancel_jobs(settings, choice.ids, clock)
    return Made.of(outcome, "job is cancelled", "jobs are cancelled")


def _release(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    outcome = release_quarantined(settings, choice.ids, clock)
    return Made.of(outcome, "object is to be scored again", "objects are to be scored again")


def _dismiss(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    outcome = dismiss_quarantined(settings, choice.ids, choice.reason, by, clock)
    return Made.of(outcome, "object is dismissed", "objects are dismissed")


def _retry_commitments(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    outcome = retry_commitments(settings, choice.ids, clock)
    return Made.of(outcome, "report is due again", "reports are due again")


def _retry_destination(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    count = retry_destination(settings, choice.name, clock)
    return Made(count, f"{count} {'job is' if count == 1 else 'jobs are'} ready again")


def _relearn(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    count = relearn_destination(settings, choice.name)
    return Made(
        count, f"{count} {'SOP class is' if count == 1 else 'SOP classes are'} offered again"
    )


def _add_peer(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    certificate = choice.certificate or None
    return Made(1, add_peer(settings, choice.name, choice.address, certificate, clock))


def _approve(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    address, network = choice.address or None, choice.network or None
    return Made(1, approve_caller(settings, choice.name, address, network, clock))


def _remove_peer(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    count = remove_peer(settings, choice.name, choice.address or None)
    return Made(count, f"{count} {'approval is' if count == 1 else 'approvals are'} taken back")


def _audit_change(state: AuditState) -> Change:
    def make(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
        return Made(1, change_audit(settings, choice.name, state, choice.into or None, clock))

    return Change(Verb.OPERATE, ("name", "into"), _audit, make, optional=("into",))


_BY_ID = ("ids",)
_BY_NAME = ("name",)
CHANGES: Mapping[str, Change] = {
    "queue-retry": Change(Verb.OPERATE, _BY_ID, _jobs, _retry_jobs),
    "queue-cancel": Change(Verb.OPERATE, _BY_ID, _jobs, _cancel_jobs),
    "quarantine-release": Change(Verb.OPERATE, _BY_ID, _objects, _release),
    "quarantine-dismiss": Change(Verb.OPERATE, ("ids", "reason"), _objects, _dismiss),
    "commitment-retry": Change(Verb.OPERATE, _BY_ID, _commitments, _retry_commitments),
    "destination-retry": Change(Verb.OPERATE, _BY_NAME, _destination, _retry_destination),
    "destination-relearn": Change(Verb.OPERATE, _BY_NAME, _destination, _relearn),
    "peer-add": Change(
        Verb.OPERATE, ("name", "address", "certificate"), _peers, _add_peer, ("certificate",)
    ),
    "peer-approve": Change(
        Verb.OPERATE, ("name", "address", "network"), _peers, _approve, ("address", "network")
    ),
    "peer-remove": Change(Verb.OPERATE, ("name", "address"), _peers, _remove_peer, ("address",)),
    "audit-pause": _audit_change(AuditState.PAUSED),
    "audit-resume": _audit_change(AuditState.WAITING),
    "audit-cancel": _audit_change(AuditState.CANCELLED),
}
"""By name, as commands are called."""
