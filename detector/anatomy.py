"""Anatomy labels, the views they belong to, and their names in the Fetus Framework data set.

Indices 0-13 are SpatialCLIP's, so that its checkpoints load; 14-19 extend them.
"""

from dataclasses import dataclass
from enum import StrEnum


class View(StrEnum):
    """The view a frame shows; OTHER is every picture that is none of the four."""

    NT = "NT"
    CRL = "CRL"
    HEAD = "HEAD"
    ABDOMEN = "ABDOMEN"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class Label:
    """One anatomy label: its index, letters, meaning and view (None: any)."""

    index: int
    code: str
    meaning: str
    view: View | None
    fetus_framework: str | None = None


LABELS: tuple[Label, ...] = (
    Label(0, "CB", "cranial bone", View.HEAD),
    Label(1, "CP1", "left choroid plexus", View.HEAD),
    Label(2, "CP2", "right choroid plexus", View.HEAD),
    Label(3, "CF", "cerebral falx", View.HEAD),
    Label(4, "NT", "nuchal translucency", View.NT, "NT"),
    Label(5, "NB", "nasal bone", View.NT, "nasal bone"),
    Label(6, "F", "facial profile", View.NT),
    Label(7, "NA", "nasal apex", View.NT, "nasal tip"),
    Label(8, "CRL", "crown-rump extent", View.CRL),
    Label(9, "S", "stomach", View.ABDOMEN),
    Label(10, "AS", "abdominal section", View.ABDOMEN),
    Label(11, "UC", "umbilical cord", View.ABDOMEN),
    Label(12, "UI", "umbilical insertion", View.ABDOMEN),
    Label(13, "UNKNOWN", "unknown structure", None),
    Label(14, "TH", "thalami", View.NT, "thalami"),
    Label(15, "MB", "midbrain", View.NT, "midbrain"),
    Label(16, "PAL", "palate", View.NT, "palate"),
    Label(17, "IT", "intracranial translucency", View.NT, "IT"),
    Label(18, "CM", "cisterna magna", View.NT, "CM"),
    Label(19, "NS", "nasal skin", View.NT, "nasal skin"),
)
BY_CODE: dict[str, Label] = {label.code: label for label in LABELS}
BY_FETUS_FRAMEWORK: dict[str, Label] = {
    label.fetus_framework: label for label in LABELS if label.fetus_framework
}
