"""The facts of images in the database, and as findings have them."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from qc_daemon.dicom.acquisition import Acquisition, Operator
from qc_daemon.records.acquisition import acquisitions, identities
from qc_daemon.records.acquisition.acquisitions import (
    ACQUISITION_COLUMNS,
    ACQUISITION_KEYS,
    OPERATOR_IDS,
    AcquisitionReader,
    fetal_age,
)
from qc_daemon.records.listings import ExamFilter, Window
from qc_daemon.records.results import measurements
from qc_daemon.records.results.findings import iter_findings
from qc_daemon.records.results.measurements import MeasuredValue
from qc_daemon.records.tables import AcquisitionRow, IdentityKind, Revision
from tests.support.records import Records

NOW = datetime(2026, 11, 29, tzinfo=UTC)
FULL = Acquisition(
    operators=(Operator("Doe^Jane"), Operator("Lee^Ann", "17", "99LAB")),
    serial_number="7",
    manufacturer="ACME",
    performing_physician="Weber^Ina",
    institution="St. Mary's Hôpital",
    acquired="2026-11-29T08:15:00",
    acquired_zone="+01:00",
    acquired_source="acquisition",
    patient_size_m=1.65,
    patient_weight_kg=70.0,
    last_menstrual_date="2026-09-04",
    burned_in_annotation=False,
)


def store(records: Records, revision_id: int, acquisition: Acquisition | None) -> None:
    with records.store.begin() as session:
        acquisitions.store(session, revision_id, acquisition, "US1", NOW)


def stored(records: Records, revision_id: int) -> dict[str, Any]:
    with records.store.read() as session:
        row = session.execute(
            select(Revision.exam_id, *ACQUISITION_COLUMNS, OPERATOR_IDS)
            .join(AcquisitionRow, AcquisitionRow.revision_id == Revision.id, isouter=True)
            .where(Revision.id == revision_id)
        ).one()
        return AcquisitionReader(session).of_row(row)


def test_facts_come_back_as_a_finding_has_them(records: Records) -> None:
    id = records.image().revision_id
    assert stored(records, id) == {
        **dict.fromkeys(ACQUISITION_KEYS),
        "state": "pending",
        "person_ids": [],
    }
    store(records, id, FULL)
    facts = stored(records, id)
    assert tuple(facts) == ACQUISITION_KEYS
    assert len(facts["person_ids"]) == 2
    assert facts["device_id"].startswith("d")
    expected = {
        "state": "read",
        "person_source": "code and name",
        "device_source": "serial",
        "site_source": "institution-name",
        "site": "St. Mary's Hôpital",
        "acquired": "2026-11-29T08:15:00+01:00",
        "gestational_age_days": 86,
        "gestational_age_source": "last-menstrual-date",
        "patient_bmi": 25.7,
        "burned_in_annotation": False,
        "crl_mm": None,
        "performing_physician": "Weber^Ina",
        "manufacturer": "ACME",
    }
    assert {name: facts[name] for name in expected} == expected


def test_the_first_facts_stand_and_replace_unknown_ones(records: Records) -> None:
    id = records.image().revision_id
    store(records, id, None)
    assert stored(records, id)["state"] == "unknown"
    store(records, id, None)
    store(records, id, FULL)
    store(records, id, Acquisition())
    store(records, id, None)
    assert stored(records, id)["site"] == FULL.institution


def test_persons_and_devices_are_those_they_are_merged_into(records: Records) -> None:
    id = records.image().revision_id
    store(records, id, FULL)
    one, two = stored(records, id)["person_ids"]
    with records.store.begin() as session:
        identities.merge(session, IdentityKind.PERSON, [one], two, "Dr Lee", NOW)
    assert stored(records, id)["person_ids"] == [two]
    with records.store.begin() as session:
        identities.split(session, IdentityKind.PERSON, one, "Dr Lee", NOW)
    assert stored(records, id)["person_ids"] == [one, two]


def measure(records: Records, *values: MeasuredValue) -> int:
    """A machine's report in the exam of an image; returns the image's revision."""
    image, report = records.image(), records.image()
    with records.store.begin() as session:
        measurements.store(session, report.revision_id, values)
    return image.revision_id


def test_a_machine_s_report_is_believed_before_the_header(records: Records) -> None:
    id = measure(
        records,
        MeasuredValue("1", "CRL", 62.0, "mm"),
        MeasuredValue("1", "GA-CRL", 88.0, "d"),
        MeasuredValue("1", "GA", 87.4, "d"),
    )
    store(records, id, FULL)
    facts = stored(records, id)
    assert (facts["gestational_age_days"], facts["gestational_age_source"]) == (87, "report")
    assert (facts["crl_mm"], facts["crl_source"]) == (62.0, "report")


def test_of_twins_only_what_they_share_is_stated(records: Records) -> None:
    id = measure(
        records,
        MeasuredValue("1", "CRL", 62.0, "mm"),
        MeasuredValue("2", "CRL", 60.0, "mm"),
        MeasuredValue("1", "GA", 87.0, "d"),
        MeasuredValue("2", "GA", 87.0, "d"),
    )
    with records.store.read() as session:
        exam_id = session.scalars(select(Revision.exam_id).where(Revision.id == id)).one()
        age = fetal_age(session, exam_id)
    assert (age.days, age.source, age.crl_mm) == (87, "report", None)


def test_unread_images_are_those_that_were_decoded_without_facts(records: Records) -> None:
    first, second, _report = (records.image().revision_id for _ in range(3))
    with records.store.begin() as session:
        for id in (first, second):
            session.get_one(Revision, id).pixel_sha256 = "p"

    def unread(after: int = 0, **how: bool) -> list[int]:
        with records.store.read() as session:
            return [f.revision_id for f in acquisitions.unread(session, after, 10, **how)]

    assert unread() == [first, second]
    assert unread(first) == [second]
    store(records, first, FULL)
    store(records, second, None)
    assert unread() == []
    assert unread(with_unknown=True) == [second]
    with records.store.read() as session:
        assert acquisitions.count_states(session) == {"read": 1, "unknown": 1, "pending": 0}


def test_findings_that_are_read_in_pages_have_what_the_machine_measured(records: Records) -> None:
    """The measurements are asked for while the findings are still being read."""
    records.image()
    records.score_all(count=250)
    report = records.image().revision_id
    with records.store.begin() as session:
        measurements.store(session, report, [MeasuredValue("1", "CRL", 62.0, "mm")])
    with records.store.read() as session:
        every = list(iter_findings(session, ExamFilter(), Window(), all_revisions=True))
    assert [each.acquisition["crl_mm"] for each in every] == [62.0] * 250
