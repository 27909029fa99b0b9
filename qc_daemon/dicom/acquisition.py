"""Who made an image, where, when and with what: facts that a received header states.

Read in the decoding child. A value that is missing, invalid, longer than its kind allows or in a
character set that cannot be decoded is None and hides no other: what an image shows does not depend
on what its header says of people.
"""

import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from detector.imaging.dicom_file import element, items, open_dicom_file
from qc_daemon.dicom.character_set import (
    NAME_DELIMITERS,
    VALUE_DELIMITERS,
    CharacterSetError,
    character_sets,
    decode_text,
)
from qc_daemon.dicom.person_name import clean_name, fold_name, names_nobody

MAX_TEXT = 64
"""Characters of a value (LO, PS3.5 6.2); a longer one is no name of anything."""
_MAX_VALUES = 16
# What people and machines could be; a value outside is a mistyped one or one in other units.
_AGES, _SIZES, _WEIGHTS = (0.0, 130.0), (0.4, 2.6), (1.0, 500.0)
_YEARS = (1980, 2200)
_MAX_GESTATION = 320
"""Days from the last menstrual period to a picture; more is another pregnancy."""
_DAYS_OF_UNIT = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_ZONE = re.compile(r"([+-])(0\d|1[0-4])([0-5]\d)")
_DATE = re.compile(r"(\d{4})[.-]?(\d\d)[.-]?(\d\d)")
_TIME = re.compile(r"(\d\d):?(\d\d)(?::?(\d\d)(?:\.\d{1,6})?)?")
_MOMENT = re.compile(r"(\d{8})(\d{4}(?:\d\d(?:\.\d{1,6})?)?)([+-]\d{4})?")
_NO_SERIAL = frozenset({"NA", "NONE", "UNKNOWN", "NULL", "DEFAULT", "TEST", "SERIAL", "XXXX"})

KEYWORDS = (
    "SpecificCharacterSet",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "AcquisitionDateTime",
    "StudyTime",
    "SeriesTime",
    "AcquisitionTime",
    "ContentTime",
    "Manufacturer",
    "InstitutionName",
    "TimezoneOffsetFromUTC",
    "StationName",
    "StudyDescription",
    "InstitutionalDepartmentName",
    "PerformingPhysicianName",
    "OperatorsName",
    "OperatorIdentificationSequence",
    "ManufacturerModelName",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "LastMenstrualDate",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "TransducerData",
    "TransducerType",
    "BurnedInAnnotation",
)
"""The elements that are read; `detector.imaging.data_elements` keeps them of a file."""

AcquiredSource = Literal["acquisition", "content", "series", "study"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of an image: a code with its scheme, or a name, or both."""

    name: str | None
    code: str | None = None
    scheme: str | None = None

    @property
    def identity(self) -> str:
        """What identifies the person: the code, else the folded name."""
        if self.code is not None:
            return f"code:{(self.scheme or '').casefold()}:{self.code}"
        return f"name:{fold_name(self.name or '')}"


@dataclass(frozen=True, slots=True)
class Acquisition:
    """The facts of one image; None where the header does not state one.

    `acquired`: local time, ISO 8601 to the second, of the clock of the machine; `acquired_zone`
    as "+01:00" where the header states it; `acquired_source` the elements that it is from.
    `last_menstrual_date`: ISO 8601. Several values of one element are joined by "; ".
    """

    operators: tuple[Operator, ...] = ()
    performing_physician: str | None = None
    serial_number: str | None = None
    station_name: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    software_versions: str | None = None
    transducer: str | None = None
    transducer_type: str | None = None
    institution: str | None = None
    department: str | None = None
    acquired: str | None = None
    acquired_zone: str | None = None
    acquired_source: AcquiredSource | None = None
    patient_age_years: float | None = None
    patient_size_m: float | None = None
    patient_weight_kg: float | None = None
    last_menstrual_date: str | None = None
    study_description: str | None = None
    burned_in_annotation: bool | None = None

    @property
    def gestational_age_days(self) -> int | None:
        """Days from the last menstrual period to the acquisition; None where one is not stated or
        they do not belong together."""
        if self.last_menstrual_date is None or self.acquired is None:
            return None
        start = date.fromisoformat(self.last_menstrual_date)
        days = (datetime.fromisoformat(self.acquired).date() - start).days
        return days if 0 < days <= _MAX_GESTATION else None

    def to_json(self) -> dict[str, Any]:
        """It as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What `to_json` made."""
        operators = tuple(Operator(**each) for each in values["operators"])
        return cls(**values | {"operators": operators})


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """What identifies a device, and where that is from: its serial number and manufacturer, else
    its station name, model and calling AE title."""

    identity: str
    source: Literal["serial", "station"]


def device_identity(acquisition: Acquisition, calling_ae: str) -> DeviceIdentity:
    """The identity of the device that made an image; case and spaces do not count.

    Serial numbers are given by manufacturers, each for its own machines.
    """
    if acquisition.serial_number is not None:
        key = _key(acquisition.manufacturer, acquisition.serial_number)
        return DeviceIdentity(f"serial:{key}", "serial")
    key = _key(acquisition.station_name, acquisition.model, calling_ae)
    return DeviceIdentity(f"station:{key}", "station")


def _key(*parts: str | None) -> str:
    return "\\".join(" ".join((part or "").casefold().split()) for part in parts)


def read_acquisition_file(path: Path) -> Acquisition:
    """The facts of a received file's header. Raises QCError as `open_dicom_file`."""
    with open_dicom_file(path) as source:
        return read_acquisition(source.dataset)


def read_acquisition(dataset: Dataset) -> Acquisition:
    """The facts that a data set states."""
    reader = _Reader(dataset)
    acquired, zone, source = _acquired(reader)
    menstrual = _date(reader.text("LastMenstrualDate"))
    return Acquisition(
        operators=_operators(reader),
        performing_physician=next(iter(reader.names("PerformingPhysicianName")), None),
        serial_number=_serial_number(reader.text("DeviceSerialNumber")),
        station_name=reader.text("StationName"),
        manufacturer=reader.text("Manufacturer"),
        model=reader.text("ManufacturerModelName"),
        software_versions=reader.joined("SoftwareVersions"),
        transducer=reader.joined("TransducerData"),
        transducer_type=reader.text("TransducerType"),
        institution=reader.text("InstitutionName"),
        department=reader.text("InstitutionalDepartmentName"),
        acquired=acquired,
        acquired_zone=zone,
        acquired_source=source,
        patient_age_years=_age(reader.text("PatientAge")),
        patient_size_m=_quantity(reader.text("PatientSize"), _SIZES),
        patient_weight_kg=_quantity(reader.text("PatientWeight"), _WEIGHTS),
        last_menstrual_date=None if menstrual is None else menstrual.isoformat(),
        study_description=reader.text("StudyDescription"),
        burned_in_annotation={"YES": True, "NO": False}.get(
            (reader.text("BurnedInAnnotation") or "").upper()
        ),
    )


def body_mass_index(size_m: float | None, weight_kg: float | None) -> float | None:
    """kg/m2, to one digit; None where size or weight is not known."""
    return None if size_m is None or weight_kg is None else round(weight_kg / size_m**2, 1)


class _Reader:
    """Values of a data set as text, by its Specific Character Set."""

    def __init__(self, dataset: Dataset, sets: tuple[str, ...] | None = None) -> None:
        self.dataset = dataset
        declared = self._declared_sets()
        stated = sets if declared is None else character_sets(declared)
        self._sets = stated or ("6",)

    def text(self, keyword: str) -> str | None:
        """The first value; None when absent, empty, too long or not to be decoded."""
        return next(iter(self.texts(keyword)), None)

    def joined(self, keyword: str) -> str | None:
        """All values that are not empty, as one text."""
        return "; ".join(filter(None, self.texts(keyword))) or None

    def texts(self, keyword: str) -> list[str | None]:
        """All values, on one line each; None for what is no text of its kind."""
        values = self._values(keyword, VALUE_DELIMITERS)
        return [_line(value) for value in values[:_MAX_VALUES]]

    def names(self, keyword: str) -> list[str | None]:
        """The names of persons; None for each that is none, or that names nobody ("UNKNOWN")."""
        values = self._values(keyword, NAME_DELIMITERS)
        names = (clean_name(_printable(value)) for value in values[:_MAX_VALUES])
        return [None if name is None or names_nobody(name) else name for name in names]

    def items(self, keyword: str) -> "list[_Reader]":
        """The items of a sequence."""
        return [
            _Reader(item, self._sets)
            for item in items(self.dataset, keyword)[:_MAX_VALUES]
            if isinstance(item, Dataset)
        ]

    def _values(self, keyword: str, delimiters: frozenset[int]) -> list[str]:
        item = self._item(keyword)
        if item is None:
            return []
        if isinstance(item, RawDataElement):
            with suppress(CharacterSetError):
                return decode_text(bytes(item.value or b""), self._sets, delimiters).split("\\")
            return []
        value = element(self.dataset, keyword)
        if value is None or isinstance(value, bytes | Dataset):
            return []
        values = value if isinstance(value, MultiValue | list | tuple) else [value]
        return [str(each) for each in values]

    def _declared_sets(self) -> str | None:
        """Specific Character Set as text; None where the data set has none of its own."""
        item = self._item("SpecificCharacterSet")
        if item is None:
            return None
        if isinstance(item, RawDataElement):
            return bytes(item.value or b"").decode("latin-1")
        value = element(self.dataset, "SpecificCharacterSet")
        return "\\".join(value) if isinstance(value, MultiValue | list) else str(value or "")

    def _item(self, keyword: str) -> Any:
        """The element as it stands in the file, else as it was parsed; None when absent."""
        tag = tag_for_keyword(keyword)
        return None if tag is None or tag not in self.dataset else self.dataset.get_item(tag)


def _printable(value: str) -> str:
    """The value without control characters and lone surrogates, which no database stores."""
    return "".join(letter if letter.isprintable() else " " for letter in value)


def _line(value: str) -> str | None:
    text = " ".join(_printable(value).split())
    return text if 0 < len(text) <= MAX_TEXT else None


def _operators(reader: _Reader) -> tuple[Operator, ...]:
    """Each operator once. Names belong to codes only where there are as many of them."""
    names = reader.names("OperatorsName")
    codes = [_code(item) for item in reader.items("OperatorIdentificationSequence")]
    if len(codes) == len(names):
        pairs = list(zip(names, codes, strict=True))
    elif any(codes):
        pairs = [(None, code) for code in codes]
    else:
        pairs = [(name, None) for name in names]
    operators = [
        Operator(name, *(code or (None, None))) for name, code in pairs if name or code is not None
    ]
    return tuple({operator.identity: operator for operator in reversed(operators)}.values())[::-1]


def _code(item: _Reader) -> tuple[str, str] | None:
    """Code value and scheme of a Person Identification Macro (PS3.3 table 10-1)."""
    for code in item.items("PersonIdentificationCodeSequence")[:1]:
        value = code.text("CodeValue") or code.text("LongCodeValue") or code.text("URNCodeValue")
        if value is not None and not names_nobody(value):
            return value, code.text("CodingSchemeDesignator") or ""
    return None


def _serial_number(value: str | None) -> str | None:
    """None also for what machines send that were given no serial number."""
    letters = "".join(letter for letter in (value or "").upper() if letter.isalnum())
    return value if letters.strip("0") and letters not in _NO_SERIAL else None


def _acquired(reader: _Reader) -> tuple[str | None, str | None, AcquiredSource | None]:
    """Local time, zone and source of the first elements that state date and time."""
    stated_zone = _zone(reader.text("TimezoneOffsetFromUTC"))
    moment = _MOMENT.fullmatch(reader.text("AcquisitionDateTime") or "")
    if moment is not None and (acquired := _moment(moment[1], moment[2])) is not None:
        return acquired, _zone(moment[3]) or stated_zone, "acquisition"
    sources: tuple[tuple[str, AcquiredSource], ...] = (
        ("Acquisition", "acquisition"),
        ("Content", "content"),
        ("Series", "series"),
        ("Study", "study"),
    )
    for prefix, source in sources:
        acquired = _moment(reader.text(f"{prefix}Date"), reader.text(f"{prefix}Time"))
        if acquired is not None:
            return acquired, stated_zone, source
    return None, None, None


def _moment(day: str | None, time: str | None) -> str | None:
    """Date and time, at least to the minute, in ISO 8601 to the second."""
    valid, parts = _date(day), _TIME.fullmatch(time or "")
    if valid is None or parts is None:
        return None
    # A leap second is the last one of its minute (PS3.5 6.2).
    hour, minute, second = int(parts[1]), int(parts[2]), min(59, int(parts[3] or 0))
    if hour > 23 or minute > 59:
        return None
    start = datetime(valid.year, valid.month, valid.day)
    return (start + timedelta(hours=hour, minutes=minute, seconds=second)).isoformat()


def _date(value: str | None) -> date | None:
    """A date (DA; ACR-NEMA's has dots) within the years in which machines made pictures."""
    parts = _DATE.fullmatch(value or "")
    if parts is None or not parts[0].isascii():
        return None
    with suppress(ValueError):
        valid = date(*map(int, parts.groups()))
        return valid if _YEARS[0] <= valid.year < _YEARS[1] else None
    return None


def _zone(value: str | None) -> str | None:
    parts = _ZONE.fullmatch(value or "")
    return None if parts is None else f"{parts[1]}{parts[2]}:{parts[3]}"


def _age(value: str | None) -> float | None:
    """Years of an age (AS), to two digits."""
    parts = _AGE.fullmatch(value or "")
    if parts is None or not parts[0].isascii():
        return None
    years = int(parts[1]) * _DAYS_OF_UNIT[parts[2]] / _DAYS_OF_UNIT["Y"]
    return round(years, 2) if _AGES[0] < years <= _AGES[1] else None


def _quantity(value: str | None, limits: tuple[float, float]) -> float | None:
    with suppress(ValueError):
        number = float(value or "")
        # NaN is within no limits.
        return number if limits[0] <= number <= limits[1] else None
    return None
