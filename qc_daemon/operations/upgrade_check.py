"""What an upgrade to the code that is installed here will do, before it is started.

It changes nothing, and asks the database only what tables of every version answer.
"""

import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from detector.code_digest import code_digest
from detector.errors import QCError
from detector.plain_text import count_of, visible
from model.bundle.bundle import read_model_id, shipped_bundles, verify
from qc_daemon.operations.database import describe_damage, describe_extent
from qc_daemon.operations.doctor_checks.check_result import CheckResult
from qc_daemon.records import any_version, integrity, schema
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings, load_known
from qc_daemon.spool import running_services, service_lock

_INTEGRITY_SECONDS = 30.0
_GIB = 2**30


def examine_upgrade(config: Path | None, backups: Path | None = None) -> Iterator[CheckResult]:
    """A result for each thing that an upgrade touches, or that could stop it.

    `backups` is where the database will be saved, by default beside it. What FAILs has to be done
    first; a warning is for a person to know.
    """
    yield CheckResult("version", True, f"{version('qc-daemon')}, code {code_digest()}")
    settings, problems = load_known(config)
    yield from (CheckResult("settings", False, problem) for problem in problems)
    if settings is None:
        yield CheckResult(
            "database", True, "not looked at: the settings cannot be used", warning=True
        )
        return
    if not problems:
        yield CheckResult("settings", True, "every one is known and can be used")
    try:
        yield from _examine_store(settings, backups)
    except QCError as error:
        yield CheckResult("database", False, error.message)


def _examine_store(settings: Settings, backups: Path | None) -> Iterator[CheckResult]:
    url = settings.store.url
    if schema.has_no_tables(url):
        yield CheckResult("database", True, "there is none yet: this is no upgrade")
        return
    if not schema.has_revision(schema.revision_of(url)):
        yield CheckResult("database", False, schema.check(url) or "")
        return
    damage = integrity.examine(url, seconds=_INTEGRITY_SECONDS)
    if not damage.is_sound:
        yield CheckResult("database", False, describe_damage(damage))
        return
    yield CheckResult("database", True, f"sound ({describe_extent(damage)})")
    coming = schema.migrations_to_come(url)
    yield _describe_migrations(url, coming)
    yield _examine_space(settings, backups, is_changed=bool(coming))
    store = Store(url)
    try:
        yield _examine_bundle(store)
        yield _describe_queue(store)
    finally:
        store.close()
    yield from _examine_services(settings, is_changed=bool(coming))


def _describe_migrations(url: str, coming: list[str]) -> CheckResult:
    current = schema.describe_revision(schema.revision_of(url))
    if not coming:
        return CheckResult("migrations", True, f"none: the database is at {current}")
    listed = ", ".join(map(schema.describe_revision, coming))
    return CheckResult(
        "migrations",
        True,
        f"{count_of(len(coming), 'migration')} in one transaction, from {current}: {listed}",
    )


def _examine_space(settings: Settings, backups: Path | None, *, is_changed: bool) -> CheckResult:
    """Whether there is room for a backup of the database, and for what a migration writes."""
    url = settings.store.url
    file = schema.file_of(url)
    folder = backups or (settings.store.spool if file is None else file).parent
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return CheckResult("backup", False, f"{existing}: {(error.strerror or 'error').lower()}")
    size = schema.size_of(url)
    # A migration may write every table anew before it is committed; SQLite does so beside its file.
    needed = size * 2 if is_changed and file is not None else size
    what = "backup and migrations need" if needed > size else "a backup needs"
    summary = (
        f"the database has {_size(size)}; {what} {_size(needed)} at {existing},"
        f" {_size(free)} are free"
    )
    return CheckResult(
        "backup", needed <= free, summary if needed <= free else f"{summary}: make room"
    )


def _examine_bundle(store: Store) -> CheckResult:
    """Whether this version can read the bundle that is active, and where that lies."""
    with store.read() as session:
        active = any_version.active_bundle(session)
    if active is None:
        return CheckResult("bundle", True, "none is active yet")
    path, model_id = active
    shipped = {read_model_id(name): name for name in shipped_bundles()}
    if model_id in shipped:
        return CheckResult("bundle", True, f"{shipped[model_id]}, which comes with this version")
    folder = Path(path)
    where = visible(str(folder))
    if not folder.is_dir():
        return CheckResult("bundle", False, f"the active one is not there: {where}")
    problems = verify(folder)
    if problems:
        return CheckResult("bundle", False, f"{where}: {problems[0]}")
    if folder.parent.parts[-2:] == ("model", "bundles"):
        return CheckResult(
            "bundle",
            True,
            f"the active one is part of another release ({where}), which a later upgrade removes:"
            f" copy the folder and activate the copy, or activate {shipped_bundles()[0]}",
            warning=True,
        )
    return CheckResult("bundle", True, f"{where}, of a format that this version reads")


def _describe_queue(store: Store) -> CheckResult:
    with store.read() as session:
        counts = any_version.count_jobs(session)
        exams = any_version.count_open_exams(session)
    pending = [
        f"{counts[state]} {words}"
        for state, words in (
            ("ready", "wait"),
            ("leased", "are at work"),
            ("sent", "are sent and not committed yet"),
        )
        if counts.get(state)
    ]
    parts = [f"of jobs {', '.join(pending)}: they go on afterwards" if pending else "no job waits"]
    if exams:
        parts.append(f"{count_of(exams, 'exam is', 'exams are')} open")
    return CheckResult("queue", True, "; ".join(parts))


def _examine_services(settings: Settings, *, is_changed: bool) -> Iterator[CheckResult]:
    """The services on this spool that run other code: they do not know the tables to come."""
    spool = settings.store.spool
    services = running_services.list_running(spool)
    ours, other = version("qc-daemon"), []
    for each in services:
        words = f"{', '.join(each.roles)} on {each.host} (process {each.pid})"
        if (each.version, each.code) == (ours, code_digest()):
            yield CheckResult("service", True, f"{words} runs this code already")
        else:
            other.append(f"{words} runs {each.version}, code {each.code}")
    if not services and service_lock.is_running(spool):
        other.append("one runs that does not say its version: an older one")
    fix = (
        "stop it before, on every host: it does not know the tables to come"
        if is_changed
        else "restart it afterwards"
    )
    yield from (CheckResult("service", True, f"{each}; {fix}", warning=True) for each in other)
    if not services and not other:
        yield CheckResult("service", True, "none runs")


def _size(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB else f"{size / 2**20:.1f} MiB"
