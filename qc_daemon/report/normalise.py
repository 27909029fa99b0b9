"""The normalised copy of a source's header: what our objects inherit, valid and in UTF-8.

Scanners write headers that no validator passes; an object that inherits from them must be valid all
the same. Valid values are inherited exactly. Missing Type 2 elements become empty, character-set
aliases and ACR-NEMA dates and times are mapped, anything else invalid is emptied. UIDs that
references must repeat are kept as received, legal or not.
"""

import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any

from pydicom import config
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from qc_daemon.dicom.character_set import (
    NAME_DELIMITERS,
    VALUE_DELIMITERS,
    character_sets,
    decode_text,
    split_values,
)

UTF8 = "ISO_IR 192"

PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
"""Type 2 of the Patient and General Study Modules (PS3.3 C.7.1.1, C.7.2.1)."""
CONTEXT = (
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "PatientBirthTime",
    "OtherPatientNames",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDescription",
    "PhysiciansOfRecord",
    "AdmissionID",
    "TimezoneOffsetFromUTC",
    "InstitutionName",
)
"""Optional elements that our objects share with their source."""
CONTEXT_SEQUENCES = ("OtherPatientIDsSequence", "DeidentificationMethodCodeSequence")
ACQUISITION = (
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "StationName",
    "SeriesNumber",
    "InstanceNumber",
    "Modality",
    "NumberOfFrames",
    "Rows",
    "Columns",
)
"""Elements that describe the source itself and are not inherited."""
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
REQUEST = ("RequestedProcedureID", "RequestedProcedureDescription")

KEYWORDS = (
    "SpecificCharacterSet",
    *UIDS,
    *PATIENT_AND_STUDY,
    *CONTEXT,
    *CONTEXT_SEQUENCES,
    *ACQUISITION,
    "ProcedureCodeSequence",
    "RequestAttributesSequence",
    "ReferencedPerformedProcedureStepSequence",
    "SequenceOfUltrasoundRegions",
)
"""A report reads only these elements of a received header."""

_ENUMERATED: Mapping[str, frozenset[str]] = {
    "PatientSex": frozenset("MFO"),
    "PatientIdentityRemoved": frozenset({"YES", "NO"}),
}
_LINE_VRS = frozenset({"AE", "CS", "LO", "PN", "SH"})
_TEXT_VRS = frozenset({"SH", "LO", "ST", "LT", "UC", "UT", "PN"})
"""Value representations that Specific Character Set holds for (PS3.3 C.12.1.1.2)."""
_SINGLE_VALUED_VRS = frozenset({"ST", "LT", "UT"})
_UNDECLARED = ("6",)

_ACR_NEMA_DATE = re.compile(r"(\d{4})\.(\d{2})\.(\d{2})")
_ACR_NEMA_TIME = re.compile(r"(\d{2}):(\d{2})(?::(\d{2}(?:\.\d{1,6})?))?")
_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")
_UNCONVERTIBLE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
"""pydicom raises these on values that do not fit their value representation."""


def normalise(header: Dataset) -> tuple[Dataset, bool]:
    """The normalised copy, and whether it lost a value; `header` is not changed.

    Mapped values (aliases, ACR-NEMA dates) and absent ones lose nothing. The copy holds the
    elements named above, ProcedureCodeSequence, RequestAttributesSequence,
    ReferencedPerformedProcedureStepSequence and those of the patient with their valid items, and
    ISO_IR 192.
    """
    reader = _Reader(header)
    copy = Dataset()
    copy.SpecificCharacterSet = UTF8
    for keyword in UIDS:
        value = reader.raw_uid(keyword)
        if value:
            copy.add(_element(keyword, value, config.IGNORE))
    for keyword in PATIENT_AND_STUDY:
        copy.add(reader.valid(keyword) or _element(keyword, None, config.IGNORE))
    for keyword in (*CONTEXT, *ACQUISITION):
        element = reader.valid(keyword)
        if element is not None:
            copy.add(element)
    reader.copy_items(copy, "ProcedureCodeSequence", _code_item)
    reader.copy_items(copy, "RequestAttributesSequence", _request_item)
    reader.copy_items(copy, "ReferencedPerformedProcedureStepSequence", _step_item)
    reader.copy_items(copy, "OtherPatientIDsSequence", _other_id_item)
    reader.copy_items(copy, "DeidentificationMethodCodeSequence", _code_item)
    methods = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
    if copy.get("PatientIdentityRemoved") == "YES" and not any(m in copy for m in methods):
        # Without a method it is no valid statement (PS3.3 C.7.1.1).
        del copy.PatientIdentityRemoved
        reader.has_lost_values = True
    return copy, reader.has_lost_values


def inherit(target: Dataset, normalised: Dataset) -> None:
    """Copy patient, study and context of a normalised header to `target`, unchanged."""
    for keyword in (*PATIENT_AND_STUDY, *CONTEXT, *CONTEXT_SEQUENCES):
        if keyword in normalised:
            target.add(normalised[keyword])


def referenced_requests(normalised: Dataset) -> list[Dataset]:
    """Referenced Request Sequence items (PS3.3 C.17.2): what the exam was ordered as, if known."""
    requests = list(normalised.get("RequestAttributesSequence", []))
    if not requests and normalised.AccessionNumber:
        requests = [Dataset()]
    items = []
    for request in requests:
        item = Dataset()
        item.StudyInstanceUID = normalised.StudyInstanceUID
        item.ReferencedStudySequence = []
        item.AccessionNumber = normalised.AccessionNumber
        item.PlacerOrderNumberImagingServiceRequest = ""
        item.FillerOrderNumberImagingServiceRequest = ""
        item.RequestedProcedureID = request.get("RequestedProcedureID", "")
        item.RequestedProcedureDescription = request.get("RequestedProcedureDescription", "")
        item.RequestedProcedureCodeSequence = []
        items.append(item)
    return items


class _Reader:
    """Reads values of a received header; `has_lost_values` once an invalid one was dropped."""

    def __init__(self, header: Dataset) -> None:
        self.has_lost_values = False
        # Reading converts raw elements in place; the caller's header stays as received.
        self._header = deepcopy(header)
        self._sets = declared_character_sets(header)

    def raw_uid(self, keyword: str) -> str:
        """The UID as received, "" if there is none."""
        value = self._value(keyword)
        return str(value) if isinstance(value, str) else ""

    def valid(self, keyword: str) -> DataElement | None:
        """The element if it has a valid value, else None."""
        value = self._value(keyword)
        if value is None or value == "" or value == []:
            return None
        element = _valid_element(keyword, value)
        self.has_lost_values |= element is None
        return element

    def copy_items(
        self, target: Dataset, keyword: str, make: Callable[["_Reader"], Dataset | None]
    ) -> None:
        """Adds the sequence with the items that `make` finds valid, if there are any."""
        items = self._value(keyword)
        if not items:
            return
        if not isinstance(items, Sequence) or not all(isinstance(i, Dataset) for i in items):
            self.has_lost_values = True
            return
        valid_items = []
        for item in items:
            reader = _Reader(item)
            if "SpecificCharacterSet" not in item:
                reader._sets = self._sets
            valid_item = make(reader)
            self.has_lost_values |= reader.has_lost_values or valid_item is None
            if valid_item is not None:
                valid_items.append(valid_item)
        if valid_items:
            setattr(target, keyword, valid_items)

    def _value(self, keyword: str) -> Any:
        tag = tag_for_keyword(keyword)
        assert tag is not None
        if tag not in self._header:
            return None
        try:
            with warnings.catch_warnings():
                # The warnings quote the value, which may be patient data.
                warnings.simplefilter("ignore")
                element = self._header.get_item(tag)
                vr = dictionary_VR(tag)
                if isinstance(element, RawDataElement) and vr in _TEXT_VRS:
                    return _decode_text_value(element.value or b"", vr, self._sets)
                if isinstance(element, RawDataElement) and vr != "SQ":
                    element = convert_raw_data_element(element, ds=self._header)
                else:
                    element = self._header[tag]
                return element.value
        except _UNCONVERTIBLE:
            self.has_lost_values = True
            return None


def declared_character_sets(header: Dataset) -> tuple[str, ...]:
    """The header's character sets, misspelt names mapped to those they mean.

    No declaration, and an unknown name, stand for ASCII, so that other bytes are invalid instead of
    guessed.
    """
    try:
        declared = header.get("SpecificCharacterSet")
    except _UNCONVERTIBLE:
        return _UNDECLARED
    names = [declared] if isinstance(declared, str) else list(declared or [])
    return character_sets([str(name) for name in names]) or _UNDECLARED


def _decode_text_value(raw: bytes, vr: str, sets: Sequence[str]) -> Any:
    """A text element's value or values. Raises CharacterSetError, a ValueError."""
    if vr in _SINGLE_VALUED_VRS:
        return decode_text(raw, sets, frozenset()).rstrip("\0 ")
    text = decode_text(raw, sets, NAME_DELIMITERS if vr == "PN" else VALUE_DELIMITERS)
    values = [value.rstrip("\0 ") for value in split_values(text)]
    return values[0] if len(values) == 1 else values


def _valid_element(keyword: str, value: Any) -> DataElement | None:
    vr = dictionary_VR(keyword)
    several = isinstance(value, MultiValue | list | tuple)
    if several and dictionary_VM(keyword) == "1":
        return None
    mapped = [_map_acr_nema(vr, v) for v in value] if several else _map_acr_nema(vr, value)
    if not all(_is_allowed(keyword, vr, v) for v in (mapped if several else [mapped])):
        return None
    try:
        return _element(keyword, mapped, config.RAISE)
    except _UNCONVERTIBLE:
        return None


def _map_acr_nema(vr: str, value: Any) -> Any:
    """ACR-NEMA dates (1994.11.05) and times (11:20:00) as DICOM writes them."""
    if not isinstance(value, str):
        return value
    if vr == "DA" and (match := _ACR_NEMA_DATE.fullmatch(value.strip())):
        return "".join(match.groups())
    if vr == "TM" and (match := _ACR_NEMA_TIME.fullmatch(value.strip())):
        return "".join(part or "" for part in match.groups())
    return value


def _is_allowed(keyword: str, vr: str, value: Any) -> bool:
    """Whether a value passes the checks that pydicom's validation lacks."""
    text = str(value)
    if "�" in text:
        return False
    if vr in _LINE_VRS and any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
        return False
    if vr == "PN" and not _is_name(text):
        return False
    if vr == "DA" and not _is_date(text):
        return False
    if vr == "TM" and "-" in text:
        return False
    if keyword == "TimezoneOffsetFromUTC" and not _OFFSET.fullmatch(text):
        return False
    return keyword not in _ENUMERATED or text in _ENUMERATED[keyword]


def _is_name(text: str) -> bool:
    """At most three groups of at most 64 characters and five components (PS3.5 6.2.1)."""
    groups = text.split("=")
    return len(groups) <= 3 and all(len(g) <= 64 and g.count("^") <= 4 for g in groups)


def _is_date(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return len(text) == 8


def _element(keyword: str, value: Any, mode: int) -> DataElement:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return DataElement(tag, dictionary_VR(keyword), value, validation_mode=mode)


def _macro_item(reader: _Reader, required: Sequence[str], optional: str = "") -> Dataset | None:
    """An item of the valid elements with these keywords, None if a required one is missing."""
    item = Dataset()
    for keyword in required:
        element = reader.valid(keyword)
        if element is None:
            return None
        item.add(element)
    element = reader.valid(optional) if optional else None
    if element is not None:
        item.add(element)
    return item


def _code_item(reader: _Reader) -> Dataset | None:
    """A code of the basic Code Sequence Macro (PS3.3 table 8.8-1), None if incomplete."""
    codes = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    return _macro_item(reader, codes, "CodingSchemeVersion")


def _request_item(reader: _Reader) -> Dataset | None:
    """The identity of a requested procedure, None if nothing identifies it."""
    item = Dataset()
    for keyword in REQUEST:
        element = reader.valid(keyword)
        if element is not None:
            item.add(element)
    return item if "RequestedProcedureID" in item else None


def _other_id_item(reader: _Reader) -> Dataset | None:
    """Another identifier of the patient (PS3.3 C.7.1.1), None if incomplete."""
    return _macro_item(reader, ("PatientID", "TypeOfPatientID"), "IssuerOfPatientID")


def _step_item(reader: _Reader) -> Dataset | None:
    """A reference to a performed procedure step, None if incomplete."""
    return _macro_item(reader, ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"))
