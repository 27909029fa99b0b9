"""The facts of acquisition of each revision, stored once, and read with the exam's measurements."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
)
from sqlalchemy.orm import Session

from model.site.names import UNNAMED, site_key, site_of
from qc_daemon.dicom.acquisition import Acquisition, body_mass_index, device_identity
from qc_daemon.records.acquisition import identities
from qc_daemon.records.received.revisions import RevisionFacts, as_facts, select_facts
from qc_daemon.records.tables import (
    AcquisitionOperator,
    AcquisitionRow,
    AcquisitionState,
    IdentityKind,
    Measurement,
    Revision,
    RevisionState,
)
from qc_daemon.records.upsert import insert_once, table_of

LAST_MENSTRUAL_DATE, REPORT, REPORT_BY_CRL = "last-menstrual-date", "report", "report-crl"
"""Where a gestational age is from: the image's header, or a machine's report (TID 5000) of its
exam, which gives it for the fetus or by the crown-rump length."""
PENDING = "pending"
"""The state of an image whose header is still to be read: an older version scored it."""


def store(
    session: Session,
    revision_id: int,
    acquisition: Acquisition | None,
    calling_ae: str,
    now: datetime,
) -> None:
    """Store what the revision's header says (None: its file cannot be read); the first set that was
    read stands, and takes the place of an unknown one."""
    if acquisition is None:
        _insert(session, revision_id, AcquisitionState.UNKNOWN, now, {})
        return
    person_ids = identities.identify_persons(session, acquisition.operators, now)
    identity = device_identity(acquisition, calling_ae)
    age = acquisition.gestational_age_days
    values = {
        "device_id": identities.identify_device(session, identity, acquisition, calling_ae, now),
        "device_source": identity.source,
        "site": site_key(acquisition.institution),
        "gestational_age_days": age,
        "gestational_age_source": None if age is None else LAST_MENSTRUAL_DATE,
        **{name: getattr(acquisition, name) for name in _SAME},
    }
    is_new = _insert(session, revision_id, AcquisitionState.READ, now, values)
    if not is_new and session.execute(_FORGET_UNKNOWN, {"revision": revision_id}).one_or_none():
        is_new = _insert(session, revision_id, AcquisitionState.READ, now, values)
    if is_new and person_ids:
        session.execute(
            _ADD_PERSONS, [{"revision_id": revision_id, "person_id": id} for id in person_ids]
        )


# On the tables and built once, for the reason that `upsert.py` gives.
_ADD_PERSONS = insert(table_of(AcquisitionOperator))
_columns = table_of(AcquisitionRow).c
_FORGET_UNKNOWN = (
    delete(table_of(AcquisitionRow))
    .where(
        _columns.revision_id == bindparam("revision"), _columns.state == AcquisitionState.UNKNOWN
    )
    .returning(_columns.revision_id)
)


def _insert(
    session: Session,
    revision_id: int,
    state: AcquisitionState,
    now: datetime,
    values: dict[str, Any],
) -> bool:
    """Insert the row; False where there is one."""
    row = {"revision_id": revision_id, "state": state, "read_at": now, **values}
    return insert_once(session, AcquisitionRow, row, ("revision_id",)) is not None


_SAME = (
    "software_versions",
    "transducer",
    "transducer_type",
    "institution",
    "department",
    "performing_physician",
    "acquired",
    "acquired_zone",
    "acquired_source",
    "patient_age_years",
    "patient_size_m",
    "patient_weight_kg",
    "study_description",
    "burned_in_annotation",
)
"""Columns that are fields of `Acquisition` too."""


def unread(
    session: Session, after: int, limit: int, *, with_unknown: bool = False
) -> list[RevisionFacts]:
    """Decoded revisions beyond the id `after` whose header is still to be read, by id;
    `with_unknown` also those whose file was gone or unreadable the last time."""
    states = [AcquisitionState.READ] if with_unknown else list(AcquisitionState)
    is_read = exists().where(
        AcquisitionRow.revision_id == Revision.id, AcquisitionRow.state.in_(states)
    )
    rows = session.execute(
        select_facts()
        .where(Revision.id > after, Revision.pixel_sha256.is_not(None), ~is_read)
        .order_by(Revision.id)
        .limit(limit)
    )
    return [as_facts(row) for row in rows]


def count_states(session: Session) -> dict[str, int]:
    """How many decoded images were read, are unknown, and are pending."""
    rows = session.execute(
        select(AcquisitionRow.state, func.count().label("number")).group_by(AcquisitionRow.state)
    )
    counts = dict.fromkeys(AcquisitionState, 0) | {row.state: row.number for row in rows}
    is_stored = exists().where(AcquisitionRow.revision_id == Revision.id)
    pending = session.execute(
        select(func.count()).where(Revision.pixel_sha256.is_not(None), ~is_stored)
    ).scalar_one()
    return {str(state): count for state, count in counts.items()} | {PENDING: pending}


ACQUISITION_COLUMNS = tuple(
    column.label(f"acquisition_{column.key}") for column in AcquisitionRow.__table__.c
)
"""Columns that `AcquisitionReader.of_row` reads, by an outer join; all NULL while pending."""
OPERATOR_IDS = (
    select(func.aggregate_strings(AcquisitionOperator.person_id, " "))
    .where(AcquisitionOperator.revision_id == Revision.id)
    .correlate(Revision)
    .scalar_subquery()
    .label("acquisition_person_ids")
)
"""The ids of the operators of a row's revision, separated by spaces; NULL for none."""


@dataclass(frozen=True, slots=True)
class AcquisitionFilter:
    """Which images, by who made them, with what and where; None: any.

    `persons` and `devices` are ids as stored, aliases among them: `identities.members` gives them.
    Case, accents and punctuation of the name of a site do not count; `unnamed` are images that name
    none. `days`: made from the first of these days to the last, as audits count them: an image
    whose time is not known by its receipt (UTC).
    """

    persons: frozenset[str] | None = None
    devices: frozenset[str] | None = None
    site: str | None = None
    days: tuple[date, date] | None = None

    def where(self, statement: Select[Any]) -> Select[Any]:
        """The statement, joined with `AcquisitionRow`, of these images only."""
        if self.persons is not None:
            has_operator = exists().where(
                AcquisitionOperator.revision_id == Revision.id,
                AcquisitionOperator.person_id.in_(self.persons),
            )
            statement = statement.where(has_operator)
        if self.devices is not None:
            statement = statement.where(AcquisitionRow.device_id.in_(self.devices))
        if self.site is not None:
            is_of_site = AcquisitionRow.site == site_of(self.site)
            if site_of(self.site) == UNNAMED:
                is_of_site = or_(is_of_site, AcquisitionRow.site.is_(None))
            statement = statement.where(is_of_site)
        if self.days is not None:
            statement = statement.where(_is_made_in(*self.days))
        return statement


def _is_made_in(first: date, last: date) -> ColumnElement[bool]:
    start = datetime(first.year, first.month, first.day, tzinfo=UTC)
    end = start + (last - first + timedelta(days=1))
    made, received = AcquisitionRow.acquired, Revision.received_at
    by_receipt = and_(made.is_(None), received >= start, received < end)
    return or_(and_(made >= first.isoformat(), made < end.date().isoformat()), by_receipt)


ANY_ACQUISITION = AcquisitionFilter()


@dataclass(frozen=True, slots=True)
class FetalAge:
    """Gestational age in days, crown-rump length and nuchal translucency in mm of an exam, as its
    machine's report says; None where it does not, or where several fetuses differ."""

    days: int | None = None
    source: str | None = None
    crl_mm: float | None = None
    nt_mm: float | None = None


class AcquisitionReader:
    """Makes the key `acquisition` of findings: persons and devices as they are merged now, and what
    the machine's reports of the exam measured."""

    def __init__(self, session: Session, exam_ids: Collection[int] | None = None) -> None:
        """For rows of all exams, or of these."""
        self._session = session
        self._persons = identities.roots(session, IdentityKind.PERSON)
        self._devices = identities.roots(session, IdentityKind.DEVICE)
        self._manufacturers = identities.manufacturers(session)
        self._with_code = identities.persons_with_code(session)
        # Of all exams there may be more than fit into memory: each is read when its rows come.
        self._ages = {} if exam_ids is None else fetal_ages(session, exam_ids)
        self._measured = (
            set(session.scalars(select(Measurement.exam_id).distinct()))
            if exam_ids is None
            else set(self._ages)
        )

    def of_row(self, row: Any) -> dict[str, Any]:
        """The JSON object of a row with `ACQUISITION_COLUMNS`, `OPERATOR_IDS` and `exam_id`; its
        keys are always the same."""
        ids = (row.acquisition_person_ids or "").split()
        return acquisition_json(
            lambda name: getattr(row, f"acquisition_{name}"),
            persons=sorted({self._persons.get(id, id) for id in ids}),
            person_source=self._person_source(ids, row.acquisition_from_worklist),
            devices=self._devices,
            manufacturers=self._manufacturers,
            age=self._age(row.exam_id),
        )

    def _person_source(self, ids: Collection[str], from_worklist: str | None) -> str | None:
        """What the header identified its operators by: "code", "name", or both; else
        "worklist"."""
        if "operators" in (from_worklist or "").split():
            return "worklist"
        sources = {"code" if id in self._with_code else "name" for id in ids}
        return " and ".join(sorted(sources)) or None

    def _age(self, exam_id: int) -> FetalAge:
        if exam_id not in self._measured:
            return FetalAge()
        if exam_id not in self._ages:
            self._ages[exam_id] = fetal_age(self._session, exam_id)
        return self._ages[exam_id]


def acquisition_json(
    value: Callable[[str], Any],
    persons: list[str],
    person_source: str | None,
    devices: Mapping[str, str],
    manufacturers: Mapping[str, str],
    age: FetalAge,
) -> dict[str, Any]:
    """The JSON object of stored facts; a machine's report is believed before the header.

    `persons` and `devices` are as merged, `manufacturers` by a device's own id.
    """
    device_id = value("device_id")
    days, source = age.days, age.source
    if days is None:
        days, source = value("gestational_age_days"), value("gestational_age_source")
    acquired, zone = value("acquired"), value("acquired_zone")
    return {
        "state": value("state") or PENDING,
        "person_ids": persons,
        "person_source": person_source,
        "device_id": None if device_id is None else devices.get(device_id, device_id),
        "device_source": value("device_source"),
        "site": value("institution"),
        "site_source": None if value("institution") is None else "institution-name",
        "department": value("department"),
        "acquired": None if acquired is None else acquired + (zone or ""),
        "acquired_source": value("acquired_source"),
        "gestational_age_days": days,
        "gestational_age_source": source,
        "crl_mm": age.crl_mm,
        "crl_source": None if age.crl_mm is None else REPORT,
        "nt_mm": age.nt_mm,
        "nt_source": None if age.nt_mm is None else REPORT,
        "patient_age_years": value("patient_age_years"),
        "patient_size_m": value("patient_size_m"),
        "patient_weight_kg": value("patient_weight_kg"),
        "patient_bmi": body_mass_index(value("patient_size_m"), value("patient_weight_kg")),
        "software_versions": value("software_versions"),
        "transducer": value("transducer"),
        "transducer_type": value("transducer_type"),
        "study_description": value("study_description"),
        "burned_in_annotation": value("burned_in_annotation"),
        "performing_physician": value("performing_physician"),
        "manufacturer": None if device_id is None else manufacturers.get(device_id),
    }


ACQUISITION_KEYS = tuple(acquisition_json(lambda _: None, [], None, {}, {}, FetalAge()))
"""The keys of the JSON object, in order."""


def fetal_age(session: Session, exam_id: int) -> FetalAge:
    """What the machine's reports of the exam say of age and length, the newest report first."""
    return fetal_ages(session, [exam_id]).get(exam_id, FetalAge())


def fetal_ages(session: Session, exam_ids: Collection[int]) -> dict[int, FetalAge]:
    """As `fetal_age`, of those of these exams whose machine has reported something."""
    rows = session.execute(
        select(Measurement.exam_id, Measurement.concept, Measurement.fetus, Measurement.value)
        .join(Revision, Revision.id == Measurement.revision_id)
        .where(Measurement.exam_id.in_(exam_ids), Revision.state != RevisionState.QUARANTINED)
        .order_by(Revision.received_at.desc(), Measurement.id)
    )
    by_exam: defaultdict[int, list[Any]] = defaultdict(list)
    for row in rows:
        by_exam[row.exam_id].append(row)
    return {exam_id: _fetal_age(measured) for exam_id, measured in by_exam.items()}


def _fetal_age(rows: Collection[Any]) -> FetalAge:
    length, translucency = (_common_value(rows, concept) for concept in ("CRL", "NT"))
    for concept, source in (("GA", REPORT), ("GA-CRL", REPORT_BY_CRL)):
        days = _common_value(rows, concept)
        if days is not None:
            return FetalAge(round(days), source, length, translucency)
    return FetalAge(crl_mm=length, nt_mm=translucency)


def _common_value(rows: Collection[Any], concept: str) -> float | None:
    """The newest value of a concept; None where those of several fetuses differ, as an image does
    not say which one it shows."""
    by_fetus: dict[str | None, float] = {}
    for row in rows:
        if row.concept == concept:
            by_fetus.setdefault(row.fetus, row.value)
    return by_fetus.popitem()[1] if len(set(by_fetus.values())) == 1 else None


def newest_stamps(
    session: Session, limit: int
) -> list[tuple[str, str | None, str | None, datetime]]:
    """Of the newest contents: who sent it, when it was made by its header, the header's zone, and
    when it came."""
    rows = session.execute(
        select(
            Revision.calling_ae,
            AcquisitionRow.acquired,
            AcquisitionRow.acquired_zone,
            Revision.received_at,
        )
        .join(AcquisitionRow, AcquisitionRow.revision_id == Revision.id)
        .order_by(Revision.id.desc())
        .limit(limit)
    )
    return [(row.calling_ae, row.acquired, row.acquired_zone, row.received_at) for row in rows]
