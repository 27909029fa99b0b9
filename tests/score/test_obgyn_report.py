"""Machines' OB-GYN reports (TID 5000): what is read from their trees, and what becomes of them."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import UID
from sqlalchemy import select

from detector.errors import ErrorCode, QCError
from qc_daemon.dicom.implementation import MANUFACTURER
from qc_daemon.operations.quarantine import list_quarantined
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.results import measurements as stored
from qc_daemon.records.results.measurements import MeasuredValue
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobRow, Revision
from qc_daemon.score.obgyn_report import FetalMeasurement, find_measurements, read_measurements
from qc_daemon.settings import Settings, load
from tests.support.databases import migrate
from tests.support.dicom_objects import part10, ultrasound
from tests.support.job_runners import score_runner
from tests.support.receipts import receipt_of, write_file

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
CRL, NT, AGE = ("11957-8", "LN"), ("33069-6", "LN"), ("18185-9", "LN")
BPD, FETUS_ID = ("11820-8", "LN"), ("11951-1", "LN")
GROUP, BIOMETRY, EARLY = ("125005", "DCM"), ("125002", "DCM"), ("125009", "DCM")
SUMMARY, FETUS_SUMMARY = ("121111", "DCM"), ("125008", "DCM")
SELECTED, MEAN_CHOSEN = ("121404", "DCM"), ("121412", "DCM")
DERIVATION, MEAN = ("121401", "DCM"), ("373098007", "SCT")


def code(value: tuple[str, str]) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = value
    item.CodeMeaning = "meaning"
    return [item]


def content(
    kind: str, concept: tuple[str, str], *children: Dataset, relation: str = "CONTAINS"
) -> Dataset:
    item = Dataset()
    item.RelationshipType = relation
    item.ValueType = kind
    item.ConceptNameCodeSequence = code(concept)
    if children:
        item.ContentSequence = list(children)
    return item


def container(concept: tuple[str, str], *children: Dataset) -> Dataset:
    item = content("CONTAINER", concept, *children)
    item.ContinuityOfContent = "SEPARATE"
    return item


def num(concept: tuple[str, str], value: Any, unit: str, *children: Dataset) -> Dataset:
    item = content("NUM", concept, *children)
    measured = Dataset()
    measured.add_new("NumericValue", "DS", value)
    measured.MeasurementUnitsCodeSequence = code((unit, "UCUM"))
    item.MeasuredValueSequence = [measured]
    return item


def coded(concept: tuple[str, str], value: tuple[str, str]) -> Dataset:
    item = content("CODE", concept, relation="HAS PROPERTIES")
    item.ConceptCodeSequence = code(value)
    return item


def fetus(name: str) -> Dataset:
    item = content("TEXT", FETUS_ID, relation="HAS OBS CONTEXT")
    item.TextValue = name
    return item


def report(*sections: Dataset) -> Dataset:
    """A Comprehensive SR as machines send it."""
    dataset = ultrasound(sop_class=COMPREHENSIVE_SR)
    for keyword in ("PixelData", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated"):
        delattr(dataset, keyword)
    dataset.Modality, dataset.CompletionFlag, dataset.VerificationFlag = (
        "SR",
        "PARTIAL",
        "UNVERIFIED",
    )
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "5000"
    dataset.ContentTemplateSequence = [template]
    dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
    dataset.ConceptNameCodeSequence = code(("125000", "DCM"))
    dataset.ContentSequence = list(sections)
    return dataset


def twins() -> Dataset:
    """Two fetuses: Early Gestation each, a summary with the age, and a BPD that is not read."""
    return report(
        container(
            SUMMARY,
            container(FETUS_SUMMARY, fetus("A"), num(AGE, "88", "d")),
            container(FETUS_SUMMARY, fetus("B"), num(AGE, "12.5", "wk")),
        ),
        container(
            EARLY,
            fetus("A"),
            container(
                GROUP,
                num(CRL, "6.20", "cm"),
                num(CRL, "6.40", "cm"),
                num(CRL, "6.30", "cm", coded(DERIVATION, MEAN)),
                num(AGE, "89", "d"),
            ),
            container(GROUP, num(NT, "1.8", "mm")),
        ),
        container(
            EARLY,
            fetus("B"),
            container(
                GROUP,
                num(CRL, "61", "mm"),
                num(CRL, "64", "mm", coded(SELECTED, MEAN_CHOSEN)),
                num(CRL, "63", "mm", coded(DERIVATION, MEAN)),
            ),
            container(GROUP, num(NT, "0.16", "cm")),
        ),
        container(
            BIOMETRY, fetus("A"), container(GROUP, num(BPD, "22", "mm"), num(AGE, "90", "d"))
        ),
    )


def test_each_fetus_has_its_own_values_in_mm_and_days() -> None:
    assert set(find_measurements(twins())) == {
        FetalMeasurement("A", "GA", 88.0, "d"),
        FetalMeasurement("B", "GA", 87.5, "d"),
        FetalMeasurement("A", "CRL", 63.0, "mm"),
        FetalMeasurement("A", "GA-CRL", 89.0, "d"),
        FetalMeasurement("A", "NT", 1.8, "mm"),
        FetalMeasurement("B", "CRL", 64.0, "mm"),
        FetalMeasurement("B", "NT", 1.6, "mm"),
    }


def test_several_readings_without_a_selection_are_all_reported() -> None:
    tree = report(container(GROUP, num(NT, "1.7", "mm"), num(NT, "1.9", "mm")))
    assert find_measurements(tree) == [
        FetalMeasurement(None, "NT", 1.7, "mm"),
        FetalMeasurement(None, "NT", 1.9, "mm"),
    ]


def test_a_fetus_named_above_holds_below_until_another_is_named() -> None:
    tree = report(
        fetus("1"),
        container(EARLY, num(NT, "1", "mm")),
        container(EARLY, fetus("2"), container(GROUP, num(NT, "2", "mm"))),
    )
    assert [(m.fetus, m.value) for m in find_measurements(tree)] == [("1", 1.0), ("2", 2.0)]


@pytest.mark.parametrize(
    ("value", "unit"),
    [("", "mm"), ("1.8", "[in_i]"), ("1.8", ""), ("-1", "mm"), ("0", "mm"), (None, "mm")],
)
def test_an_impossible_value_is_ignored(value: str | None, unit: str) -> None:
    assert find_measurements(report(num(NT, value, unit))) == []


def test_a_tree_of_odd_items_yields_what_is_sound() -> None:
    bare = Dataset()
    no_unit = num(NT, "1", "mm")
    del no_unit.MeasuredValueSequence[0].MeasurementUnitsCodeSequence
    empty = num(NT, "1", "mm")
    empty.MeasuredValueSequence = []
    nameless = num(NT, "1", "mm")
    nameless.ConceptNameCodeSequence = [Dataset()]
    tree = report(bare, no_unit, empty, nameless, num(NT, ["2.1", "9"], "mm"))
    assert find_measurements(tree) == [FetalMeasurement(None, "NT", 2.1, "mm")]


# Hypothesis needs the same file each time: another SOP Instance UID may be of another length.
SOUND = twins()
SOUND.SOPInstanceUID = UID("1.2.3.4.5.1.1")
SOUND.file_meta.MediaStorageSOPInstanceUID = SOUND.SOPInstanceUID
SOUND_FILE = part10(SOUND)


@given(
    damage=st.lists(
        st.tuples(st.integers(140, len(SOUND_FILE) - 1), st.binary(min_size=1, max_size=3)),
        max_size=30,
    )
)
def test_damaged_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes]]
) -> None:
    damaged = bytearray(SOUND_FILE)
    for offset, piece in damage:
        damaged[offset : offset + len(piece)] = piece
    path = tmp_path_factory.mktemp("sr") / "damaged.dcm"
    path.write_bytes(damaged)
    values: list[FetalMeasurement] = []
    reason = None
    try:
        values = read_measurements(path)
    except QCError as error:
        reason = error.code
    assert reason in (None, ErrorCode.NOT_AN_IMAGE, ErrorCode.UNREADABLE)
    assert all(each.value > 0 and each.unit in ("mm", "d") for each in values)


def test_an_element_of_no_value_representation_is_refused(tmp_path: Path) -> None:
    """It shows only when the element is asked for, after the file has been read."""
    path = tmp_path / "damaged.dcm"
    codes: set[ErrorCode] = set()
    for element in re.finditer(rb"\x08\x00\x02\x01SH", SOUND_FILE):
        # The second letter and the low byte of the length.
        offset = element.end() - 1
        path.write_bytes(SOUND_FILE[:offset] + bytes(2) + SOUND_FILE[offset + 2 :])
        try:
            read_measurements(path)
        except QCError as error:
            codes.add(error.code)
    assert ErrorCode.UNREADABLE in codes


def test_deep_trees_end() -> None:
    tree = num(NT, "1", "mm")
    for _ in range(200):
        tree = container(GROUP, tree)
    assert find_measurements(report(tree)) == [FetalMeasurement(None, "NT", 1.0, "mm")]


@pytest.mark.parametrize("name", ["test-SR.dcm", "reportsi_with_empty_number_tags.dcm"])
def test_real_reports_of_another_kind_have_nothing_for_us(shared_data: Path, name: str) -> None:
    with pytest.raises(QCError) as caught:
        read_measurements(shared_data / "malformed" / name)
    assert caught.value.code is ErrorCode.NOT_AN_IMAGE


def test_our_own_report_that_comes_back_measures_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    ours = report(container(GROUP, num(CRL, "62.5", "mm")))
    path.write_bytes(part10(ours))
    assert len(read_measurements(path)) == 1
    ours.Manufacturer = MANUFACTURER
    path.write_bytes(part10(ours))
    with pytest.raises(QCError, match="made here") as caught:
        read_measurements(path)
    assert caught.value.code is ErrorCode.NOT_AN_IMAGE


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load()
    settings.jobs.backoff_seconds = 0
    settings.store.url = f"sqlite:///{tmp_path / 'qc.db'}"
    settings.store.spool = tmp_path / "spool"
    settings.store.spool.mkdir()
    migrate(settings.store.url)
    return settings


def scored(settings: Settings, *reports: Dataset) -> list[tuple[str, str]]:
    """Receive and score them; state of each revision and of its job."""
    store = Store(settings.store.url)
    for dataset in reports:
        path = write_file(part10(dataset), settings.store.spool)
        receipt = receipt_of(dataset, path, settings.store.spool)
        with store.begin() as session:
            admit(session, receipt, source_destinations=(), bundle_id=None, now=datetime.now(UTC))
    with score_runner(store, settings) as runner:
        while runner.run_once():
            pass
    with store.read() as session:
        rows = session.execute(
            select(Revision.state, JobRow.state)
            .join(JobRow, JobRow.revision_id == Revision.id)
            .order_by(Revision.id)
        )
        return [(row[0], row[1]) for row in rows]


def test_a_received_report_is_read_into_measurements(settings: Settings) -> None:
    assert scored(settings, twins()) == [("scored", "done")]
    with Store(settings.store.url).read() as session:
        (machine,) = stored.of_exam(session, 1)
    values = machine.values
    assert len(values) == 7
    assert MeasuredValue("A", "CRL", 63.0, "mm") in values
    assert MeasuredValue("B", "NT", 1.6, "mm") in values


def test_a_corrected_report_replaces_the_first(settings: Settings) -> None:
    first = report(num(NT, "1.7", "mm"))
    second = report(num(NT, "1.9", "mm"))
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
    assert scored(settings, first, second) == [("scored", "done")] * 2
    with Store(settings.store.url).read() as session:
        (machine,) = stored.of_exam(session, 1)
    assert machine.values == (MeasuredValue(None, "NT", 1.9, "mm"),)
    assert machine.revision.number == 2


def test_a_report_without_measurements_is_quarantined_with_its_reason(settings: Settings) -> None:
    assert scored(settings, report(num(BPD, "22", "mm"))) == [("quarantined", "quarantined")]
    (quarantined,) = list_quarantined(settings)
    assert quarantined["code"] == ErrorCode.NOT_AN_IMAGE
    assert "structured report without" in quarantined["message"]
