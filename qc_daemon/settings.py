"""Every setting of the service, typed, with its default.

Read from a TOML file and the environment (`QC_DAEMON_SECTION__KEY`, which wins). Relative paths
resolve from the settings file's folder.
"""

import ipaddress
import os
import tomllib
from collections.abc import Collection, Sequence
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from detector.console import UsageError
from detector.vocabulary import View
from model.device import NAMES as DEVICE_NAMES
from model.device import is_device_name


class SettingsError(UsageError):
    """A setting that cannot be used; the message is one line that says which and the mend."""


def _ae_title(value: str) -> str:
    """AE value representation (PS3.5 6.2): 1-16 characters, no backslash, no control."""
    title = value.strip()
    if not 1 <= len(title) <= 16 or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def _network(value: str) -> str:
    ipaddress.ip_network(value, strict=False)
    return value


def _device(value: str) -> str:
    if not is_device_name(value):
        raise ValueError(f"a device is {DEVICE_NAMES}")
    return value


def _fingerprint(value: str) -> str:
    """SHA-256 of a certificate in hexadecimal; colons and capitals as openssl prints them pass."""
    digits = value.replace(":", "").lower()
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise ValueError("a certificate is named by its SHA-256, 64 hexadecimal digits")
    return digits


def _web_address(value: str) -> str:
    """http or https with a host; secrets have settings of their own."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a DICOMweb service is named as https://HOST[:PORT]/PATH")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("no user, query or fragment in it; see user, password and token")
    if parts.port == 0:
        raise ValueError("a port is 1 to 65535")
    return value.rstrip("/")


def _list(value: Any) -> Any:
    """One pattern may stand without its brackets."""
    return [value] if isinstance(value, str) else value


AETitle = Annotated[str, AfterValidator(_ae_title)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
Network = Annotated[str, AfterValidator(_network)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Secret = Annotated[str, Field(pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$")]
"""Where a secret is: `env:NAME` or `file:PATH`."""
Port = Annotated[int, Field(ge=0, le=65535)]
ObjectKind = Literal["source", "sr", "overlay", "key-objects", "pdf"]


Patterns = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(min_length=1), BeforeValidator(_list)
]
"""Shell-style patterns, one of which a text has to be like."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class StoreSettings(_Section):
    """Where rows and received bytes are kept."""

    url: str = "sqlite:///var/qc.db"
    spool: Path = Path("var/spool")
    keep_pixels_days: Annotated[int, Field(ge=0)] | Literal["forever"] = 400
    keep_overlays_days: int = Field(default=7, ge=0)
    scrub_at: time = Field(
        default=time(1), description="when each night's pass over the spool begins, local time"
    )
    scrub_megabytes_per_second: float = Field(
        default=20.0, ge=0, le=10_000, description="how fast the spool is read through; 0: never"
    )


class ClientTLSSettings(_Section):
    """TLS towards a peer that we call (PS3.15 B.12).

    `ca` verifies it, the system's authorities do without; `server_name` is the name in its
    certificate where that is not the host we call; `certificate` and `key` are what we show.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    minimum: Literal["1.2", "1.3"] = "1.2"

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together; give both or neither")
        return self


class PeerSettings(_Section):
    """A sender that may store to us: calling AE title and address range.

    With a `certificate` it must come over TLS and show that one. `port` is where it takes storage
    commitment reports, at the address that the request came from; `tls` how it is called there.
    """

    ae_title: AETitle
    address: Network = "0.0.0.0/0"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    certificate: Fingerprint | None = None
    tls: ClientTLSSettings | None = None


class TLSSettings(_Section):
    """TLS for the receiver (PS3.15 B.12): a port of its own beside the plain one.

    `ca` holds the authorities of the senders' certificates; files may be renewed while we run.
    """

    certificate: Path
    key: Path
    ca: Path | None = None
    mutual: Literal["required", "optional", "none"] = "required"
    minimum: Literal["1.2", "1.3"] = "1.2"
    port: Port = 2762
    only: bool = Field(default=False, description="no plain port beside this one")


class PressureSettings(_Section):
    """When we ask senders to wait: soft marks turn new associations away, hard ones every object.

    Free space of the spool's disk: below the percentage or the megabytes, whichever is less, so
    that neither a huge nor a small disk stops early. Queue: how long the oldest due score job has
    waited; 0: no mark. A week by default: workers that are down are no reason to stop forwarding.
    """

    soft_free_percent: float = Field(default=10.0, ge=0, le=100)
    hard_free_percent: float = Field(default=5.0, ge=0, le=100)
    soft_free_megabytes: int = Field(default=10_240, ge=0)
    hard_free_megabytes: int = Field(default=2_048, ge=0)
    soft_queue_minutes: float = Field(default=10_080.0, ge=0)
    hard_queue_minutes: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _soft_before_hard(self) -> Self:
        for unit in ("percent", "megabytes"):
            if getattr(self, f"soft_free_{unit}") < getattr(self, f"hard_free_{unit}"):
                raise ValueError(
                    f"soft_free_{unit} must not be below hard_free_{unit}:"
                    " the soft mark is the one that is reached first"
                )
        return self


class ReceiveSettings(_Section):
    """The DICOM receiver."""

    ae_title: AETitle = "QCDAEMON"
    host: str = "127.0.0.1"
    port: Port = 11112
    processes: int = Field(
        default_factory=lambda: min(2, os.cpu_count() or 1),
        ge=1,
        le=64,
        description="receivers on the one port, each bound by Python's lock",
    )
    max_associations: int = Field(default=64, ge=1, description="of all processes together")
    max_associations_per_ae: int = Field(
        default=16, ge=0, description="with one calling AE title; 0: no cap"
    )
    artim_timeout: float = Field(
        default=10.0, gt=0, description="how long a connection may stay without a request"
    )
    network_timeout: float = Field(default=60.0, gt=0)
    quiet_seconds: float = Field(default=60.0, ge=0)
    max_open_minutes: float = Field(default=240.0, gt=0)
    peer: list[PeerSettings] = []
    tls: TLSSettings | None = None
    pressure: PressureSettings = PressureSettings()


class ScoreSettings(_Section):
    """The models and how frames reach them."""

    bundle: str = "default"
    device: Annotated[str, AfterValidator(_device)] = "auto"
    threads: int = Field(default=0, ge=0, le=1024, description="torch threads, 0: one per core")
    cine_frames: int = Field(
        default=16, ge=0, description="frames scored of a cine, evenly spread; 0: all"
    )
    augment: int = Field(
        default=0,
        ge=0,
        le=16,
        description="further looks at each region, averaged; n of them cost n times as much again",
    )
    decode_seconds: float = Field(default=120.0, gt=0)
    decode_megabytes: int = Field(default=4096, ge=256)
    max_pixels: int = Field(default=64_000_000, ge=1, description="rows x columns of one frame")


class DestinationSettings(_Section):
    """Where originals and results go: `dicom` by C-STORE, `dicomweb` by STOW-RS, or into a folder.

    `commitment`: whether an object counts as delivered only once the destination has committed to
    it. auto: where it takes such requests; required: it waits until it does; off: never asked.
    `token` (Bearer) or `user` with `password` say who we are to a DICOMweb service; the secrets
    themselves stand in the environment or in a file, read anew each time.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    kind: Literal["dicom", "dicomweb", "folder"] = "dicom"
    ae_title: AETitle = "PACS"
    host: str = "127.0.0.1"
    port: Port = 104
    url: WebAddress | None = Field(
        default=None, description="of the DICOMweb service, without /studies"
    )
    token: Secret | None = None
    user: Annotated[str, Field(pattern=r"^[^:\x00-\x1f]+$")] | None = None
    password: Secret | None = None
    folder: Path | None = None
    layout: Literal["flat", "study"] = Field(
        default="flat",
        description="of a folder: UID.dcm, or by day and exam, with PDFs and PNGs beside them",
    )
    objects: list[ObjectKind] = ["sr", "overlay"]
    tls: ClientTLSSettings | None = None
    timeout: float = Field(default=60.0, gt=0)
    commitment: Literal["auto", "off", "required"] = "auto"
    commitment_timeout: float = Field(
        default=600.0, gt=0, description="seconds a report may take before it is asked for again"
    )
    max_associations: int = Field(
        default=2, ge=1, le=16, description="objects on their way to it at once, of one process"
    )
    objects_per_minute: float | None = Field(
        default=None, gt=0, description="at most, of one process; no limit without"
    )


class RuleSettings(_Section):
    """Which objects go where, before what the destinations take by themselves.

    For each kind of object the first rule decides that lists it in `objects` and whose conditions
    all hold: it goes `to` these destinations and no others, or with `drop` nowhere. Where no rule
    decides, the destinations' own `objects` do. Texts are compared with shell-style patterns
    without regard to case; an absent text is empty.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    calling_ae: Patterns | None = None
    station: Patterns | None = Field(default=None, description="Station Name (0008,1010)")
    study: Patterns | None = Field(default=None, description="Study Description (0008,1030)")
    view: Annotated[list[View], Field(min_length=1)] | None = None
    verdict: (
        Annotated[list[Literal["standard", "non-standard", "review"]], Field(min_length=1)] | None
    ) = None
    objects: list[ObjectKind] = Field(min_length=1)
    to: list[str] = []
    drop: bool = False

    @property
    def asks_result(self) -> bool:
        """Whether it can be decided only once the object is scored."""
        return self.view is not None or self.verdict is not None


class ReportSettings(_Section):
    """What a person reads: overlays and exam summaries. The SR is in codes and stays English."""

    language: Literal["en", "de", "zh"] = "en"
    views: list[Literal["NT", "CRL", "HEAD", "ABDOMEN"]] = Field(
        default=["NT", "CRL", "HEAD", "ABDOMEN"],
        min_length=1,
        description="what an exam should show; the summary calls the others of these missing",
    )


class ScheduleSettings(_Section):
    """When things happen, and the zone that times on pages are in."""

    timezone: str | None = Field(
        default=None, description="IANA name, as Europe/Berlin; else this machine's zone"
    )

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                ZoneInfo(name)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError("is no time zone; give its IANA name, as Europe/Berlin") from None
        return name

    @property
    def zone(self) -> ZoneInfo | None:
        """None for this machine's zone."""
        return None if self.timezone is None else ZoneInfo(self.timezone)


class JobSettings(_Section):
    """The queue: leases, attempts and back-off."""

    lease_seconds: float = Field(default=300.0, gt=0)
    max_attempts: int = Field(default=15, ge=1)
    max_deaths: int = Field(default=3, ge=1)
    backoff_seconds: float = Field(default=30.0, ge=0)
    backoff_cap_seconds: float = Field(default=3600.0, ge=0)
    poll_seconds: float = Field(default=1.0, gt=0)


class ObserveSettings(_Section):
    """`/metrics`, `/health` and `/ready` over HTTP; off unless a port is named (0: a free one)."""

    host: str = "127.0.0.1"
    port: Port | None = None


class Settings(BaseSettings):
    """All settings; `load` is the one way to make them."""

    model_config = SettingsConfigDict(
        env_prefix="QC_DAEMON_", env_nested_delimiter="__", extra="forbid", validate_default=True
    )

    store: StoreSettings = StoreSettings()
    receive: ReceiveSettings = ReceiveSettings()
    score: ScoreSettings = ScoreSettings()
    report: ReportSettings = ReportSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    jobs: JobSettings = JobSettings()
    observe: ObserveSettings = ObserveSettings()
    destination: list[DestinationSettings] = []
    rule: list[RuleSettings] = []

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

    Raises SettingsError with one line that names the setting and the mend.
    """
    data: dict[str, Any] = {}
    base = Path.cwd()
    if path is not None:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SettingsError(f"settings file {path} does not exist; see --config") from None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"settings file {path} cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"settings file {path} is not valid TOML: {error}") from None
        base = path.resolve().parent
    try:
        settings = Settings(**data)
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None
    names = [destination.name for destination in settings.destination]
    if len(names) != len(set(names)):
        raise SettingsError("destination.name: two destinations share a name; rename one")
    for destination in settings.destination:
        _check_destination(destination)
    _check_rules(settings.rule, names)
    _check_certificates(settings.receive)
    return _resolve(settings, base)


def _check_destination(destination: DestinationSettings) -> None:
    """Each destination can be reached as its kind asks."""
    name, kind = f"destination {destination.name}", destination.kind
    if kind == "folder" and destination.folder is None:
        raise SettingsError(f"{name}: kind folder needs folder = PATH")
    if kind != "folder" and destination.layout != "flat":
        raise SettingsError(f"{name}: layout needs kind folder; remove layout or change kind")
    if kind == "dicomweb" and destination.url is None:
        raise SettingsError(f'{name}: kind dicomweb needs url = "https://..."')
    if kind != "dicom" and destination.commitment == "required":
        raise SettingsError(f"{name}: commitment required needs kind dicom; leave commitment away")
    named = [key for key in ("url", "token", "user", "password") if getattr(destination, key)]
    if kind != "dicomweb" and named:
        raise SettingsError(f"{name}: {named[0]} needs kind dicomweb; remove it or mend kind")
    if (destination.user is None) != (destination.password is None):
        raise SettingsError(f"{name}: user and password go together; give both or neither")
    if destination.token is not None and destination.user is not None:
        raise SettingsError(f"{name}: token and user exclude each other; remove one")
    secure = (destination.url or "").startswith("https:")
    if kind == "dicomweb" and destination.tls is not None and not secure:
        raise SettingsError(f"{name}: tls needs a url with https")


def _check_rules(rules: Sequence[RuleSettings], destinations: Collection[str]) -> None:
    """Each rule says one thing that can be done."""
    names = [rule.name for rule in rules]
    if len(names) != len(set(names)):
        raise SettingsError("rule.name: two rules share a name; rename one")
    for rule in rules:
        if bool(rule.to) == rule.drop:
            raise SettingsError(f"rule {rule.name}: give either to = [...] or drop = true")
        unknown = next((name for name in rule.to if name not in destinations), None)
        if unknown is not None:
            raise SettingsError(f"rule {rule.name}: there is no destination {unknown}; mend to")
        if rule.asks_result and "source" in rule.objects:
            raise SettingsError(
                f"rule {rule.name}: source is forwarded before it is scored; take source out of"
                " objects, or view and verdict out of the rule"
            )


def _check_certificates(receive: ReceiveSettings) -> None:
    """Certificates can be asked of senders only where senders are asked for certificates."""
    tls = receive.tls
    if tls is not None and tls.mutual != "none" and tls.ca is None:
        raise SettingsError(
            "receive.tls.ca is missing: name the authorities of the senders' certificates,"
            ' or set receive.tls.mutual = "none"'
        )
    bound = next((peer for peer in receive.peer if peer.certificate), None)
    if bound is not None and (tls is None or tls.mutual == "none"):
        raise SettingsError(
            f"receive.peer {bound.ae_title}: certificate needs [receive.tls], and mutual not none"
        )


def _resolve(settings: Settings, base: Path) -> Settings:
    store = settings.store
    store.spool = base / store.spool
    prefix = "sqlite:///"
    if store.url.startswith(prefix) and store.url != "sqlite:///:memory:":
        store.url = f"{prefix}{base / store.url.removeprefix(prefix)}"
    if settings.receive.tls is not None:
        _resolve_files(settings.receive.tls, base)
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


def _resolve_files(tls: TLSSettings | ClientTLSSettings, base: Path) -> None:
    for name in ("certificate", "key", "ca"):
        path = getattr(tls, name)
        if path is not None:
            setattr(tls, name, base / path)


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"setting {where} is unknown; remove it or mend its spelling"
    return f"setting {where}: {first['msg'].removeprefix('Value error, ')}"
