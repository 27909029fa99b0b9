"""What happens by itself: nightly audits and backups."""

from datetime import datetime, timedelta

from detector.errors import ErrorCode, QCError
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import chain_folder
from qc_daemon.audit_trail.verification import read_newest
from qc_daemon.backup import series
from qc_daemon.operations.doctor_checks.check_result import NoticeError
from qc_daemon.records import gauges, schema
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings

AUDIT_OVERDUE = timedelta(days=3)
BACKUP_OVERDUE = timedelta(days=8)
NIGHTLY_BACKUP_OVERDUE = timedelta(hours=36)


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
    """When the last backup was made: of the schedule, else as this machine's audit log has it."""
    if settings.backup.folder is not None:
        return _check_scheduled_backups(settings, clock)
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
        raise NoticeError(
            f"none was made by {command} from here; let one be made each night (backup.folder)"
        )
    at = datetime.fromisoformat(record["at"])
    if clock() - at > BACKUP_OVERDUE:
        raise NoticeError(f"the last one is of {at:%Y-%m-%d}; make one now ({command})")
    return f"the last one is of {at:%Y-%m-%d %H:%M} UTC"


def _check_scheduled_backups(settings: Settings, clock: Clock) -> str:
    """Whether the newest good backup is of the last night, and lies on another disk."""
    folder = settings.backup.folder
    assert folder is not None
    backups = series.list_backups(folder)
    good = series.newest_good(backups)
    when = f"each night at {settings.backup.at:%H:%M} in {folder}"
    if good is None or clock() - good.begun > NIGHTLY_BACKUP_OVERDUE:
        age = "there is no good one" if good is None else f"the last good one is of {good.begun:%F}"
        raise QCError(
            ErrorCode.STORAGE,
            f"{when}, but {age}: does the role schedule run? The log has the reason (backup"
            " failed); qc-daemon backup create makes one now",
        )
    state = f"{when}; the last good one is of {good.begun:%Y-%m-%d %H:%M} UTC"
    bad = sum(not each.is_good for each in backups)
    if bad:
        raise NoticeError(f"{state}; not good: {bad} (qc-daemon backup list)")
    if folder.stat().st_dev == settings.store.spool.stat().st_dev:
        raise NoticeError(f"{state}, on the disk that the spool is on: what kills one kills both")
    return state
