"""A modality's procedure step closes its exam: all processes of the service, real models."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, ExamOutcome, ExamState
from tests.support.peers import Modality, begin_step, end_step
from tests.support.service import Service
from tests.support.waiting import eventually
from training.phantom.dicom import exam

pytestmark = pytest.mark.timeout(900)

# Nothing but the procedure step closes an exam within this test's time.
SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
processes = 1
quiet_seconds = 86400
[score]
device = "cpu"
cine_frames = 1
[jobs]
poll_seconds = 0.1
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, SETTINGS, roles=("receive", "work", "schedule"))
    yield service.start()
    service.end()


def test_a_completed_step_closes_its_exam_once_all_is_scored(service: Service) -> None:
    pictures = [each for each in exam(4712, cine_frames=1) if "NumberOfFrames" not in each][:2]
    study = str(pictures[0].StudyInstanceUID)
    with Modality().association(service.port) as association:
        step = begin_step(association, study)
        for picture in pictures:
            assert association.send_c_store(picture).Status == 0x0000
        uids = [str(picture.SOPInstanceUID) for picture in pictures]
        assert end_step(association, step, *uids).Status == 0x0000
    store = Store(f"sqlite:///{service.folder / 'qc.db'}")

    def closed() -> Exam | None:
        with store.read() as session:
            return session.scalars(select(Exam).where(Exam.state == ExamState.CLOSED)).one_or_none()

    exam_row = eventually(closed, 600)
    assert (exam_row.study_instance_uid, exam_row.outcome) == (study, ExamOutcome.REPORT)
