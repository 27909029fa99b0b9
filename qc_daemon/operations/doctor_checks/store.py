"""The spool and the database: are they there, sound, and of one mind."""

import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from detector.plain_text import count_of
from qc_daemon.operations.database import describe_damage, describe_extent
from qc_daemon.operations.doctor_checks.check_result import NoticeError
from qc_daemon.operations.spool import orphan_margin
from qc_daemon.records import integrity, schema
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received import retention
from qc_daemon.records.store import Store
from qc_daemon.retain import scrub
from qc_daemon.retain.reconcile import Differences, reconcile
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files
from qc_daemon.spool.verification import DAMAGED_FOLDER

MIN_FREE_BYTES = 5 * 2**30
# The integrity check stops after this time: nobody waits for that of a large database.
INTEGRITY_SECONDS = 30.0
# So many bytes of received files are read; of a larger spool only the sizes are compared.
MAX_BYTES_READ = 256 * 2**20
SCRUB_OVERDUE = timedelta(days=8)


def check_spool(settings: Settings) -> str:
    """Whether the spool can be written, has room, and is its owner's only."""
    spool = settings.store.spool
    existing = require_writable(spool)
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        raise OSError(0, f"only {free / 2**30:.1f} GiB free at {existing}; make room")
    if private_files.is_open_to_others(spool):
        raise NoticeError(
            f"{spool} is open to other users; serve takes their rights away at its start"
        )
    return f"{spool}, {free / 2**30:.0f} GiB free"


def require_writable(folder: Path) -> Path:
    """The folder, or its nearest parent that exists. Raises OSError unless files can be made in it.

    It makes one, because permissions alone show neither a read-only disk nor what root may not.
    """
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    if not existing.is_dir():
        raise OSError(0, f"{existing} is not a folder; move it away or name another folder")
    try:
        Path(tempfile.mkdtemp(prefix=".qc-doctor-", dir=existing)).rmdir()
    except OSError as error:
        why = (error.strerror or "error").lower()
        raise OSError(
            0, f"{existing} is not a writable folder ({why}); give it to the service's user"
        ) from error
    return existing


def check_database(settings: Settings) -> str:
    """Whether the database is there, of this version, sound and private."""
    url = settings.store.url
    file = schema.file_of(url)
    if file is not None:
        require_writable(file.parent)
    if schema.has_no_tables(url):
        received = _count_received(settings.store.spool)
        if received:
            raise OSError(
                0,
                f"is not there, but the spool has {count_of(received, 'received object')};"
                " restore a backup (qc-daemon db restore), or serve begins an empty one",
            )
        return "is not there yet; serve makes it" if file else "is empty; serve makes its tables"
    problem = schema.check(url)
    if problem and not schema.has_revision(schema.revision_of(url)):
        raise OSError(0, problem)
    result = integrity.examine(url, seconds=INTEGRITY_SECONDS)
    if not result.is_sound:
        raise OSError(0, describe_damage(result))
    if problem:
        raise NoticeError(
            "has the tables of an earlier version; serve brings them up to date at its start:"
            " save it before (qc-daemon db backup)"
        )
    if file is not None:
        schema.refuse_read_only(url)
        if any(map(private_files.is_open_to_others, schema.files_of(file))):
            raise NoticeError(
                f"{file} is open to other users; serve takes their rights away at its start"
            )
    if not result.is_finished:
        raise NoticeError(
            f"tables are up to date; not checked through in {INTEGRITY_SECONDS:.0f} s,"
            " run qc-daemon db check"
        )
    return f"tables are up to date and sound ({describe_extent(result)})"


def _count_received(spool: Path) -> int:
    """The number of received objects in the spool."""
    return sum(1 for _ in spool.glob("[0-9a-f][0-9a-f]/*.dcm"))


def check_reconciliation(settings: Settings, clock: Clock = utc_now) -> str:
    """Whether files and rows name the same objects."""
    spool = settings.store.spool
    if schema.check(settings.store.url) or not spool.is_dir():
        return "nothing to compare yet"
    store = Store(settings.store.url)
    with store.read() as session:
        is_full = retention.spooled_bytes(session) <= MAX_BYTES_READ
    result = reconcile(store, spool, clock(), full=is_full, margin=orphan_margin(spool))
    if not result.is_clean:
        raise OSError(0, _describe_differences(result, is_full=is_full))
    known = result.files - result.young
    summary = f"{count_of(known, 'file')}, all known and {'as received' if is_full else 'whole'}"
    if result.young:
        summary += f"; {count_of(result.young, 'more is', 'more are')} too young to judge"
    return summary if is_full else f"{summary} by size; spool check --full reads them"


def _describe_differences(result: Differences, *, is_full: bool) -> str:
    """`1 file is missing, 2 files are damaged: see spool check; 1 file is no object's: …`.

    The command named is the one that finds the same: altered bytes show only where files are read.
    """
    parts = []
    faults = [
        f"{count_of(count, 'file is', 'files are')} {condition}"
        for count, condition in (
            (result.missing, "missing"),
            (result.damaged, "damaged"),
            (result.unreadable, "unreadable"),
        )
        if count
    ]
    if faults:
        parts.append(
            f"{', '.join(faults)}: qc-daemon spool check{' --full' if is_full else ''} lists them"
            " by exam, and says what to do"
        )
    if result.orphans:
        number = count_of(result.orphans, "file belongs to no object", "files belong to no object")
        parts.append(
            f"{number} that the database knows: qc-daemon spool list shows"
            f" {'it' if result.orphans == 1 else 'them'}, spool release or discard decides"
        )
    return "; ".join(parts)


def check_scrub(settings: Settings, clock: Clock = utc_now) -> str:
    """The result of the last pass of the scrub over the spool."""
    if not settings.store.scrub_megabytes_per_second:
        raise NoticeError("switched off: nobody would notice files that change on the disk")
    last_pass = scrub.read_progress(settings.store.spool).finished
    if last_pass is None:
        return "the spool has not been read through yet; the role schedule does so each night"
    number = count_of(last_pass.files, "file")
    summary = f"{number} read through, finished {last_pass.finished}"
    if last_pass.faults:
        raise NoticeError(
            f"{summary}: {last_pass.damaged} damaged (set aside in {DAMAGED_FOLDER}),"
            f" {last_pass.fetched} of them fetched back from a destination;"
            f" {last_pass.missing} missing, {last_pass.unreadable} unreadable;"
            " look at the disk; qc-daemon spool check lists what is still not there"
        )
    assert last_pass.finished is not None
    if clock() - datetime.fromisoformat(last_pass.finished) > SCRUB_OVERDUE:
        raise NoticeError(f"{summary}; overdue: does the role schedule run?")
    return f"{summary}: all as received"
