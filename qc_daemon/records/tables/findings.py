"""What the models say of a picture, which bundle is active, how a site is calibrated."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from qc_daemon.records.tables.columns import Base, Key, one_of


class SiteAction(StrEnum):
    """What was done with a site's calibration; the last of all but `proposed` counts."""

    PROPOSED = "proposed"
    ACTIVATED = "activated"
    RETIRED = "retired"
    WAIVED = "waived"


class Finding(Base):
    """One scored frame and region; the columns beside `body` are copies to query by."""

    __tablename__ = "finding"
    __table_args__ = (UniqueConstraint("revision_id", "frame", "region", "model_id"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revision.id"))
    frame: Mapped[int]
    region: Mapped[int]
    model_id: Mapped[str]
    view: Mapped[str]
    view_probability: Mapped[float]
    quality: Mapped[str]
    probability: Mapped[float | None]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class ImageFeaturesRow(Base):
    """What a finding's picture was like (`model.image_features`): its statistics, and its embedding
    as little-endian float16, comparable between findings of one model id only. The finding's row
    without it is as good: an older version stored none.
    """

    __tablename__ = "image_features"

    finding_id: Mapped[int] = mapped_column(
        Key, ForeignKey("finding.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    mean: Mapped[float | None]
    deviation: Mapped[float | None]
    percentile_1: Mapped[float | None]
    median: Mapped[float | None]
    percentile_99: Mapped[float | None]
    black: Mapped[float | None]
    saturated: Mapped[float | None]
    sharpness: Mapped[float | None]
    noise: Mapped[float | None]
    entropy: Mapped[float | None]
    colour: Mapped[float | None]
    width: Mapped[float | None]
    height: Mapped[float | None]
    spacing: Mapped[float | None]
    embedding: Mapped[bytes | None]


class OpinionRow(Base):
    """What a part says of a finding's view (`model.parts.opinion`): copies of the finding's body,
    to query by. `agrees` is NULL where it says nothing of views.
    """

    __tablename__ = "opinion"
    __table_args__ = (Index(None, "model_id"),)

    finding_id: Mapped[int] = mapped_column(
        Key, ForeignKey("finding.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    role: Mapped[str] = mapped_column(primary_key=True)
    family: Mapped[str]
    name: Mapped[str]
    version: Mapped[str]
    model_id: Mapped[str]
    label: Mapped[str]
    probability: Mapped[float]
    reason: Mapped[str | None]
    agrees: Mapped[bool | None]


class ShadowFinding(Base):
    """What another bundle says of a frame and region, for an audit alone: no list, report or
    reading knows it. `conditions` are what else it depends on (version, settings, calibration)."""

    __tablename__ = "shadow_finding"

    model_id: Mapped[str] = mapped_column(primary_key=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revision.id"), primary_key=True)
    frame: Mapped[int] = mapped_column(primary_key=True)
    region: Mapped[int] = mapped_column(primary_key=True)
    conditions: Mapped[str]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class BundleRow(Base):
    """A bundle that is or has been active; the latest activation is the active one.

    Earlier ones stay, because an exam stays with the bundle it opened with.
    """

    __tablename__ = "active_bundle"

    model_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    path: Mapped[str]
    activated_at: Mapped[datetime]


class SiteCalibrationRow(Base):
    """An event in the history of a site's calibration for a bundle; rows are only added.

    `record` is the JSON of `model.site.record` where it was proposed or activated, `calibration`
    its id. `decided_by` is empty where the service did it.
    """

    __tablename__ = "site_calibration"
    __table_args__ = (one_of("action", SiteAction), Index(None, "site", "model_id"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    site: Mapped[str]
    model_id: Mapped[str]
    action: Mapped[str]
    calibration: Mapped[str | None]
    record: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    decided_by: Mapped[str | None]
    decided_at: Mapped[datetime]
