"""What is wrong with a picture and how to fix it, in the words of a sonographer.

One table for findings, reports and pages. `structure` of a fault is put into its words, so that
both can be translated.
"""

from dataclasses import dataclass, replace

from detector.anatomy import BY_CODE, View
from model.criteria.rules import (
    BRAIN,
    CHOROID,
    COMPLETE,
    CORD,
    ENDS,
    FALX,
    FOCUS,
    GAIN,
    HORIZONTAL,
    NASAL,
    NECK_NT,
    NT_VISIBLE,
    OUTLINE,
    PLANE,
    PROFILE,
    RULES,
    SHADOW,
    SIZE,
    SKULL,
    STOMACH,
)

LOW, HIGH = "low", "high"
"""A measured value lies beyond the lower or the upper end of what meets its criterion."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a picture and how to fix it ("": nothing); `topic` names what was checked.

    `words` may have the field `{structure}`, the meaning of a label.
    """

    words: str
    fix: str
    topic: str = ""
    structure: str = ""

    @property
    def statement(self) -> str:
        """The fault in English."""
        return capitalise(self.words.format(structure=self.structure))

    @property
    def sentence(self) -> str:
        """Fault and fix in English, as `reasons` of a finding have them."""
        statement = _lower(self.statement)
        return f"{statement}: {_lower(self.fix)}" if self.fix else statement


FAULTS = {
    GAIN.code: Fault("Gain not adequate", "Adjust the overall gain", "gain"),
    FOCUS.code: Fault("Image not sharp", FOCUS.fix, "sharpness"),
    SHADOW.code: Fault("Shadow over the anatomy", SHADOW.fix, "shadow over the anatomy"),
    SIZE.code: Fault("Anatomy too small in the image", SIZE.fix, "size of the anatomy"),
    COMPLETE.code: Fault("Anatomy cut off at the edge", COMPLETE.fix, "anatomy within the image"),
    PLANE.code: Fault("Not the correct plane", PLANE.fix, "plane"),
    NECK_NT.code: Fault("Neck bent or stretched", NECK_NT.fix, "position of the neck"),
    NT_VISIBLE.code: Fault("Nuchal membrane not visible", NT_VISIBLE.fix, "nuchal membrane"),
    NASAL.code: Fault("Nasal bone not visible", NASAL.fix, "nasal bone"),
    PROFILE.code: Fault("No profile with nasal tip", PROFILE.fix, "profile with nasal tip"),
    BRAIN.code: Fault("Palate or diencephalon not visible", BRAIN.fix, "palate and diencephalon"),
    SKULL.code: Fault("Skull outline not closed", SKULL.fix, "skull outline"),
    FALX.code: Fault("Falx not visible in the midline", FALX.fix, "falx"),
    CHOROID.code: Fault("Not both choroid plexuses visible", CHOROID.fix, "choroid plexuses"),
    ENDS.code: Fault("Crown or rump not visible", ENDS.fix, "crown and rump"),
    HORIZONTAL.code: Fault("Fetus not horizontal", HORIZONTAL.fix, "position of the fetus"),
    OUTLINE.code: Fault("Abdominal outline not closed", OUTLINE.fix, "abdominal outline"),
    STOMACH.code: Fault("Stomach not visible", STOMACH.fix, "stomach"),
    CORD.code: Fault("Cord insertion not visible", CORD.fix, "cord insertion"),
}
"""The fault of each criterion that is not met; the fix of the view's own rule comes first."""
FAULTS_BY_DIRECTION = {
    (GAIN.code, LOW): Fault("Gain too low", "Turn the overall gain up", "gain"),
    (GAIN.code, HIGH): Fault("Gain too high", "Turn the overall gain down", "gain"),
    (SIZE.code, HIGH): Fault(
        "Anatomy too large for the image", "Magnify less", "size of the anatomy"
    ),
}
"""The faults of criteria whose fix depends on the direction."""

STRUCTURE_FIXES = {
    "CB": SKULL.fix,
    "CP1": CHOROID.fix,
    "CP2": CHOROID.fix,
    "CF": FALX.fix,
    "NT": NT_VISIBLE.fix,
    "NB": NASAL.fix,
    "F": PROFILE.fix,
    "NA": PROFILE.fix,
    "NS": PROFILE.fix,
    "TH": BRAIN.fix,
    "MB": BRAIN.fix,
    "PAL": BRAIN.fix,
    "IT": BRAIN.fix,
    "CM": BRAIN.fix,
    "CRL": ENDS.fix,
    "AS": OUTLINE.fix,
    "S": STOMACH.fix,
    "UC": CORD.fix,
    "UI": CORD.fix,
}
"""How to bring a structure into the picture, by label."""
NOT_VISIBLE = "{structure} not visible"
UNLIKE_STANDARD = "{structure} looks unlike that of standard views"

WHOLE = "whole"
_CHECK_THERE = "Check plane and sharpness there"
REGION_FAULTS = {
    "upper-left": Fault(
        "The upper left part of the picture weighs most against a standard view", _CHECK_THERE
    ),
    "upper-middle": Fault(
        "The upper middle part of the picture weighs most against a standard view", _CHECK_THERE
    ),
    "upper-right": Fault(
        "The upper right part of the picture weighs most against a standard view", _CHECK_THERE
    ),
    "middle-left": Fault(
        "The left part of the picture weighs most against a standard view", _CHECK_THERE
    ),
    "centre": Fault("The centre of the picture weighs most against a standard view", _CHECK_THERE),
    "middle-right": Fault(
        "The right part of the picture weighs most against a standard view", _CHECK_THERE
    ),
    "lower-left": Fault(
        "The lower left part of the picture weighs most against a standard view", _CHECK_THERE
    ),
    "lower-middle": Fault(
        "The lower middle part of the picture weighs most against a standard view", _CHECK_THERE
    ),
    "lower-right": Fault(
        "The lower right part of the picture weighs most against a standard view", _CHECK_THERE
    ),
    WHOLE: Fault(
        "The picture as a whole is unlike standard views",
        "Compare it with a standard picture of this view",
    ),
}
"""The faults of a part of the picture; all but the last are the cells of a 3 x 3 grid, row by row.
"""
CELLS = tuple(REGION_FAULTS)[:-1]


def criterion_fault(view: View, code: str, direction: str | None = None) -> Fault:
    """The fault of a criterion of the view that is not met; of an unknown code its letters."""
    if (code, direction) in FAULTS_BY_DIRECTION:
        return FAULTS_BY_DIRECTION[code, direction or ""]
    fault = FAULTS.get(code) or Fault(code, "", code)
    # Two views may fix the same fault in their own way.
    own_fix = next((rule.fix for rule in RULES[view] if rule.code == code), fault.fix)
    return replace(fault, fix=own_fix)


def structure_fault(label: str, *, was_detected: bool) -> Fault:
    """The fault of a structure: it looks unlike that of standard views, or is not visible."""
    words = UNLIKE_STANDARD if was_detected else NOT_VISIBLE
    return Fault(words, STRUCTURE_FIXES.get(label, PLANE.fix), structure=BY_CODE[label].meaning)


def capitalise(text: str) -> str:
    """The text with its first letter as a capital, the others as they are."""
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
