"""The named ways in which a picture is not standard, and the criteria each one fails."""

from enum import StrEnum

from detector.anatomy import View
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


class Defect(StrEnum):
    """What is wrong with a non-standard picture."""

    OFF_AXIS = "off-axis plane"
    STRUCTURE_MISSING = "structure missing"
    CUT_OFF = "cut off"
    TOO_SMALL = "too small"
    NECK_FLEXED = "neck flexed"
    NECK_EXTENDED = "neck extended"
    SHADOWED = "shadowed"
    GAIN_LOW = "gain too low"
    GAIN_HIGH = "gain too high"
    BLURRED = "blurred"
    NOT_HORIZONTAL = "not horizontal"
    ASYMMETRIC = "asymmetric"
    FALX_MISSING = "falx missing"
    CHOROID_MISSING = "choroid plexus missing"
    STOMACH_MISSING = "stomach missing"
    CORD_MISSING = "cord insertion missing"
    OBLIQUE = "oblique"


_D = Defect
_EVERYWHERE = (_D.CUT_OFF, _D.TOO_SMALL, _D.SHADOWED, _D.GAIN_LOW, _D.GAIN_HIGH, _D.BLURRED)

APPLICABLE: dict[View, tuple[Defect, ...]] = {
    View.NT: (
        _D.OFF_AXIS,
        _D.STRUCTURE_MISSING,
        _D.NECK_FLEXED,
        _D.NECK_EXTENDED,
        *_EVERYWHERE,
    ),
    View.CRL: (
        _D.OFF_AXIS,
        _D.NOT_HORIZONTAL,
        _D.NECK_FLEXED,
        _D.NECK_EXTENDED,
        *_EVERYWHERE,
    ),
    View.HEAD: (
        _D.OFF_AXIS,
        _D.ASYMMETRIC,
        _D.FALX_MISSING,
        _D.CHOROID_MISSING,
        *_EVERYWHERE,
    ),
    View.ABDOMEN: (
        _D.OFF_AXIS,
        _D.OBLIQUE,
        _D.STOMACH_MISSING,
        _D.CORD_MISSING,
        *_EVERYWHERE,
    ),
    View.OTHER: (),
}
"""The defects each view can have."""

_PLANES = frozenset({_D.OFF_AXIS, _D.ASYMMETRIC, _D.OBLIQUE, _D.FALX_MISSING, _D.CHOROID_MISSING})
_NECKS = frozenset({_D.NECK_FLEXED, _D.NECK_EXTENDED, _D.OFF_AXIS, _D.NOT_HORIZONTAL, _D.CUT_OFF})
_GAINS = frozenset({_D.GAIN_LOW, _D.GAIN_HIGH, _D.BLURRED, _D.SHADOWED})
_LEVELS = frozenset({_D.OFF_AXIS, _D.STOMACH_MISSING, _D.CORD_MISSING, _D.STRUCTURE_MISSING})
_PLACES = frozenset({_D.CUT_OFF, _D.TOO_SMALL})
_EXCLUSIVE = (_PLANES, _NECKS, _GAINS, _LEVELS, _PLACES)
"""At most one of each set at a time: their signs would hide or contradict each other."""

FAILS: dict[View, dict[Defect, tuple[str, ...]]] = {
    View.NT: {
        _D.OFF_AXIS: (PLANE.code, PROFILE.code, NASAL.code, BRAIN.code),
        _D.NECK_FLEXED: (NECK_NT.code,),
        _D.NECK_EXTENDED: (NECK_NT.code,),
    },
    View.CRL: {
        _D.OFF_AXIS: (PLANE.code,),
        _D.NOT_HORIZONTAL: (HORIZONTAL.code,),
        _D.NECK_FLEXED: (NECK_NT.code,),
        _D.NECK_EXTENDED: (NECK_NT.code,),
        _D.CUT_OFF: (ENDS.code,),
    },
    View.HEAD: {
        _D.OFF_AXIS: (PLANE.code,),
        _D.ASYMMETRIC: (PLANE.code, FALX.code),
        _D.FALX_MISSING: (FALX.code,),
        _D.CHOROID_MISSING: (CHOROID.code,),
        _D.CUT_OFF: (SKULL.code,),
    },
    View.ABDOMEN: {
        _D.OFF_AXIS: (PLANE.code, STOMACH.code, CORD.code),
        _D.OBLIQUE: (PLANE.code,),
        _D.STOMACH_MISSING: (STOMACH.code,),
        _D.CORD_MISSING: (CORD.code,),
        _D.CUT_OFF: (OUTLINE.code,),
    },
    View.OTHER: {},
}
"""Criteria that fail with the defect itself, beside those of `_TECHNICAL`."""

_TECHNICAL: dict[Defect, str] = {
    _D.CUT_OFF: COMPLETE.code,
    _D.TOO_SMALL: SIZE.code,
    _D.SHADOWED: SHADOW.code,
    _D.GAIN_LOW: GAIN.code,
    _D.GAIN_HIGH: GAIN.code,
    _D.BLURRED: FOCUS.code,
}

REQUIRED: dict[View, dict[str, tuple[str, ...]]] = {
    View.NT: {
        NT_VISIBLE.code: ("NT",),
        NASAL.code: ("NB",),
        PROFILE.code: ("F", "NA"),
        BRAIN.code: ("PAL", "TH"),
    },
    View.CRL: {ENDS.code: ("CRL",)},
    View.HEAD: {SKULL.code: ("CB",), FALX.code: ("CF",), CHOROID.code: ("CP1", "CP2")},
    View.ABDOMEN: {OUTLINE.code: ("AS",), STOMACH.code: ("S",), CORD.code: ("UI", "UC")},
    View.OTHER: {},
}
"""Criterion -> structures that must be visible for it to hold."""


def compatible(defects: tuple[Defect, ...], further: Defect) -> bool:
    """Whether `further` can be seen beside the defects already chosen."""
    return further not in defects and not any(
        further in group and any(defect in group for defect in defects) for group in _EXCLUSIVE
    )


def truth(view: View, defects: tuple[Defect, ...], visible: frozenset[str]) -> dict[str, bool]:
    """Each criterion of `RULES[view]`: met unless a defect fails it or structures are unseen."""
    failed = {code for defect in defects for code in FAILS[view].get(defect, ())}
    failed |= {_TECHNICAL[defect] for defect in defects if defect in _TECHNICAL}
    failed |= {code for code, labels in REQUIRED[view].items() if not visible.issuperset(labels)}
    return {rule.code: rule.code not in failed for rule in RULES[view]}
