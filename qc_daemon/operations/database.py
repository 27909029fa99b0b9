"""The database for an operator: check, downgrade, save, restore; each returns plain lines."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import count_of
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.backup import Decision, DecisionKind, Manifest, Restoration, restore, save
from qc_daemon.operations.spool import release_orphans
from qc_daemon.records import integrity, schema
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.store import display_url, parse
from qc_daemon.settings import Settings
from qc_daemon.spool import service_lock

_MAX_LISTED = 20


def upgrade(settings: Settings) -> str:
    """Bring the tables to this version's, or make them; a line that says which, and where.

    Raises QCError STORAGE.
    """
    url = settings.store.url
    is_new, file = schema.has_no_tables(url), schema.file_of(url)
    schema.upgrade(url)
    where = display_url(parse(url)) if file is None else f"sqlite:///{file.absolute()}"
    if is_new:
        return f"there was no database: a new one, without any exam, is made: {where}"
    return f"the database {where} is up to date"


def make_if_absent(settings: Settings) -> str | None:
    """Make the tables where there are none; a line that says where, or None.

    Raises QCError STORAGE.
    """
    return upgrade(settings) if schema.has_no_tables(settings.store.url) else None


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

    Raises UsageError for a revision that is not an earlier one, or where no copy can be made and
    `yes` does not say that there is one; QCError STORAGE if a service runs.
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
    schema.check_downgrade(url, revision)
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
    spooled = count_of(len(manifest.spool_files), "received object")
    lines = [f"{folder}: written, the database and {spooled} ({_megabytes(manifest)} MB)"]
    for names, what, command in (
        (manifest.missing, "missing from", "spool check"),
        (manifest.damaged, "damaged in", "spool check --full"),
    ):
        if names:
            objects = count_of(
                len(names),
                f"object that the database names is {what}",
                f"objects that the database names are {what}",
            )
            lines.append(f"{objects} the spool (qc-daemon {command} lists them by exam):")
            lines += _first_lines([Path(name).stem for name in names])
    record(settings, AuditKind.EXPORTED, detail={"what": "backup"}, clock=clock)
    return lines, not (manifest.missing or manifest.damaged)


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """A restore; `released` counts the later objects taken in again, `schema_problem` is what is
    still to be done about the tables, None if nothing."""

    restoration: Restoration
    released: int
    schema_problem: str | None

    @property
    def is_complete(self) -> bool:
        """Whether no file is missing that the database names."""
        return not self.restoration.missing


def restore_all(
    settings: Settings, source: Path, *, release: bool, clock: Clock = utc_now
) -> RestoreResult:
    """Put a backup in place, and with `release` take in what came after it."""
    with _progress_bar("Restoring") as progress:
        restoration = restore(settings, source, clock(), progress)
    record(settings, AuditKind.IMPORTED, detail={"what": "backup"}, clock=clock)
    released = 0
    if release and restoration.later:
        schema.upgrade(settings.store.url)
        released = release_orphans(settings, [each.sha256 for each in restoration.later])
    return RestoreResult(restoration, released, schema.check(settings.store.url))


def describe_restore(result: RestoreResult) -> Iterator[str]:
    """Lines that say what was done, and what is left to do."""
    restoration = result.restoration
    yield from _describe(restoration)
    if result.released:
        yield f"{count_of(result.released, 'of them is', 'of them are')} taken in again"
    elif restoration.later:
        yield "take them in with qc-daemon spool release SHA256 or qc-daemon spool release --all"
    yield from _describe_decisions(restoration)
    if result.schema_problem:
        yield result.schema_problem


def restore_record(result: RestoreResult) -> dict[str, Any]:
    """The same as one object for JSON, with everything listed."""
    restoration = result.restoration
    return {
        "schema_revision": restoration.schema_revision,
        "saved_at": restoration.created,
        "old_database": restoration.old_database,
        "files": restoration.files,
        "replaced": restoration.replaced,
        "sessions_ended": restoration.sessions,
        "missing": [Path(path).stem for path in restoration.missing],
        "later": [asdict(each) for each in restoration.later],
        "released": result.released,
        "decisions": [each.to_json() for each in restoration.decisions.decisions],
        "decisions_problem": restoration.decisions.problem,
        "decisions_file": restoration.decisions_file,
        "schema_problem": result.schema_problem,
    }


@contextmanager
def _progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on the terminal; yields the function that takes files completed and total."""
    terminal = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=terminal,
        transient=True,
        # Into a file it would write an empty line.
        disable=not terminal.is_terminal,
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
        files = count_of(restoration.files, "received object is", "received objects are")
        yield f"{files} back in the spool{replaced}"
    if restoration.sessions:
        yield f"{count_of(restoration.sessions, 'session is', 'sessions are')} ended: log in again"
    if restoration.missing:
        yield (
            count_of(
                len(restoration.missing),
                "object that the database names is",
                "objects that the database names are",
            )
            + " nowhere:"
        )
        yield from _first_lines([Path(path).stem for path in restoration.missing])
    if restoration.later:
        later = count_of(len(restoration.later), "object")
        yield f"{later} came after the backup, and only the spool has what came:"
        yield from _first_lines(
            [f"{each.sha256} {each.sop_instance_uid}".rstrip() for each in restoration.later]
        )


# One decision of a kind, and several, in words.
_DECIDED = {
    DecisionKind.PEER_APPROVED: ("peer approved", "peers approved"),
    DecisionKind.PEER_REMOVED: ("approval of a peer taken back", "approvals of peers taken back"),
    DecisionKind.IMAGE_REJECTED: ("image rejected", "images rejected"),
    DecisionKind.REJECTION_RETRACTED: ("rejection retracted", "rejections retracted"),
    DecisionKind.BUNDLE_ACTIVATED: ("bundle activated", "bundles activated"),
    DecisionKind.EXAM_CLOSED: ("exam closed", "exams closed"),
    DecisionKind.OBJECT_RELEASED: (
        "object released from quarantine",
        "objects released from quarantine",
    ),
    DecisionKind.OBJECT_DISMISSED: (
        "quarantined object dismissed",
        "quarantined objects dismissed",
    ),
    DecisionKind.JOB_RETRIED: ("job retried", "jobs retried"),
    DecisionKind.JOB_CANCELLED: ("job cancelled", "jobs cancelled"),
    DecisionKind.COMMITMENT_RETRIED: (
        "commitment report retried",
        "commitment reports retried",
    ),
    DecisionKind.IDENTITY_MERGED: ("person or device merged", "persons or devices merged"),
    DecisionKind.IDENTITY_SPLIT: ("person or device split", "persons or devices split"),
    DecisionKind.IDENTITY_RENAMED: ("person or device named", "persons or devices named"),
    DecisionKind.FINDING_REVIEWED: ("review of a finding", "reviews of findings"),
    DecisionKind.TEACHING_DECIDED: (
        "decision on an image for teaching",
        "decisions on images for teaching",
    ),
    DecisionKind.SITE_ACTIVATED: ("site calibration activated", "site calibrations activated"),
    DecisionKind.SITE_RETIRED: ("site calibration retired", "site calibrations retired"),
    DecisionKind.SITE_WAIVED: ("site calibration waived", "site calibrations waived"),
    DecisionKind.ACCOUNT_ADDED: ("account added", "accounts added"),
    DecisionKind.ACCOUNT_CHANGED: ("change of an account", "changes of accounts"),
    DecisionKind.ACCOUNT_ENABLED: ("account enabled", "accounts enabled"),
    DecisionKind.ACCOUNT_DISABLED: ("account disabled", "accounts disabled"),
    DecisionKind.ACCOUNT_LINKED: (
        "account linked to a provider's person",
        "accounts linked to a provider's persons",
    ),
    DecisionKind.ACCOUNT_UNLINKED: (
        "account unlinked from a provider's person",
        "accounts unlinked from a provider's persons",
    ),
    DecisionKind.PASSWORD_SET: ("password set", "passwords set"),
    DecisionKind.TOKEN_REVOKED: ("token revoked", "tokens revoked"),
    DecisionKind.PATIENT_ERASED: ("erasure of a patient", "erasures of patients"),
    DecisionKind.PATIENT_CHANGED: ("correction of a patient", "corrections of patients"),
}
# What is to be repeated in turn is one list.
_OF_ACCOUNTS = (
    DecisionKind.ACCOUNT_ADDED,
    DecisionKind.PASSWORD_SET,
    DecisionKind.ACCOUNT_CHANGED,
    DecisionKind.ACCOUNT_ENABLED,
    DecisionKind.ACCOUNT_DISABLED,
    DecisionKind.ACCOUNT_UNLINKED,
    DecisionKind.ACCOUNT_LINKED,
    DecisionKind.TOKEN_REVOKED,
)
_IN_TURN: tuple[tuple[DecisionKind, ...], ...] = (
    # First, as it is to be repeated before anybody can log in.
    _OF_ACCOUNTS,
    (DecisionKind.IMAGE_REJECTED, DecisionKind.REJECTION_RETRACTED),
    (
        DecisionKind.IDENTITY_MERGED,
        DecisionKind.IDENTITY_SPLIT,
        DecisionKind.IDENTITY_RENAMED,
    ),
    (DecisionKind.SITE_ACTIVATED, DecisionKind.SITE_RETIRED, DecisionKind.SITE_WAIVED),
)
_GROUPS: tuple[tuple[DecisionKind, ...], ...] = (
    *_IN_TURN,
    *((kind,) for kind in DecisionKind if not any(kind in kinds for kinds in _IN_TURN)),
)
# Until these are repeated, somebody who was let out is let in again.
_LET_OUT = {
    DecisionKind.PASSWORD_SET,
    DecisionKind.ACCOUNT_CHANGED,
    DecisionKind.ACCOUNT_DISABLED,
    DecisionKind.ACCOUNT_UNLINKED,
    DecisionKind.TOKEN_REVOKED,
}
# Commands that take any number of ids.
_BY_IDS = {"quarantine release", "queue retry", "queue cancel", "commitment retry"}
_IDS_A_COMMAND = 50


def _describe_decisions(restoration: Restoration) -> Iterator[str]:
    """Decisions of people that only the old database has, by kind, with the commands."""
    comparison = restoration.decisions
    since = f"after {restoration.created}" if restoration.created else "after the backup"
    if comparison.problem:
        more = "else " if comparison.decisions else ""
        yield f"what {more}people decided {since} cannot be told: {comparison.problem};"
        yield (
            "  ask them about peers, rejections, bundles, exams closed by command, quarantine,"
            " the queue, persons and devices, reviews, sites, images for teaching, accounts"
        )
        yield "  who was let out since is let in again: before the service starts, compare"
        yield "  qc-daemon user list and qc-daemon user token list with who may come in"
    elif not comparison.decisions:
        yield f"people decided nothing {since} that would have to be repeated"
    if comparison.decisions:
        lacking = count_of(
            len(comparison.decisions),
            f"decision that people made {since} is",
            f"decisions that people made {since} are",
        )
        yield f"{lacking} not in the restored database; repeat what still holds:"
    for kinds in _GROUPS:
        decisions = [each for each in comparison.decisions if each.kind in kinds]
        if decisions:
            counts = Counter(each.kind for each in decisions)
            yield ", ".join(
                count_of(counts[kind], *_DECIDED[kind]) for kind in kinds if counts[kind]
            )
            if any(counts[kind] for kind in _LET_OUT):
                yield "  repeat them before the service starts: they keep out who was let out"
            yield from _first_lines(_commands(decisions))
    if any(each.needs_object for each in comparison.decisions):
        yield "* its object came after the backup: take that in first"
    if restoration.old_database is None or not (comparison.decisions or comparison.problem):
        return
    if restoration.decisions_file is not None:
        yield f"the whole list of decisions is in {restoration.decisions_file}; keep it: another"
        yield "  restore compares with the database as it is now"
    else:
        yield "the list of decisions could not be written to a file; keep these lines: another"
        yield "  restore compares with the database as it is now"


def _commands(decisions: Sequence[Decision]) -> list[str]:
    """A line for each decision: its command, or what it was about; ids share a command."""
    lines = []
    ids: dict[str, list[str]] = {}
    for each in decisions:
        mark = " *" if each.needs_object else ""
        if each.verb in _BY_IDS:
            ids.setdefault(each.verb, []).append(each.argument)
        else:
            lines.append(f"{each.command or each.subject}{mark}")
    for verb, numbers in ids.items():
        for start in range(0, len(numbers), _IDS_A_COMMAND):
            page = " ".join(numbers[start : start + _IDS_A_COMMAND])
            lines.append(f"qc-daemon {verb} {page}")
    return lines


def _first_lines(lines: list[str]) -> Iterator[str]:
    for line in lines[:_MAX_LISTED]:
        yield f"  {line}"
    if len(lines) > _MAX_LISTED:
        yield f"  and {len(lines) - _MAX_LISTED} more"


def _megabytes(manifest: Manifest) -> int:
    return round(sum(file.size for file in manifest.files.values()) / 1e6)
