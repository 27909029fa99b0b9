"""Where things are kept (`[store]`)."""

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
