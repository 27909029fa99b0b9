"""The measurements of a machine's own report, repeated beside our findings.

One TID 1501 group per report and fetus, with the machine's report as the source of measurement.
Fetuses are named as machines do (PS3.16, TID 1008), in the group: pictures are not known to be of
one or the other, so the report's own subject stays the patient.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import highdicom.sr as hd

from detector.errors import ErrorCode, QCError
from qc_daemon.report.derived_uids import derived_uid
from qc_daemon.report.source import InstanceReference
from qc_daemon.report.sr import codes
from qc_daemon.report.sr.groups import storable_text

BIOMETRY = "M"
"""The tracking identifiers of machines' measurements begin with this."""


@dataclass(frozen=True, slots=True)
class MachineValue:
    """One value; `concept` is a key of `codes.MACHINE_CONCEPTS`, `unit` mm or d.

    `fetus` is the machine's name of the fetus, None where it names none.
    """

    fetus: str | None
    concept: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class MachineReport:
    """A machine's structured report, its measurements, and the SHA-256 of its content."""

    reference: InstanceReference
    values: tuple[MachineValue, ...]
    sha256: str = field(default="", compare=False)


def build_biometry_groups(reports: Sequence[MachineReport]) -> list[hd.templates.Template]:
    """The groups `M1`, `M2`, ... in the order of the reports and of the fetuses in them.

    Raises QCError REPORT_INVALID for a value that has no code or is not finite.
    """
    of_fetuses = [(report, fetus) for report in reports for fetus in _fetuses(report.values)]
    return [_group(number, *each) for number, each in enumerate(of_fetuses, start=1)]


def _fetuses(values: Iterable[MachineValue]) -> list[str | None]:
    return list(dict.fromkeys(value.fetus for value in values))


def _group(number: int, report: MachineReport, fetus: str | None) -> hd.templates.Template:
    reference = report.reference
    uid = derived_uid("biometry", reference.sop_instance_uid, report.sha256, fetus or "")
    group = hd.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.TrackingIdentifier(uid=uid, identifier=f"{BIOMETRY}{number}"),
        measurements=[_number(value) for value in report.values if value.fetus == fetus],
    )
    items = group[0].ContentSequence
    name = storable_text(fetus or "").strip()
    if name:
        context = hd.RelationshipTypeValues.HAS_OBS_CONTEXT
        items.append(hd.CodeContentItem(codes.SUBJECT_CLASS, codes.FETUS, context))
        items.append(hd.TextContentItem(codes.FETUS_ID, name, context))
    items.append(
        hd.CompositeContentItem(
            codes.SOURCE_OF_MEASUREMENT,
            referenced_sop_class_uid=reference.sop_class_uid,
            referenced_sop_instance_uid=reference.sop_instance_uid,
            relationship_type=hd.RelationshipTypeValues.CONTAINS,
        )
    )
    return group


def _number(value: MachineValue) -> hd.Measurement:
    concept = codes.MACHINE_CONCEPTS.get(value.concept)
    unit = codes.MACHINE_UNITS.get(value.unit)
    if concept is None or unit is None or not math.isfinite(value.value):
        raise QCError(ErrorCode.REPORT_INVALID, "a machine's measurement cannot be reported")
    # An age read from the crown-rump length is no age by the last period.
    method = codes.CROWN_RUMP_LENGTH if value.concept == codes.AGE_BY_CRL else None
    return hd.Measurement(concept, value.value, unit, method=method)
