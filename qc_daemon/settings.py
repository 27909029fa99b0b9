"""Every setting of the service, typed, with its default.

Read from a TOML file and the environment (`QC_DAEMON_SECTION__KEY`, which wins). Relative paths
resolve from the settings file's folder.
"""

import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from detector.console import UsageError


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


AETitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[str, AfterValidator(_network)]
Port = Annotated[int, Field(ge=0, le=65535)]
ObjectKind = Literal["source", "sr", "overlay"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class StoreSettings(_Section):
    """Where rows and received bytes are kept."""

    url: str = "sqlite:///var/qc.db"
    spool: Path = Path("var/spool")
    keep_pixels_days: int = Field(default=400, ge=0)


class PeerSettings(_Section):
    """A sender that may store to us: calling AE title and address range."""

    ae_title: AETitle
    address: Network = "0.0.0.0/0"


class ReceiveSettings(_Section):
    """The DICOM receiver."""

    ae_title: AETitle = "QCDAEMON"
    host: str = "127.0.0.1"
    port: Port = 11112
    max_associations: int = Field(default=64, ge=1)
    network_timeout: float = Field(default=60.0, gt=0)
    quiet_seconds: float = Field(default=60.0, ge=0)
    max_open_minutes: float = Field(default=240.0, gt=0)
    peer: list[PeerSettings] = []


class ScoreSettings(_Section):
    """The models and how frames reach them."""

    bundle: str = "default"
    device: str = "auto"
    threads: int = Field(default=0, ge=0, description="torch threads, 0: one per core")
    cine_frames: int = Field(
        default=16, ge=0, description="frames scored of a cine, evenly spread; 0: all"
    )
    decode_seconds: float = Field(default=120.0, gt=0)
    decode_megabytes: int = Field(default=4096, ge=256)
    max_pixels: int = Field(default=64_000_000, ge=1, description="rows x columns of one frame")


class DestinationSettings(_Section):
    """Where originals and results go."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    kind: Literal["dicom", "folder"] = "dicom"
    ae_title: AETitle = "PACS"
    host: str = "127.0.0.1"
    port: Port = 104
    folder: Path | None = None
    objects: list[ObjectKind] = ["sr", "overlay"]
    timeout: float = Field(default=60.0, gt=0)


class JobSettings(_Section):
    """The queue: leases, attempts and back-off."""

    lease_seconds: float = Field(default=300.0, gt=0)
    max_attempts: int = Field(default=15, ge=1)
    max_deaths: int = Field(default=3, ge=1)
    backoff_seconds: float = Field(default=30.0, ge=0)
    backoff_cap_seconds: float = Field(default=3600.0, ge=0)
    poll_seconds: float = Field(default=1.0, gt=0)


class Settings(BaseSettings):
    """All settings; `load` is the one way to make them."""

    model_config = SettingsConfigDict(
        env_prefix="QC_DAEMON_", env_nested_delimiter="__", extra="forbid", validate_default=True
    )

    store: StoreSettings = StoreSettings()
    receive: ReceiveSettings = ReceiveSettings()
    score: ScoreSettings = ScoreSettings()
    jobs: JobSettings = JobSettings()
    destination: list[DestinationSettings] = []

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
        if destination.kind == "folder" and destination.folder is None:
            raise SettingsError(f"destination {destination.name}: kind folder needs folder = PATH")
    return _resolve(settings, base)


def _resolve(settings: Settings, base: Path) -> Settings:
    store = settings.store
    store.spool = base / store.spool
    prefix = "sqlite:///"
    if store.url.startswith(prefix) and store.url != "sqlite:///:memory:":
        store.url = f"{prefix}{base / store.url.removeprefix(prefix)}"
    for destination in settings.destination:
        if destination.folder is not None:
            destination.folder = base / destination.folder
    return settings


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"setting {where} is unknown; remove it or mend its spelling"
    return f"setting {where}: {first['msg']}"
