"""The database for an operator: check, downgrade, save, restore; each returns plain lines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.backup import Manifest, Restoration, restore, save
from qc_daemon.operations.spool import release_orphans
from qc_daemon.records import integrity, schema
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.settings import Settings
from qc_daemon.spool import service_lock

_MAX_LISTED = 20


def check(settings: Settings, *, full: bool) -> str:
    """One line that says the database is up to date and sound; else raises QCError STORAGE."""
    url = settings.store.url
    problem = schema.check(url)
    if problem:
        raise QCError(ErrorCode.STORAGE, problem)
    result = integrity.examine(url, full=full)
    if not result.is_sound:
        raise QCError(ErrorCode.STORAGE, describe_damage(result))
    return f"the database is up to date and sound ({describe_extent(result)})"


def describe_damage(result: integrity.Integrity) -> str:
    """One line that names the first fault and the fix."""
    more = len(result.faults) - 1
    others = f" and {more} more" if more else ""
    return (
        f"the database is damaged: {result.faults[0]}{others};"
        " stop the service and restore a backup (qc-daemon db restore)"
    )


def describe_extent(result: integrity.Integrity) -> str:
    """The extent of the check, in words."""
    if result.is_full:
        return "pages, indexes and references checked"
    return "quick check; db check --full looks at everything"


def downgrade(
    settings: Settings, revision: str, *, yes: bool, clock: Clock = utc_now
) -> Iterator[str]:
    """Downgrade the tables, a SQLite database after a copy of it; lines that say what was done.

    Raises UsageError where no copy can be made and `yes` does not say that there is one; QCError
    STORAGE if a service runs.
    """
    url = settings.store.url
    problem = schema.check(url)
    if problem and schema.has_no_tables(url):
        raise QCError(ErrorCode.STORAGE, problem)
    file = schema.file_of(url)
    if file is None and not yes:
        raise UsageError(
            "a downgrade drops what later tables hold; save the database first"
            " (qc-daemon db backup FOLDER --with-spool), then add --yes"
        )
    with service_lock.exclusive(settings.store.spool):
        schema.refuse_in_use(url)
        if file is not None:
            copy = file.with_name(f"{file.name}.before_downgrade_{clock():%Y%m%dt%H%M%S}")
            schema.backup(url, copy)
            yield f"{copy}: a copy of the database as it was"
        before = schema.revision_of(url)
        schema.downgrade(url, revision)
    old, new = map(schema.describe_revision, (before, schema.revision_of(url)))
    yield f"the database was at {old} and is at {new};"
    yield "serve or db upgrade of this version bring it up again"


def save_all(
    settings: Settings, folder: Path, *, link: bool, clock: Clock = utc_now
) -> tuple[list[str], bool]:
    """Save database and spool; lines that say so, and whether every file that rows name is in."""
    with _progress_bar("Saving") as progress:
        manifest = save(settings, folder, clock(), link=link, progress=progress)
    spooled = len(manifest.spool_files)
    lines = [
        f"{folder}: written, the database and {spooled} received objects"
        f" ({_megabytes(manifest)} MB)"
    ]
    for names, what in ((manifest.missing, "missing from"), (manifest.damaged, "damaged in")):
        if names:
            lines.append(f"{len(names)} objects that the database names are {what} the spool:")
            lines += _first_lines([Path(name).stem for name in names])
    return lines, not (manifest.missing or manifest.damaged)


def restore_all(
    settings: Settings, source: Path, *, release: bool, clock: Clock = utc_now
) -> tuple[list[str], bool]:
    """Put a backup in place; lines that say what was done, and whether no file is missing."""
    with _progress_bar("Restoring") as progress:
        restoration = restore(settings, source, clock(), progress)
    lines = [*_describe(restoration)]
    if release and restoration.later:
        schema.upgrade(settings.store.url)
        count = release_orphans(settings, [each.sha256 for each in restoration.later])
        lines.append(f"{count} of them are taken in again")
    elif restoration.later:
        lines.append(
            "take them in with qc-daemon spool release SHA256 or qc-daemon spool release --all"
        )
    problem = schema.check(settings.store.url)
    if problem:
        lines.append(problem)
    return lines, not restoration.missing


@contextmanager
def _progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on the terminal; yields the function that takes files completed and total."""
    with Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda completed, total: bar.update(task, completed=completed, total=total)


def _describe(restoration: Restoration) -> Iterator[str]:
    saved_at = f", as saved at {restoration.created}" if restoration.created else ""
    revision = schema.describe_revision(restoration.schema_revision)
    yield f"the database is restored{saved_at}, at {revision}"
    if restoration.old_database is not None:
        where = (
            restoration.old_database
            if "/" in restoration.old_database
            else f"the schema {restoration.old_database}"
        )
        yield f"the old one is kept in {where}"
    if restoration.files:
        replaced = (
            f", {restoration.replaced} of them in place of damaged ones"
            if restoration.replaced
            else ""
        )
        yield f"{restoration.files} received objects are back in the spool{replaced}"
    if restoration.missing:
        yield f"{len(restoration.missing)} objects that the database names are nowhere:"
        yield from _first_lines([Path(path).stem for path in restoration.missing])
    if restoration.later:
        count = len(restoration.later)
        yield f"{count} objects came after the backup, and only the spool has them:"
        yield from _first_lines(
            [f"{each.sha256} {each.sop_instance_uid}".rstrip() for each in restoration.later]
        )


def _first_lines(lines: list[str]) -> Iterator[str]:
    for line in lines[:_MAX_LISTED]:
        yield f"  {line}"
    if len(lines) > _MAX_LISTED:
        yield f"  and {len(lines) - _MAX_LISTED} more"


def _megabytes(manifest: Manifest) -> int:
    return round(sum(file.size for file in manifest.files.values()) / 1e6)
