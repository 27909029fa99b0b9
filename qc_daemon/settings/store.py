"""Where things are kept, and saved (`[store]`, `[backup]`)."""

from datetime import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from qc_daemon.settings.section import CENTURY_DAYS, Section, days_or_forever


class StoreSettings(Section):
    """Where rows and received bytes are kept."""

    url: str = Field(
        default="sqlite:///var/qc.db",
        description="the database: `sqlite:///PATH` or `postgresql+psycopg://USER@HOST/NAME`",
    )
    spool: Path = Field(default=Path("var/spool"), description="folder of the received files")
    keep_pixels_days: Annotated[
        Annotated[int, Field(ge=0, le=CENTURY_DAYS)] | Literal["forever"],
        BeforeValidator(days_or_forever),
    ] = Field(
        default=400,
        description="days that originals stay after delivery, for review and scoring again",
    )
    keep_overlays_days: int = Field(
        default=7, ge=0, le=CENTURY_DAYS, description="days that overlays stay after delivery"
    )
    scrub_at: time = Field(
        default=time(1), description="when each night's pass over the spool begins, local time"
    )
    scrub_megabytes_per_second: float = Field(
        default=20.0, ge=0, le=10_000, description="how fast the spool is read through; 0: never"
    )


class BackupSettings(Section):
    """Backups of database and spool that the role `schedule` makes each night, off unless a folder
    is named. Received files that the night before has already are hard links to its own."""

    folder: Path | None = Field(
        default=None,
        description="where each backup is a folder; on another disk than the store, and there",
    )
    at: time = Field(
        default=time(3), description="when one is made, local time (`schedule.timezone`)"
    )
    keep_daily: int = Field(
        default=7, ge=1, le=CENTURY_DAYS, description="days whose newest good backup stays"
    )
    keep_weekly: int = Field(
        default=4, ge=0, le=CENTURY_DAYS, description="the same for weeks (ISO 8601)"
    )
    keep_monthly: int = Field(default=6, ge=0, le=CENTURY_DAYS, description="the same for months")
