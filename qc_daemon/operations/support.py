"""A bundle for whoever helps from afar: what is installed, set, counted and wrong here.

It has no patient data by what it is made of: results of checks, settings without secrets and mail
addresses, versions, numbers of rows, and of a log only lines and keys of our own vocabulary.
"""

import io
import json
import platform
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from detector.errors import ErrorCode, QCError
from qc_daemon.audit_trail.verification import verify
from qc_daemon.observe import log
from qc_daemon.observe.events import EVENTS
from qc_daemon.operations.audit_log import list_chains
from qc_daemon.operations.doctor_checks.check_result import CheckResult
from qc_daemon.records import schema
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.store import Store, display_url, parse
from qc_daemon.records.tables import Base
from qc_daemon.settings import Settings
from qc_daemon.spool import private_files

MAX_LOG_LINES = 20_000
_HIDDEN = "(left out)"
# Settings that name people or may hold a secret; where a secret stands is no secret.
_PRIVATE = ("address", "sender", "user")


def write_support(
    settings: Settings,
    out: Path,
    checks: Iterable[CheckResult],
    log_file: Path | None = None,
    clock: Clock = utc_now,
) -> None:
    """Write the bundle, a .tar.gz. Raises QCError STORAGE where it cannot be written or the log
    cannot be read."""
    files: dict[str, Any] = {
        "checks.json": [
            {"check": each.name, "result": each.word, "message": each.message} for each in checks
        ],
        "settings.json": shown_settings(settings),
        "versions.json": _versions(),
        "counts.json": _counts(settings),
        "audit-log.json": [
            {"chain": each.name, "records": found.records, "problems": found.problems}
            for each in list_chains(settings)
            for found in [verify(each)]
        ],
    }
    try:
        if log_file is not None:
            files["log.json"] = _log_lines(log_file)
        with private_files.replacing(out) as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, content in files.items():
                data = json.dumps(content, indent=1).encode()
                member = tarfile.TarInfo(f"qc-daemon-support/{name}")
                member.size, member.mtime = len(data), int(clock().timestamp())
                tar.addfile(member, io.BytesIO(data))
    except OSError as error:
        raise QCError(
            ErrorCode.STORAGE, f"{error.filename or out}: {(error.strerror or 'error').lower()}"
        ) from error


def shown_settings(settings: Settings) -> dict[str, Any]:
    """The settings without what is private: mail addresses, users, a password in the database's
    address."""
    values = settings.model_dump(mode="json")
    values["store"]["url"] = display_url(parse(settings.store.url))
    for section in (values["mail"], *values["mail"]["recipient"], *values["destination"]):
        for key in _PRIVATE:
            if section.get(key) is not None:
                section[key] = _HIDDEN
    return values


def _versions() -> dict[str, Any]:
    packages = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    return {
        "qc-daemon": metadata.version("qc-daemon"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "packages": dict(sorted(packages.items())),
    }


def _counts(settings: Settings) -> dict[str, Any]:
    """Rows of each table, the tables' version, and the room on the spool's disk."""
    counts: dict[str, Any] = {}
    spool = settings.store.spool
    folder = next(each for each in (spool, *spool.parents) if each.is_dir())
    usage = shutil.disk_usage(folder)
    counts["disk"] = {"bytes": usage.total, "free": usage.free}
    try:
        counts["revision"] = schema.revision_of(settings.store.url)
        if schema.check(settings.store.url) is None:
            with Store(settings.store.url).read() as session:
                counts["rows"] = {
                    name: session.scalar(select(func.count()).select_from(table))
                    for name, table in sorted(Base.metadata.tables.items())
                }
    except QCError as error:
        counts["error"] = error.message
    return counts


def _log_lines(path: Path) -> dict[str, Any]:
    """Lines of our own events, with our own keys only; how many others there were."""
    lines: list[Mapping[str, Any]] = []
    others = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
                is_ours = line["event"] in EVENTS
            except (ValueError, KeyError, TypeError):
                is_ours = False
            if not is_ours:
                others += 1
                continue
            lines.append(log.only_allowed(None, "", line))
            if len(lines) > MAX_LOG_LINES:
                del lines[: MAX_LOG_LINES // 2]
    return {"lines": lines, "left_out": others}
