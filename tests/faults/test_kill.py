"""kill -9 in mid-exam, ten times at random moments: nothing acknowledged is lost or doubled."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import select

from qc_daemon.records.store import Store
from qc_daemon.records.tables import Finding, Instance, JobRow, Revision
from tests.support.environment import ROOT, require
from tests.support.fault_load import (
    ROLES,
    SECONDARY_CAPTURE,
    SETTINGS,
    SR,
    PersistentSender,
    all_reported,
    count_jobs,
    kill_receiver,
    reports,
)
from tests.support.pacs import Pacs
from tests.support.ports import reserve_port
from tests.support.service import Service, pause
from tests.support.waiting import eventually
from training.phantom.dicom import exam

CINE_FRAMES = 3
# Scoring on two busy cores, and a restart that loads the models again.
PATIENCE_SECONDS = 1200.0


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs(sop_classes=(SR, SECONDARY_CAPTURE)).start()
    yield pacs
    pacs.stop()


@pytest.fixture
def service(tmp_path: Path, pacs: Pacs) -> Iterator[Callable[[float], Service]]:
    service = Service(tmp_path, "", ROLES)
    port = reserve_port()

    def with_quiet(seconds: float) -> Service:
        service.settings = SETTINGS.format(
            port=port, pacs=pacs.port, quiet=seconds, frames=CINE_FRAMES
        )
        return service

    yield with_quiet
    service.end()


def kill_and_restart(service: Service, victim: str) -> None:
    if victim == "daemon":
        service.kill()
        service.start()
    elif victim == "receive":
        kill_receiver(service, random.Random(1))
    else:
        service.kill_role(victim)


def progress(service: Service) -> None:
    """Wait until another object is scored, or none is left to score.

    Between two kills of the worker: three deaths on one job would rightly quarantine it.
    """
    scored = count_jobs(service, "score", "done")
    eventually(
        lambda: (
            count_jobs(service, "score", "done") > scored
            or not count_jobs(service, "score", "ready", "leased")
        ),
        PATIENCE_SECONDS,
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_kills_in_mid_exam_lose_and_duplicate_nothing(
    service: Callable[[float], Service], pacs: Pacs
) -> None:
    bundle = ROOT / "model" / "bundles" / "default" / "bundle.json"
    require(bundle.is_file(), "the default bundle")
    rng = random.Random(20261122)
    exams = [exam(seed, cine_frames=CINE_FRAMES) for seed in (9101, 9102)]
    objects = [each for study in exams for each in study]
    victims = ["work", "daemon", "work", "receive", "daemon", "work", "daemon"]
    rng.shuffle(victims)

    running = service(3600).start()
    with PersistentSender(running.port, objects) as modality:
        for victim in victims:
            if victim == "work":
                progress(running)
            pause(rng.uniform(0.0, 3.0))
            kill_and_restart(running, victim)
        eventually(modality.finished, PATIENCE_SECONDS)
        eventually(lambda: not count_jobs(running, "score", "ready", "leased"), PATIENCE_SECONDS)
    acknowledged = modality.acknowledged
    assert running.stop() == 0

    # Now the exams fall quiet: three more kills among closing, reporting and delivering.
    running = service(0).start()
    for victim in ("work", "daemon", "deliver"):
        pause(rng.uniform(0.0, 4.0))
        kill_and_restart(running, victim)
    eventually(lambda: all_reported(running), PATIENCE_SECONDS)
    assert running.stop() == 0

    assert sorted(acknowledged) == sorted(str(each.SOPInstanceUID) for each in objects)
    assert_one_finding_set_each(running, objects)
    assert_one_sr_each(pacs, exams)


def assert_one_finding_set_each(service: Service, objects: list[Dataset]) -> None:
    with Store(f"sqlite:///{service.folder / 'qc.db'}").read() as session:
        states = session.execute(
            select(Instance.sop_instance_uid, Revision.number, Revision.state).join(
                Revision, Revision.instance_id == Instance.id
            )
        ).all()
        findings = session.execute(
            select(Instance.sop_instance_uid, Finding.frame, Finding.region, Finding.model_id)
            .join(Revision, Revision.instance_id == Instance.id)
            .join(Finding, Finding.revision_id == Revision.id)
        ).all()
        unsettled = session.execute(
            select(JobRow.kind, JobRow.state, JobRow.error_code).where(JobRow.state != "done")
        ).all()
    assert unsettled == []
    assert sorted(tuple(row) for row in states) == sorted(
        (str(each.SOPInstanceUID), 1, "scored") for each in objects
    )
    assert max(Counter(tuple(row) for row in findings).values()) == 1
    assert len({row.model_id for row in findings}) == 1
    frames = defaultdict(set)
    for row in findings:
        frames[row.sop_instance_uid].add(row.frame)
    for each in objects:
        expected = set(range(1, int(each.get("NumberOfFrames", 1)) + 1))
        assert frames[str(each.SOPInstanceUID)] == expected


def assert_one_sr_each(pacs: Pacs, exams: list[list[Dataset]]) -> None:
    """One SR per study; the same object may come twice (killed before it was ticked off)."""
    reports_by_study = reports(pacs)
    assert set(reports_by_study) == {str(study[0].StudyInstanceUID) for study in exams}
    assert all(len(uids) == 1 for uids in reports_by_study.values())
