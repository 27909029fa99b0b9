"""Every setting of the service, typed, with its default.

Read from a TOML file and the environment (`QC_DAEMON_SECTION__KEY`, which wins). Relative paths
resolve from the settings file's folder.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

from qc_daemon.settings.checks import find_problems
from qc_daemon.settings.destinations import DestinationSettings, RuleSettings
from qc_daemon.settings.digests import MailSettings, WebhookSettings
from qc_daemon.settings.hl7 import HL7Settings
from qc_daemon.settings.observe import AuditLogSettings, AuditServerSettings, ObserveSettings
from qc_daemon.settings.problems import (
    SettingsError,
    problems_of,
    problems_of_environment,
    without_unknown,
)
from qc_daemon.settings.receive import ReceiveSettings
from qc_daemon.settings.review import AuditSettings, ReportSettings, ReviewSettings
from qc_daemon.settings.schedule import JobSettings, ScheduleSettings
from qc_daemon.settings.score import ScoreSettings
from qc_daemon.settings.section import resolve_secret
from qc_daemon.settings.store import BackupSettings, StoreSettings
from qc_daemon.settings.tls import ClientTLSSettings, ServerTLSSettings
from qc_daemon.settings.web import WebSettings
from qc_daemon.settings.worklist import WorklistSettings


class Settings(BaseSettings):
    """All settings; `load` is the one way to make them."""

    model_config = SettingsConfigDict(
        env_prefix="QC_DAEMON_", env_nested_delimiter="__", extra="forbid", validate_default=True
    )

    store: StoreSettings = StoreSettings()
    receive: ReceiveSettings = ReceiveSettings()
    score: ScoreSettings = ScoreSettings()
    report: ReportSettings = ReportSettings()
    review: ReviewSettings = ReviewSettings()
    audit: AuditSettings = AuditSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    backup: BackupSettings = BackupSettings()
    jobs: JobSettings = JobSettings()
    mail: MailSettings = MailSettings()
    webhook: list[WebhookSettings] = []
    observe: ObserveSettings = ObserveSettings()
    audit_log: AuditLogSettings = AuditLogSettings()
    web: WebSettings = WebSettings()
    destination: list[DestinationSettings] = []
    rule: list[RuleSettings] = []
    worklist: WorklistSettings = WorklistSettings()
    hl7: HL7Settings = HL7Settings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings)


def load(path: Path | None = None) -> Settings:
    """Settings of the file (None: defaults) and the environment.

    Raises SettingsError with a line for each problem, which names the setting and the fix.
    """
    data: dict[str, Any] = {}
    base = Path.cwd()
    if path is not None:
        data = _read(path)
        base = path.resolve().parent
    problems = problems_of_environment(Settings, os.environ)
    if problems:
        raise SettingsError(*problems)
    return _resolve(checked(data), base)


def load_known(path: Path | None) -> tuple[Settings | None, list[str]]:
    """Settings as `load`, without those that are unknown, and every problem; None where others
    are wrong too."""
    try:
        return load(path), []
    except SettingsError as error:
        problems = list(error.problems)
    try:
        data = {} if path is None else without_unknown(Settings, _read(path))
        base = Path.cwd() if path is None else path.resolve().parent
        return _resolve(checked(data), base), problems
    except SettingsError:
        return None, problems


def checked(data: Mapping[str, Any]) -> Settings:
    """Settings of what a file says, and the environment. Raises SettingsError."""
    try:
        settings = Settings(**data)
    except ValidationError as error:
        raise SettingsError(*problems_of(error, Settings, data)) from None
    except SourceError as error:
        raise SettingsError(f"environment: {_without_values(error)}") from None
    problems = list(find_problems(settings))
    if problems:
        raise SettingsError(*problems)
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        # With or without the mark that Windows' editors begin a file with.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SettingsError(f"settings file {path} does not exist; see --config") from None
    except UnicodeDecodeError:
        raise SettingsError(f"settings file {path} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(f"settings file {path} cannot be read: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings file {path} is not valid TOML: {error}") from None


def _without_values(error: Exception) -> str:
    """pydantic-settings names the field; what stood there may be a secret."""
    match = re.search(r'field "(\w+)"', str(error))
    name = match.group(1) if match else "a setting"
    return f"QC_DAEMON_{name.upper()} is not valid JSON; give JSON, or one value as SECTION__KEY"


def _resolve(settings: Settings, base: Path) -> Settings:
    store = settings.store
    store.spool = base / store.spool
    prefix = "sqlite:///"
    if store.url.startswith(prefix) and store.url != "sqlite:///:memory:":
        store.url = f"{prefix}{base / store.url.removeprefix(prefix)}"
    score = settings.score
    for name in ("backbone", "second_opinion", "view_classifier"):
        part = getattr(score, name)
        if part is not None and "/" in part:
            setattr(score, name, str(base / part))
    if settings.receive.tls is not None:
        _resolve_files(settings.receive.tls, base)
    web = settings.web
    web.certificate = web.certificate and base / web.certificate
    web.key = web.key and base / web.key
    if web.oidc is not None:
        web.oidc.ca = web.oidc.ca and base / web.oidc.ca
        web.oidc.client_secret = resolve_secret(web.oidc.client_secret, base)
    mail = settings.mail
    mail.ca, mail.password = mail.ca and base / mail.ca, resolve_secret(mail.password, base)
    for hook in settings.webhook:
        hook.ca, hook.secret = hook.ca and base / hook.ca, resolve_secret(hook.secret, base) or ""
    settings.backup.folder = settings.backup.folder and base / settings.backup.folder
    if settings.hl7.tls is not None:
        _resolve_files(settings.hl7.tls, base)
    if settings.worklist.tls is not None:
        _resolve_files(settings.worklist.tls, base)
    trail = settings.audit_log
    trail.folder = trail.folder and base / trail.folder
    for server in trail.server:
        _resolve_files(server, base)
    for peer in settings.receive.peer:
        if peer.tls is not None:
            _resolve_files(peer.tls, base)
    for destination in settings.destination:
        if destination.folder is not None:
            destination.folder = base / destination.folder
        for name in ("token", "password"):
            source = getattr(destination, name)
            if source is not None and source.startswith("file:"):
                setattr(destination, name, f"file:{base / source.removeprefix('file:')}")
        if destination.tls is not None:
            _resolve_files(destination.tls, base)
    return settings


def _resolve_files(
    tls: ServerTLSSettings | ClientTLSSettings | AuditServerSettings, base: Path
) -> None:
    for name in ("certificate", "key", "ca"):
        path = getattr(tls, name)
        if path is not None:
            setattr(tls, name, base / path)
