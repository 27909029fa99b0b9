"""Every setting of the service, typed, with its default.

Read from a TOML file and the environment (`QC_DAEMON_SECTION__KEY`, which wins). Relative paths
resolve from the settings file's folder.
"""

import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BeforeValidator,
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
from pydantic_settings import (
    SettingsError as SourceError,
)

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import Flag
from model.device import NAMES as DEVICE_NAMES
from model.device import is_device_name
from qc_daemon.audit_log_settings import AuditLogSettings, AuditServerSettings
from qc_daemon.settings_problems import (
    nearest,
    problems_of,
    problems_of_environment,
    without_unknown,
)
from qc_daemon.settings_section import Network, Port, Secret, resolve_secret
from qc_daemon.settings_section import Section as _Section
from qc_daemon.web_settings import WebSettings


class SettingsError(UsageError):
    """Settings that cannot be used: each problem a line that says which one and how to fix it."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    @property
    def lines(self) -> tuple[str, ...]:
        return self.problems


def _ae_title(value: str) -> str:
    """AE value representation (PS3.5 6.2): 1-16 characters, no backslash, no control."""
    title = value.strip()
    if not 1 <= len(title) <= 16 or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def parse_ae_title(value: str, argument: str) -> str:
    """The AE title that an argument of a command gives. Raises UsageError that names it."""
    try:
        return _ae_title(value)
    except ValueError as error:
        raise UsageError(f"{argument}: {error}") from None


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


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise ValueError("a name has 1 to 64 letters, digits, - and _")
    return value


def _mail_address(value: str) -> str:
    if not re.fullmatch(r"[^\s@<>,;:\"()\[\]\\]+@[A-Za-z0-9.-]+", value) or not value.isprintable():
        raise ValueError("a mail address is NAME@HOST, without a person's name before it")
    return value


def _user(value: str) -> str:
    if not re.fullmatch(r"[^:\x00-\x1f]+", value):
        raise ValueError("a user name has at least one character and no colon")
    return value


def _part(value: str) -> str:
    name = value.strip()
    if not name or ("/" not in name and name.startswith(".")):
        raise ValueError("name a part of the bundle, or a part's folder with a / in its path")
    return name


def _list(value: Any) -> Any:
    """A list of one may stand without its brackets."""
    return [value] if isinstance(value, str) else value


def _days_or_forever(value: Any) -> Any:
    if value == "forever" or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    raise ValueError('give a whole number of days, or "forever"')


AETitle = Annotated[str, AfterValidator(_ae_title)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Name = Annotated[str, AfterValidator(_name)]
"""Where a secret is: `env:NAME` or `file:PATH`."""
User = Annotated[str, AfterValidator(_user)]
MailAddress = Annotated[str, AfterValidator(_mail_address)]
PartName = Annotated[str, AfterValidator(_part)]
DeliveredKind = Literal["source", "sr", "overlay", "key-objects", "pdf"]
Objects = Annotated[list[DeliveredKind], BeforeValidator(_list)]
Patterns = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(min_length=1), BeforeValidator(_list)
]
"""Shell-style patterns, one of which a text has to be like."""

# Bounds that no one meets who means what he writes: a slip of the key is refused at start.
_DAY = 86_400.0
_YEAR_MINUTES = 525_600.0
_CENTURY_DAYS = 36_500


class StoreSettings(_Section):
    """Where rows and received bytes are kept."""

    url: str = Field(
        default="sqlite:///var/qc.db",
        description="the database: `sqlite:///PATH` or `postgresql+psycopg://USER@HOST/NAME`",
    )
    spool: Path = Field(default=Path("var/spool"), description="folder of the received files")
    keep_pixels_days: Annotated[
        Annotated[int, Field(ge=0, le=_CENTURY_DAYS)] | Literal["forever"],
        BeforeValidator(_days_or_forever),
    ] = Field(
        default=400,
        description="days that originals stay after delivery, for review and scoring again",
    )
    keep_overlays_days: int = Field(
        default=7, ge=0, le=_CENTURY_DAYS, description="days that overlays stay after delivery"
    )
    scrub_at: time = Field(
        default=time(1), description="when each night's pass over the spool begins, local time"
    )
    scrub_megabytes_per_second: float = Field(
        default=20.0, ge=0, le=10_000, description="how fast the spool is read through; 0: never"
    )


class ClientTLSSettings(_Section):
    """TLS towards a peer that we call (PS3.15 B.12)."""

    ca: Path | None = Field(
        default=None, description="authorities (PEM) that verify it; the system's without"
    )
    certificate: Path | None = Field(default=None, description="what we show (PEM), with `key`")
    key: Path | None = Field(default=None, description="the key of `certificate` (PEM)")
    server_name: str | None = Field(
        default=None, description="the name in its certificate, where that is not the host"
    )
    minimum: Literal["1.2", "1.3"] = Field(default="1.2", description="lowest version of TLS")

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together; give both or neither")
        return self


class PeerSettings(_Section):
    """A sender that may store to us: calling AE title and address range."""

    ae_title: AETitle = Field(description="AE title that it calls by")
    address: Network = Field(
        default="0.0.0.0/0", description="address or network (CIDR) that it calls from"
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None,
        description="where it takes storage commitment reports, at the address it asked from",
    )
    certificate: Fingerprint | None = Field(
        default=None, description="SHA-256 of the certificate that it must show, over TLS"
    )
    tls: ClientTLSSettings | None = Field(default=None, description="how it is called there")


class TLSSettings(_Section):
    """TLS for the receiver (PS3.15 B.12): a port of its own beside the plain one.

    Files may be renewed while the service runs.
    """

    certificate: Path = Field(description="what we show (PEM)")
    key: Path = Field(description="the key of `certificate` (PEM)")
    ca: Path | None = Field(
        default=None, description="authorities (PEM) of the senders' certificates"
    )
    mutual: Literal["required", "optional", "none"] = Field(
        default="required", description="whether senders show a certificate"
    )
    minimum: Literal["1.2", "1.3"] = Field(default="1.2", description="lowest version of TLS")
    port: Port = Field(default=2762, description="port for TLS; 0: a free one")
    only: bool = Field(default=False, description="no plain port beside this one")


class PressureSettings(_Section):
    """When we ask senders to wait: soft marks turn new associations away, hard ones every object.

    Free space of the spool's disk counts below the percentage or the megabytes, whichever is less,
    so that neither a huge nor a small disk stops early.
    """

    soft_free_percent: float = Field(
        default=10.0, ge=0, le=100, description="free space, not below the hard mark"
    )
    hard_free_percent: float = Field(default=5.0, ge=0, le=100, description="free space")
    soft_free_megabytes: int = Field(
        default=10_240, ge=0, description="free space, not below the hard mark"
    )
    hard_free_megabytes: int = Field(default=2_048, ge=0, description="free space")
    soft_queue_minutes: float = Field(
        default=10_080.0,
        ge=0,
        le=_YEAR_MINUTES,
        description="how long the oldest due score job has waited; 0: no mark. A week, for workers"
        " that are down are no reason to stop forwarding",
    )
    hard_queue_minutes: float = Field(
        default=0.0, ge=0, le=_YEAR_MINUTES, description="the same; not below the soft mark"
    )

    @model_validator(mode="after")
    def _soft_before_hard(self) -> Self:
        for unit in ("percent", "megabytes"):
            if getattr(self, f"soft_free_{unit}") < getattr(self, f"hard_free_{unit}"):
                raise ValueError(
                    f"soft_free_{unit} must not be below hard_free_{unit}:"
                    " the soft mark is the one that is reached first"
                )
        if 0 < self.hard_queue_minutes < self.soft_queue_minutes:
            if "soft_queue_minutes" not in self.model_fields_set:
                # Its default is of a service without a hard mark.
                self.soft_queue_minutes = self.hard_queue_minutes
                return self
            raise ValueError(
                "soft_queue_minutes must not be above hard_queue_minutes:"
                " the soft mark is the one that is reached first"
            )
        return self


class ReceiveSettings(_Section):
    """The DICOM receiver."""

    ae_title: AETitle = Field(default="QCDAEMON", description="our AE title")
    host: str = Field(
        default="127.0.0.1", description="address to listen on; 0.0.0.0: every one of the machine"
    )
    port: Port = Field(default=11112, description="port to listen on; 0: a free one")
    processes: int = Field(
        default_factory=lambda: min(2, os.cpu_count() or 1),
        ge=1,
        le=64,
        description="receivers on the one port, each bound by Python's lock",
    )
    max_associations: int = Field(
        default=64, ge=1, le=10_000, description="at once, of all processes together"
    )
    max_associations_per_ae: int = Field(
        default=16, ge=0, le=10_000, description="at once with one calling AE title; 0: no cap"
    )
    artim_timeout: float = Field(
        default=10.0,
        gt=0,
        le=_DAY,
        description="seconds that a connection may stay without a request",
    )
    network_timeout: float = Field(
        default=60.0, gt=0, le=_DAY, description="seconds that an association may be silent"
    )
    quiet_seconds: float = Field(
        default=60.0, ge=0, le=_DAY, description="seconds without an object that close an exam"
    )
    max_open_minutes: float = Field(
        default=240.0, gt=0, le=_YEAR_MINUTES, description="minutes after which an exam is closed"
    )
    peer: list[PeerSettings] = Field(
        default=[], description="who may store; without any only this machine may"
    )
    tls: TLSSettings | None = Field(default=None, description="a port for TLS; none without")
    pressure: PressureSettings = PressureSettings()


class ScoreSettings(_Section):
    """The models and how frames reach them."""

    bundle: str = Field(
        default="default", description="a shipped bundle's name or a folder; seeds the active one"
    )
    backbone: PartName | None = Field(
        default=None,
        description="the CLIP of a bundle whose SpatialCLIP was stored without it: a part of the"
        " bundle by its name, or a part's folder (a path with a /); without, the bundle's own",
    )
    second_opinion: PartName | None = Field(
        default=None,
        description="a part that says what it takes each view for, as FetalCLIP by prompts; named"
        " as `backbone`. Where it stands for another view the verdict is review",
    )
    view_classifier: PartName | None = Field(
        default=None,
        description="another such part, as the dual-branch classifier; likewise",
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        default="auto", description=f"{DEVICE_NAMES}; auto: a GPU where there is one"
    )
    threads: int = Field(
        default=0, ge=0, le=1024, description="threads of the models; 0: one per core"
    )
    cine_frames: int = Field(
        default=16, ge=0, le=100_000, description="frames scored of a cine, evenly spread; 0: all"
    )
    augment: int = Field(
        default=0,
        ge=0,
        le=16,
        description="further looks at each region, averaged; n of them cost n times as much again",
    )
    site: str | None = Field(
        default=None,
        description="the site that all images are from; else each image's Institution Name",
    )
    site_calibration: Literal["propose", "auto", "off"] = Field(
        default="propose",
        description="fitted each night: propose waits for a person (site activate), auto activates"
        " it, off neither fits nor applies any",
    )
    decode_seconds: float = Field(
        default=120.0, gt=0, le=_DAY, description="seconds that one object may take to decode"
    )
    decode_megabytes: int = Field(
        default=4096, ge=256, le=1_048_576, description="memory of the process that decodes"
    )
    max_pixels: int = Field(
        default=64_000_000, ge=1, le=2**31 - 1, description="rows x columns of one frame"
    )


class DestinationSettings(_Section):
    """Where originals and results go: `dicom` by C-STORE, `dicomweb` by STOW-RS, or into a folder.

    `token` (Bearer) or `user` with `password` say who we are to a DICOMweb service; the secrets
    themselves stand in the environment or in a file, read anew each time.
    """

    name: Name = Field(description="what rules, commands and metrics call it")
    kind: Literal["dicom", "dicomweb", "folder"] = Field(
        default="dicom", description="how objects reach it"
    )
    ae_title: AETitle = Field(default="PACS", description="AE title that we call (dicom)")
    host: str = Field(default="127.0.0.1", description="its address (dicom)")
    port: Port = Field(default=104, description="its port (dicom)")
    url: WebAddress | None = Field(
        default=None, description="of the DICOMweb service, without /studies"
    )
    token: Secret | None = Field(
        default=None, description="`env:NAME` or `file:PATH` of a Bearer token (dicomweb)"
    )
    user: User | None = Field(default=None, description="user name (dicomweb), with `password`")
    password: Secret | None = Field(
        default=None, description="`env:NAME` or `file:PATH` of the password (dicomweb)"
    )
    folder: Path | None = Field(
        default=None, description="where files are written (folder); it has to be there"
    )
    layout: Literal["flat", "study"] = Field(
        default="flat",
        description="of a folder: UID.dcm, or by day and exam, with PDFs and PNGs beside them",
    )
    objects: Objects = Field(
        default=["sr", "overlay"],
        description="what goes there where no rule decides; empty only where a rule names it",
    )
    tls: ClientTLSSettings | None = Field(default=None, description="TLS towards it; none without")
    timeout: float = Field(
        default=60.0, gt=0, le=_DAY, description="seconds to connect, and for an answer"
    )
    commitment: Literal["auto", "off", "required"] = Field(
        default="auto",
        description="whether an object counts as delivered only once the destination has committed"
        " to it. auto: where it takes such requests; required: it waits until it does; off: never",
    )
    commitment_timeout: float = Field(
        default=600.0,
        gt=0,
        le=30 * _DAY,
        description="seconds a report may take before it is asked for again",
    )
    max_associations: int = Field(
        default=2, ge=1, le=16, description="objects on their way to it at once, of one process"
    )
    objects_per_minute: float | None = Field(
        default=None, gt=0, le=1e6, description="at most, of one process; no limit without"
    )


class RuleSettings(_Section):
    """Which objects go where, before what the destinations take by themselves.

    For each kind of object the first rule decides that lists it in `objects` and whose conditions
    all hold: it goes `to` these destinations and no others, or with `drop` nowhere. Where no rule
    decides, the destinations' own `objects` do. Texts are compared with shell-style patterns
    without regard to case; an absent text is empty.
    """

    name: Name = Field(description="what `rules test` calls it")
    calling_ae: Patterns | None = Field(default=None, description="AE title of the sender")
    station: Patterns | None = Field(default=None, description="Station Name (0008,1010)")
    study: Patterns | None = Field(default=None, description="Study Description (0008,1030)")
    view: Annotated[list[View], Field(min_length=1), BeforeValidator(_list)] | None = Field(
        default=None, description="the view found"
    )
    verdict: (
        Annotated[
            list[Literal["standard", "non-standard", "review"]],
            Field(min_length=1),
            BeforeValidator(_list),
        ]
        | None
    ) = Field(default=None, description="the verdict on it")
    objects: Objects = Field(min_length=1, description="the kinds of object it decides about")
    to: Annotated[list[str], BeforeValidator(_list)] = Field(
        default=[], description="names of destinations"
    )
    drop: bool = Field(default=False, description="these objects go nowhere")

    @property
    def needs_findings(self) -> bool:
        """Whether it can be decided only once the object is scored."""
        return self.view is not None or self.verdict is not None


class ReportSettings(_Section):
    """What a person reads: overlays and exam summaries. The SR is in codes and stays English."""

    language: Literal["en", "de", "zh"] = Field(default="en", description="of what people read")
    views: Annotated[list[Literal["NT", "CRL", "HEAD", "ABDOMEN"]], BeforeValidator(_list)] = Field(
        default=["NT", "CRL", "HEAD", "ABDOMEN"],
        min_length=1,
        description="what an exam should show; the summary calls the others of these missing",
    )


class ReviewSettings(_Section):
    """Which findings a person has to read, and which readings another person has to repeat."""

    first_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of the findings with a sure verdict that wait for a person, drawn at"
        " random; those that the models leave to a person wait anyway",
    )
    share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of the first readings that a second, blinded one follows, at random",
    )
    risk_share: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="the same share where there is a risk: near the thresholds, a flag, a reader"
        " who disagrees with the models, a new person or device, a reader who scanned it",
    )
    near: float = Field(
        default=0.15,
        ge=0,
        le=0.5,
        description="a probability so far from 0.5 or nearer counts as near the thresholds",
    )
    flags: Annotated[list[Flag], BeforeValidator(_list)] = Field(
        default=[Flag.OUT_OF_DISTRIBUTION, Flag.SAME_UID_OTHER_CONTENT, Flag.COLOUR_DOUBTFUL],
        description="flags that count as a risk",
    )
    new_after: int = Field(
        default=20,
        ge=0,
        le=10_000,
        description="a person or device with fewer images counts as new",
    )
    readers_may_resolve: bool = Field(
        default=False,
        description="whether one of the two whose readings differ, or who scanned the image, may"
        " decide between them; else a third person has to",
    )


class NuchalCurveSettings(_Section):
    """The median NT by crown-rump length that measuring is judged against: log10 of mm is
    constant + linear x CRL + quadratic x CRL^2, CRL in mm. None is shipped: take it from a
    publication, and name that."""

    citation: str = Field(min_length=1, description="where the curve is from; reports name it")
    constant: float = Field(description="of log10 of the median NT in mm")
    linear: float = Field(description="a mm of crown-rump length")
    quadratic: float = Field(default=0.0, description="a square mm of crown-rump length")


class AuditSettings(_Section):
    """What the nightly audit judges, and by what."""

    window_days: int = Field(
        default=365, ge=7, le=3660, description="days that persons, devices and sites are judged by"
    )
    history_days: int = Field(
        default=731,
        ge=7,
        le=3660,
        description="days that trends, drift and weekly points are from; at least the window",
    )
    nt_curve: NuchalCurveSettings | None = Field(
        default=None,
        description="NT by crown-rump length, of a publication; without it everybody's own values",
    )


class ScheduleSettings(_Section):
    """When things happen, and the zone that times on pages are in."""

    audit: str = Field(
        default="02:00",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d|off)$",
        description="local time from which the day before is audited, as 02:00; or off",
    )
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

    @property
    def local_zone(self) -> ZoneInfo:
        """The zone, else this machine's, else UTC."""
        if self.timezone is not None:
            return ZoneInfo(self.timezone)
        target = os.path.realpath("/etc/localtime")
        name = os.environ.get("TZ") or target.partition("zoneinfo/")[2]
        try:
            return ZoneInfo(name or "UTC")
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return ZoneInfo("UTC")

    @property
    def audit_time(self) -> time | None:
        """None where no audit is scheduled."""
        return None if self.audit == "off" else time.fromisoformat(self.audit)


class MailRecipient(_Section):
    """Who gets a digest of each audit by mail (`[[mail.recipient]]`)."""

    address: MailAddress = Field(description="mail address")
    person: str | None = Field(
        default=None,
        description="id of the person whose private report it points to, as in `person list`;"
        " without it the digest is the lab's",
    )
    language: Literal["en", "de", "zh"] | None = Field(
        default=None, description="of the mail; else report.language"
    )


class MailSettings(_Section):
    """Digests of audits by SMTP; off unless a host is named. A mail has links, and no numbers."""

    host: str | None = Field(default=None, description="mail server (SMTP)")
    port: Port = Field(default=587, description="its port")
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="how the connection is made secret"
    )
    ca: Path | None = Field(
        default=None, description="authority of the server's certificate (PEM); else the system's"
    )
    user: str | None = Field(default=None, min_length=1, description="user name, with `password`")
    password: Secret | None = Field(
        default=None, description="`env:NAME` or `file:PATH` of the password"
    )
    sender: MailAddress | None = Field(default=None, description="address that mails are from")
    link: WebAddress | None = Field(
        default=None,
        description="where reports are read, as https://qc.example.org; without it a mail names the"
        " command",
    )
    per_minute: int = Field(
        default=30, ge=1, le=6000, description="at most so many digests a minute"
    )
    recipient: list[MailRecipient] = Field(default=[], description="see below")


class WebhookSettings(_Section):
    """What is called when an audit is done (`[[webhook]]`): a POST of JSON, signed by HMAC-SHA256
    over the header X-QC-Timestamp, a full stop and the body."""

    name: Name = Field(description="its name in lists")
    url: WebAddress = Field(description="called by POST")
    secret: Secret = Field(description="`env:NAME` or `file:PATH` of the key of the signature")
    ca: Path | None = Field(
        default=None, description="authority of the server's certificate (PEM); else the usual"
    )


class JobSettings(_Section):
    """The queue: leases, attempts and back-off."""

    lease_seconds: float = Field(
        default=300.0, gt=0, le=_DAY, description="after which a silent worker's job is free again"
    )
    max_attempts: int = Field(
        default=15, ge=1, le=1_000_000, description="attempts at a job before it is given up"
    )
    max_deaths: int = Field(
        default=3, ge=1, le=1000, description="workers that may die of a job before quarantine"
    )
    backoff_seconds: float = Field(
        default=30.0, ge=0, le=7 * _DAY, description="before the second attempt, then doubled"
    )
    backoff_cap_seconds: float = Field(
        default=3600.0, ge=0, le=7 * _DAY, description="the longest wait between two attempts"
    )
    poll_seconds: float = Field(
        default=1.0, gt=0, le=3600, description="between two looks at the queue"
    )


class ObserveSettings(_Section):
    """The log; `/metrics`, `/live` and `/ready` over HTTP, off unless a port is named."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: Port | None = Field(default=None, description="port to listen on; 0: a free one")
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        default="info", description="lowest level that the log has; `QC_LOG` wins"
    )


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
    jobs: JobSettings = JobSettings()
    mail: MailSettings = MailSettings()
    webhook: list[WebhookSettings] = []
    observe: ObserveSettings = ObserveSettings()
    audit_log: AuditLogSettings = AuditLogSettings()
    web: WebSettings = WebSettings()
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
    problems = list(_problems(settings))
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


def _problems(settings: Settings) -> Iterator[str]:
    """What is wrong although each value by itself is not."""
    names = [destination.name for destination in settings.destination]
    if len(names) != len(set(names)):
        yield "destination.name: two destinations share a name; rename one"
    rule_destinations = {name for rule in settings.rule for name in rule.to}
    for destination in settings.destination:
        yield from _destination_problems(destination)
        if not destination.objects and destination.name not in rule_destinations:
            yield (
                f"destination {destination.name}: nothing goes there; list something in objects,"
                " or name it in a rule's to"
            )
    yield from _rule_problems(settings.rule, names)
    yield from _certificate_problems(settings.receive)
    yield from _digest_problems(settings)


def _digest_problems(settings: Settings) -> Iterator[str]:
    """Digests go to a server that is named, from an address, to each recipient once."""
    mail = settings.mail
    if mail.host is not None and mail.sender is None:
        yield "mail.sender is missing: give the address that mails are from"
    if mail.host is None and mail.recipient:
        yield "mail.host is missing: name the mail server, or remove mail.recipient"
    if (mail.user is None) != (mail.password is None):
        yield "mail: user and password go together; give both or neither"
    if mail.user is not None and mail.security == "none":
        yield "mail: a password is not sent without TLS; set security to starttls or tls"
    keys = [(each.address, each.person) for each in mail.recipient]
    if len(keys) != len(set(keys)):
        yield "mail.recipient: an address is listed twice for the same report; remove one"
    names = [hook.name for hook in settings.webhook]
    if len(names) != len(set(names)):
        yield "webhook.name: two webhooks share a name; rename one"


def _destination_problems(destination: DestinationSettings) -> Iterator[str]:
    """Each destination can be reached as its kind asks."""
    name, kind = f"destination {destination.name}", destination.kind
    if kind == "folder" and destination.folder is None:
        yield f"{name}: kind folder needs folder = PATH"
    if kind != "folder" and destination.layout != "flat":
        yield f"{name}: layout needs kind folder; remove layout or change kind"
    if kind == "dicomweb" and destination.url is None:
        yield f'{name}: kind dicomweb needs url = "https://..."'
    if kind != "dicom" and destination.commitment == "required":
        yield f"{name}: commitment required needs kind dicom; leave commitment away"
    web_keys = [key for key in ("url", "token", "user", "password") if getattr(destination, key)]
    if kind != "dicomweb" and web_keys:
        yield f"{name}: {web_keys[0]} needs kind dicomweb; remove it or fix kind"
    if (destination.user is None) != (destination.password is None):
        yield f"{name}: user and password go together; give both or neither"
    if destination.token is not None and destination.user is not None:
        yield f"{name}: token and user exclude each other; remove one"
    secure = (destination.url or "").startswith("https:")
    if kind == "dicomweb" and destination.tls is not None and not secure:
        yield f"{name}: tls needs a url with https"


def _rule_problems(rules: Sequence[RuleSettings], destinations: Collection[str]) -> Iterator[str]:
    """Each rule says one thing that can be done."""
    names = [rule.name for rule in rules]
    if len(names) != len(set(names)):
        yield "rule.name: two rules share a name; rename one"
    for rule in rules:
        if bool(rule.to) == rule.drop:
            yield f"rule {rule.name}: give either to = [...] or drop = true"
        unknown = next((name for name in rule.to if name not in destinations), None)
        if unknown is not None:
            suggestion = nearest(unknown, destinations)
            hint = f"; did you mean {suggestion}?" if suggestion else "; fix to"
            yield f"rule {rule.name}: there is no destination {unknown}{hint}"
        if rule.needs_findings and "source" in rule.objects:
            yield (
                f"rule {rule.name}: source is forwarded before it is scored; take source out of"
                " objects, or view and verdict out of the rule"
            )


def _certificate_problems(receive: ReceiveSettings) -> Iterator[str]:
    """Certificates can be asked of senders only where senders are asked for certificates."""
    tls = receive.tls
    if tls is not None and tls.mutual != "none" and tls.ca is None:
        yield (
            "receive.tls.ca is missing: name the authorities of the senders' certificates,"
            ' or set receive.tls.mutual = "none"'
        )
    bound = next((peer for peer in receive.peer if peer.certificate), None)
    if bound is not None and (tls is None or tls.mutual == "none"):
        yield f"receive.peer {bound.ae_title}: certificate needs [receive.tls], and mutual not none"


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


def _resolve_files(tls: TLSSettings | ClientTLSSettings | AuditServerSettings, base: Path) -> None:
    for name in ("certificate", "key", "ca"):
        path = getattr(tls, name)
        if path is not None:
            setattr(tls, name, base / path)
