"""What people read and judge (`[report]`, `[review]`, `[audit]`)."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from detector.errors import Flag
from qc_daemon.settings.section import Section, as_list


class ReportSettings(Section):
    """What a person reads: overlays and exam summaries. The SR is in codes and stays English."""

    language: Literal["en", "de", "zh"] = Field(default="en", description="of what people read")
    views: Annotated[list[Literal["NT", "CRL", "HEAD", "ABDOMEN"]], BeforeValidator(as_list)] = (
        Field(
            default=["NT", "CRL", "HEAD", "ABDOMEN"],
            min_length=1,
            description="what an exam should show; the summary calls the others of these missing",
        )
    )


class ReviewSettings(Section):
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
    flags: Annotated[list[Flag], BeforeValidator(as_list)] = Field(
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


class NuchalCurveSettings(Section):
    """The median NT by crown-rump length that measuring is judged against: log10 of mm is
    constant + linear x CRL + quadratic x CRL^2, CRL in mm. None is shipped: take it from a
    publication, and name that."""

    citation: str = Field(min_length=1, description="where the curve is from; reports name it")
    constant: float = Field(description="of log10 of the median NT in mm")
    linear: float = Field(description="a mm of crown-rump length")
    quadratic: float = Field(default=0.0, description="a square mm of crown-rump length")


class AuditSettings(Section):
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
