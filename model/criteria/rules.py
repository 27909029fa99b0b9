"""The criteria of each view: code, meaning, fix and source.

One table for the criteria judge, the simulator's truth and the SR. Codes are at most 16 characters
(SH value representation, PS3.5 6.2).
"""

from typing import NamedTuple

from detector.anatomy import View

FMF_NT = "Fetal Medicine Foundation, nuchal translucency scan protocol (11+0 to 13+6 weeks)"
ISUOG_2023 = "ISUOG Practice Guidelines 2023, 11-14-week ultrasound scan (doi 10.1002/uog.26106)"
WANYONYI_CRL = "Wanyonyi et al. 2014, objective scoring of crown-rump length images"
TECHNICAL = "Image acquisition quality, in-house rule of qc-daemon"


class CriterionRule(NamedTuple):
    """A criterion: its SR code, its meaning, how to meet it, and its source."""

    code: str
    meaning: str
    fix: str
    source: str


GAIN = CriterionRule("CRIT-GAIN", "Gain adequate", "Adjust the overall gain", TECHNICAL)
FOCUS = CriterionRule("CRIT-FOCUS", "Image sharp", "Hold still, set the focus depth", TECHNICAL)
SHADOW = CriterionRule(
    "CRIT-SHADOW", "No shadow over the anatomy", "Change the angle of insonation", TECHNICAL
)
SIZE = CriterionRule("CRIT-SIZE", "Anatomy fills the image", "Magnify", FMF_NT)
COMPLETE = CriterionRule(
    "CRIT-COMPLETE", "Anatomy complete within the image", "Move it into the sector", ISUOG_2023
)
PLANE = CriterionRule("CRIT-PLANE", "Correct plane", "Rotate into the plane", ISUOG_2023)
NECK_NT = CriterionRule("CRIT-NECK", "Neutral neck", "Wait for a neutral position", FMF_NT)
NECK_CRL = CriterionRule("CRIT-NECK", "Neutral neck", "Wait for a neutral position", WANYONYI_CRL)
NT_VISIBLE = CriterionRule("CRIT-NT", "Nuchal membrane visible", "Show the nuchal skin", FMF_NT)
NASAL = CriterionRule("CRIT-NASAL", "Nasal bone visible", "Insonate the nose at 45 degrees", FMF_NT)
PROFILE = CriterionRule(
    "CRIT-PROFILE", "Profile with nasal tip", "Find the mid-sagittal plane", FMF_NT
)
BRAIN = CriterionRule(
    "CRIT-BRAIN", "Palate and diencephalon visible", "Find the mid-sagittal plane", FMF_NT
)
SKULL = CriterionRule("CRIT-SKULL", "Skull outline closed", "Centre the head", ISUOG_2023)
FALX = CriterionRule("CRIT-FALX", "Falx in the midline", "Level the plane", ISUOG_2023)
CHOROID = CriterionRule("CRIT-CHOROID", "Both choroid plexuses", "Level the plane", ISUOG_2023)
ENDS = CriterionRule("CRIT-ENDS", "Crown and rump visible", "Show both ends", WANYONYI_CRL)
HORIZONTAL = CriterionRule("CRIT-HORIZONT", "Fetus horizontal", "Tilt the probe", WANYONYI_CRL)
LEVEL = CriterionRule(
    HORIZONTAL.code,
    HORIZONTAL.meaning,
    "Tilt the probe until the membranes lie across the beam",
    TECHNICAL,
)
OUTLINE = CriterionRule(
    "CRIT-OUTLINE", "Abdominal outline closed", "Centre the abdomen", ISUOG_2023
)
STOMACH = CriterionRule(
    "CRIT-STOMACH", "Stomach visible", "Move to the stomach's level", ISUOG_2023
)
CORD = CriterionRule("CRIT-CORD", "Cord insertion visible", "Move to the insertion", ISUOG_2023)

_EVERY_VIEW = (GAIN, FOCUS, SHADOW, SIZE, COMPLETE, PLANE)
RULES: dict[View, tuple[CriterionRule, ...]] = {
    View.NT: (*_EVERY_VIEW, NECK_NT, NT_VISIBLE, NASAL, PROFILE, BRAIN, LEVEL),
    View.CRL: (*_EVERY_VIEW, NECK_CRL, ENDS, HORIZONTAL),
    View.HEAD: (*_EVERY_VIEW, SKULL, FALX, CHOROID),
    View.ABDOMEN: (*_EVERY_VIEW, OUTLINE, STOMACH, CORD),
    View.OTHER: (),
}
FOR_A_PERSON: dict[View, frozenset[str]] = {View.NT: frozenset({COMPLETE.code, NECK_NT.code})}
"""Criteria that only a person judges. Of the NT view: a part that is cut off leaves no box to judge
by, and standard pictures reach the border too (a fifth of 1,059 boxed ones); a neutral neck is an
angle of 118 to 138 degrees between chin, chest and head, and no real picture has its chin and chest
boxed. The angle at the skull base, which boxes give, is 73 to 123 degrees in nine of ten standard
pictures, and no phantom tells where it should lie."""
MODEL_RULES: dict[View, tuple[CriterionRule, ...]] = {
    view: tuple(rule for rule in rules if rule.code not in FOR_A_PERSON.get(view, ()))
    for view, rules in RULES.items()
}
"""The criteria of each view that the models judge, in the order of `RULES`."""
TECHNICAL_CODES = frozenset({GAIN.code, FOCUS.code, SHADOW.code, SIZE.code})
"""The failure of one of these criteria is technical (SR: Image Quality, RadLex RID13)."""
