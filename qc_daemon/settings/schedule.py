"""When things happen, and how often they are tried (`[schedule]`, `[jobs]`)."""

import os
from datetime import time
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from qc_daemon.settings.section import DAY_SECONDS, Section


class ScheduleSettings(Section):
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


class JobSettings(Section):
    """The queue: leases, attempts and back-off."""

    lease_seconds: float = Field(
        default=300.0,
        gt=0,
        le=DAY_SECONDS,
        description="after which a silent worker's job is free again",
    )
    max_attempts: int = Field(
        default=15, ge=1, le=1_000_000, description="attempts at a job before it is given up"
    )
    max_deaths: int = Field(
        default=3, ge=1, le=1000, description="workers that may die of a job before quarantine"
    )
    backoff_seconds: float = Field(
        default=30.0,
        ge=0,
        le=7 * DAY_SECONDS,
        description="before the second attempt, then doubled",
    )
    backoff_cap_seconds: float = Field(
        default=3600.0,
        ge=0,
        le=7 * DAY_SECONDS,
        description="the longest wait between two attempts",
    )
    poll_seconds: float = Field(
        default=1.0, gt=0, le=3600, description="between two looks at the queue"
    )
