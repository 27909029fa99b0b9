"""What images lack comes from a real worklist; one that fails delays and changes nothing."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import text
from structlog.testing import capture_logs

from qc_daemon.dicom.acquisition import Acquisition, Operator
from qc_daemon.operations.results import read_findings
from qc_daemon.records.acquisition import acquisitions
from qc_daemon.records.listings import ALL, ExamFilter
from qc_daemon.records.tables import JobKind
from qc_daemon.settings import WorklistSettings
from qc_daemon.worklist.filling import WorklistFilling
from tests.support.environment import require
from tests.support.ports import reserve_port
from tests.support.report_objects import ultrasound_header
from tests.support.scored_exam import START, ScoredExam
from tests.support.worklist_scp import AE, dcmtk_worklist, orthanc_worklist, write_entry

STUDY = "1.2.826.0.1.3680043.10.1.2"
PLUGIN = Path("/usr/share/orthanc/plugins/libModalityWorklists.so")


class Site:
    """Exams that lack something, and the worklist that is asked."""

    def __init__(self, folder: Path, port: int) -> None:
        self.exam = ScoredExam(folder, ["sr"])
        self.exam.settings.worklist = WorklistSettings(ae_title=AE, host="127.0.0.1", port=port)
        self.filling = WorklistFilling(self.exam.settings, self.exam.store, lambda: self.exam.now)

    def image(self, number: int, acquisition: Acquisition, **header: str) -> int:
        """An image comes, is scored, and its header is read."""
        self.exam.receive_image(
            ultrasound_header(SOPInstanceUID=f"1.2.826.0.1.3680043.10.1.1.{number}", **header)
        )
        with self.exam.store.begin() as session:
            [revision] = session.execute(text("SELECT max(id) FROM revision")).one()
            # The receiver reads it; here the receipt has the identifiers only.
            session.execute(
                text("UPDATE exam SET accession_number = :accession WHERE accession_number = ''"),
                {"accession": header["AccessionNumber"]},
            )
            acquisitions.store(session, revision, acquisition, "VOLUSON1", self.exam.now)
        return int(revision)

    def row(self, sql: str) -> tuple[object, ...]:
        with self.exam.store.read() as session:
            return tuple(session.execute(text(sql)).one())


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    folder = tmp_path / "worklists" / AE
    folder.mkdir(parents=True)
    write_entry(folder, 1, PatientID="4711", AccessionNumber="WL-1", StudyInstanceUID=STUDY)
    write_entry(folder, 2, PatientID="4712", AccessionNumber="WL-2", StudyInstanceUID="1.9")
    write_entry(folder, 3, PatientID="4713", AccessionNumber="WL-3", StudyInstanceUID="1.3")
    write_entry(folder, 4, PatientID="4713", AccessionNumber="WL-4", StudyInstanceUID="1.4")
    return folder


@pytest.fixture(params=["dcmtk", "orthanc"])
def site(request: pytest.FixtureRequest, tmp_path: Path, entries: Path) -> Iterator[Site]:
    if request.param == "dcmtk":
        program = shutil.which("wlmscpfs")
        require(program is not None, "wlmscpfs")
        opened = dcmtk_worklist(str(program), entries)
    else:
        program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
        require(program is not None and PLUGIN.exists(), "Orthanc with its worklist plugin")
        opened = orthanc_worklist(str(program), tmp_path / "orthanc", entries, PLUGIN)
    with opened as port:
        yield Site(tmp_path / "site", port)


def test_what_the_images_lack_is_filled_in_and_reported(site: Site) -> None:
    site.image(1, Acquisition(), AccessionNumber="")
    assert site.filling.step() == 1
    assert site.row("SELECT accession_number FROM exam") == ("WL-1",)
    assert site.row("SELECT received_name FROM person") == ("Roe^Rita",)
    [age, names] = site.row("SELECT patient_age_years, from_worklist FROM acquisition")
    assert names == "operators age"
    # From birth to the day of the exam, which is that of the receipt here.
    assert age == 36.0
    [finding] = read_findings(
        site.exam.settings, ExamFilter(), ALL, "finding", all_frames=True, all_revisions=True
    )
    assert finding["acquisition"]["person_source"] == "worklist"
    # It is asked once.
    assert site.filling.step() == 0
    # An image that comes later gets the same, by what is stored.
    site.image(2, Acquisition(), AccessionNumber="")
    site.filling.step()
    assert site.row("SELECT count(*) FROM acquisition_operator") == (2,)
    site.exam.close()
    assert site.exam.report()
    [sr] = [each for each in site.exam.sent() if each.kind == "sr"]
    assert sr.payload is not None
    assert dcmread(BytesIO(sr.payload)).AccessionNumber == "WL-1"


def test_what_a_header_says_stands(site: Site) -> None:
    stated = Acquisition(operators=(Operator("Own^Name"),), patient_age_years=30.0)
    site.image(1, stated, AccessionNumber="OWN")
    # Nothing lacks: nobody is asked.
    assert site.filling.step() == 0
    assert site.row("SELECT count(*) FROM worklist_answer") == (0,)
    site.image(2, Acquisition(patient_age_years=31.0), AccessionNumber="OWN")
    assert site.filling.step() == 1
    assert site.row("SELECT accession_number FROM exam") == ("OWN",)
    assert site.row("SELECT from_worklist FROM acquisition WHERE revision_id = 2") == ("operators",)
    assert site.row("SELECT from_worklist FROM acquisition WHERE revision_id = 1") == (None,)
    assert site.row("SELECT count(*) FROM acquisition_operator") == (2,)


def test_nothing_is_taken_that_may_be_another_exam_s(site: Site) -> None:
    site.image(1, Acquisition(), AccessionNumber="", PatientID="4713")
    site.image(2, Acquisition(), AccessionNumber="", PatientID="4799")
    # Wildcards of a query (PS3.4 C.2.2.2.4) match others, whose entries are not hers.
    site.image(3, Acquisition(), AccessionNumber="", PatientID="47*")
    assert site.filling.step() == 0
    with site.exam.store.read() as session:
        states = session.scalars(text("SELECT state FROM worklist_answer ORDER BY exam_id")).all()
    assert states == ["ambiguous", "none", "none"]
    assert site.row("SELECT count(*) FROM acquisition_operator") == (0,)
    assert site.row("SELECT count(*) FROM exam WHERE accession_number = ''") == (3,)


def test_a_worklist_that_is_away_is_told_once_and_asked_again(
    tmp_path: Path, entries: Path
) -> None:
    site = Site(tmp_path / "site", reserve_port())
    site.image(1, Acquisition(), AccessionNumber="")
    with capture_logs() as lines:
        assert site.filling.step() == 0
        assert site.filling.step() == 0
        site.exam.now += timedelta(minutes=2)
        assert site.filling.step() == 0
    assert [each["event"] for each in lines] == ["worklist not asked"]
    assert "4711" not in str(lines)
    # The exam is scored, closed and reported as ever.
    site.exam.close()
    assert site.exam.report()
    assert [job.kind for job in site.exam.jobs(JobKind.DELIVER)] == [JobKind.DELIVER]
    program = shutil.which("wlmscpfs")
    require(program is not None, "wlmscpfs")
    with dcmtk_worklist(str(program), entries) as port:
        site.exam.settings.worklist.port = port
        site.exam.now += timedelta(minutes=2)
        filling = WorklistFilling(site.exam.settings, site.exam.store, lambda: site.exam.now)
        assert filling.step() == 1
    assert site.row("SELECT accession_number FROM exam") == ("WL-1",)


def test_an_old_exam_is_not_asked_about(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", reserve_port())
    site.image(1, Acquisition(), AccessionNumber="")
    site.exam.now = START + timedelta(days=2)
    with capture_logs() as lines:
        assert site.filling.step() == 0
    assert lines == []
