"""What happens by itself: nightly audits, and backups, which only others can make happen."""

from datetime import datetime, timedelta

from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import chain_folder
from qc_daemon.audit_trail.verification import read_newest
from qc_daemon.operations.doctor_checks.check_result import NoticeError
from qc_daemon.records import gauges, schema
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings

AUDIT_OVERDUE = timedelta(days=3)
BACKUP_OVERDUE = timedelta(days=8)


def check_schedule(settings: Settings, clock: Clock = utc_now) -> str:
    """When audits are made, and whether they are."""
    schedule = settings.schedule
    if schedule.audit_time is None:
        return "no nightly audit (schedule.audit is off)"
    when = f"audits from {schedule.audit} on ({schedule.local_zone.key})"
    if schema.check(settings.store.url):
        return when
    with Store(settings.store.url).read() as session:
        audit = gauges.read(session).audit
    if audit.has_failed:
        raise NoticeError(f"{when}; the last one failed: qc-daemon audit list has the reason")
    if audit.finished_at is not None and clock() - audit.finished_at > AUDIT_OVERDUE:
        raise NoticeError(
            f"{when}; the last one is of {audit.finished_at:%Y-%m-%d}: does the role schedule run?"
        )
    return when


def check_backups(settings: Settings, clock: Clock = utc_now) -> str:
    """When the last backup was made from this machine, as the audit log has it."""
    if schema.check(settings.store.url):
        return "nothing to save yet"
    with Store(settings.store.url).read() as session:
        if not gauges.has_exams(session):
            return "nothing to save yet"
    command = "qc-daemon db backup FOLDER --with-spool"
    record = read_newest(
        chain_folder(settings),
        lambda body: (
            body["kind"] == AuditKind.EXPORTED and body.get("detail", {}).get("what") == "backup"
        ),
    )
    if record is None:
        raise NoticeError(f"none was made by {command} from here; let one be made each night")
    at = datetime.fromisoformat(record["at"])
    if clock() - at > BACKUP_OVERDUE:
        raise NoticeError(f"the last one is of {at:%Y-%m-%d}; make one now ({command})")
    return f"the last one is of {at:%Y-%m-%d %H:%M} UTC"
