"""Reads lengths and gestational age from a machine's OB-GYN ultrasound report (TID 5000, PS3.16).

The trees of real machines differ from the template and from one another: a measurement counts
wherever it stands, for the fetus that the nearest container above it names (TID 1008).
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from detector.errors import ErrorCode, QCError
from detector.imaging.dicom_file import element, number, text
from qc_daemon.dicom.implementation import MANUFACTURER

_STORAGE = "1.2.840.10008.5.1.4.1.1.88."
STRUCTURED_REPORTS = frozenset(_STORAGE + last for last in ("11", "22", "33", "34", "35"))
"""Basic Text, Enhanced, Comprehensive, Comprehensive 3D and Extensible SR."""

Code = tuple[str, str]
_FETUS_ID: Code = ("11951-1", "LN")
_GESTATIONAL_AGE: Code = ("18185-9", "LN")
_CROWN_RUMP_LENGTH: Code = ("11957-8", "LN")
_NUCHAL_TRANSLUCENCY: Code = ("33069-6", "LN")
_BIOMETRY_GROUP: Code = ("125005", "DCM")
_SELECTION_STATUS: Code = ("121404", "DCM")
_DERIVATION: Code = ("121401", "DCM")
_MEANS = frozenset({("373098007", "SCT"), ("R-00317", "SRT"), ("R-00317", "SNM3")})

CRL, NT, GA, GA_BY_CRL = "CRL", "NT", "GA", "GA-CRL"
CONCEPTS = {_CROWN_RUMP_LENGTH: CRL, _NUCHAL_TRANSLUCENCY: NT, _GESTATIONAL_AGE: GA}
# Factors from UCUM codes to the stored unit: mm for lengths, d for ages.
_LENGTHS = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
_TIMES = {"d": 1.0, "wk": 7.0, "h": 1 / 24}

_MAX_ITEMS = 100_000
_MAX_MEASUREMENTS = 1_000
_MAX_FETUS = 64


@dataclass(frozen=True, slots=True)
class FetalMeasurement:
    """One value: lengths in mm, ages in d; `fetus` is the report's Fetus ID, if it gives one.

    `concept`: CRL, NT, GA (gestational age) or GA-CRL (the age read from the CRL beside it).
    """

    fetus: str | None
    concept: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class _ContentItem:
    """A content item, the id of the container above it, and the fetus that its ancestors name."""

    item: Dataset
    parent: int
    fetus: str | None


def read_measurements(path: Path) -> list[FetalMeasurement]:
    """The measurements of a structured report, in its order, none twice.

    Raises QCError UNREADABLE (no DICOM), or NOT_AN_IMAGE for a report without such a measurement
    and for one of our own that came back.
    """
    try:
        # force: the receiver has checked that this is a data set. Elements are parsed when they are
        # read, so that damage shows only then.
        dataset = dcmread(path, force=True)
        is_ours = text(dataset, "Manufacturer") == MANUFACTURER
        measurements = [] if is_ours else find_measurements(dataset)
    except MemoryError:
        raise
    except Exception as error:
        # The parser has no exception of its own for malformed bytes.
        raise QCError(ErrorCode.UNREADABLE, "the report cannot be parsed") from error
    if is_ours:
        raise QCError(
            ErrorCode.NOT_AN_IMAGE, "a report made here, which repeats what a machine measured"
        )
    if not measurements:
        raise QCError(
            ErrorCode.NOT_AN_IMAGE,
            "a structured report without crown-rump length, nuchal translucency or gestational age",
        )
    return measurements


def find_measurements(report: Dataset) -> list[FetalMeasurement]:
    """The measurements of a content tree in memory; empty when there are none."""
    by_group: dict[tuple[int, str | None, Code], list[Dataset]] = defaultdict(list)
    biometry: set[int] = set()
    for content_item in _walk(report):
        concept = _concept(content_item.item)
        if concept in CONCEPTS:
            by_group[content_item.parent, content_item.fetus, concept].append(content_item.item)
        if _concept_is(content_item.item, _BIOMETRY_GROUP):
            biometry.add(id(content_item.item))
    unique_measurements: dict[FetalMeasurement, None] = {}
    for (parent, fetus, code), items in by_group.items():
        name = CONCEPTS[code]
        if name == GA and parent in biometry:
            # In TID 5008 an age is that of the group's measurement; of those only the CRL's counts.
            if (parent, fetus, _CROWN_RUMP_LENGTH) not in by_group:
                continue
            name = GA_BY_CRL
        for item in _select_readings(items):
            measured = _measurement(item, fetus, name)
            if measured is not None:
                unique_measurements[measured] = None
    return list(unique_measurements)[:_MAX_MEASUREMENTS]


def _walk(report: Dataset) -> Iterable[_ContentItem]:
    """Every content item, parents before children, in the report's order."""
    pending = [_ContentItem(report, 0, None)]
    for _ in range(_MAX_ITEMS):
        if not pending:
            return
        content_item = pending.pop()
        yield content_item
        children = _items(content_item.item, "ContentSequence")
        named = (_fetus(child) for child in children if _concept_is(child, _FETUS_ID))
        fetus = next((name for name in named if name), content_item.fetus)
        pending += [
            _ContentItem(child, id(content_item.item), fetus) for child in reversed(children)
        ]


def _fetus(item: Dataset) -> str | None:
    value = text(item, "TextValue")
    if value is None:
        measured = _items(item, "MeasuredValueSequence")
        value = text(measured[0], "NumericValue") if measured else None
    return value[:_MAX_FETUS].replace("\0", "").strip() if value else None


def _select_readings(items: list[Dataset]) -> list[Dataset]:
    """Of several readings of one value the selected (TID 300 row 8), else the mean, else all."""
    selected = [item for item in items if _property(item, _SELECTION_STATUS)]
    means = [item for item in items if _property(item, _DERIVATION) in _MEANS]
    return selected[:1] or means[:1] or items


def _property(item: Dataset, concept: Code) -> Code | None:
    for child in _items(item, "ContentSequence"):
        if _concept_is(child, concept):
            return _code(child, "ConceptCodeSequence")
    return None


def _measurement(item: Dataset, fetus: str | None, concept: str) -> FetalMeasurement | None:
    """None where value or unit is missing or cannot be one."""
    values = _items(item, "MeasuredValueSequence")
    if not values:
        return None
    value = number(values[0], "NumericValue")
    units = _code(values[0], "MeasurementUnitsCodeSequence")
    scale, unit = (_TIMES, "d") if concept in (GA, GA_BY_CRL) else (_LENGTHS, "mm")
    factor = scale.get(units[0]) if units else None
    if value is None or factor is None or value <= 0 or not math.isfinite(value * factor):
        return None
    # Twelve digits keep what DS can say and lose what the factor adds in binary.
    return FetalMeasurement(fetus, concept, float(f"{value * factor:.12g}"), unit)


def _concept(item: Dataset) -> Code | None:
    return _code(item, "ConceptNameCodeSequence")


def _concept_is(item: Dataset, code: Code) -> bool:
    return _concept(item) == code


def _code(item: Dataset, keyword: str) -> Code | None:
    entries = _items(item, keyword)
    if not entries:
        return None
    value, scheme = text(entries[0], "CodeValue"), text(entries[0], "CodingSchemeDesignator")
    return None if value is None or scheme is None else (value, scheme)


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Items of a sequence; none when it is absent, malformed or no sequence."""
    value = element(dataset, keyword)
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        return []
    return [each for each in value if isinstance(each, Dataset)]
