"""Another bundle is activated while a running service scores."""

import shutil
from pathlib import Path

import pytest
from pydicom import Dataset

from detector.anatomy import View
from model.bundle.bundle import locate, read_model_id
from qc_daemon.operations.results import stored_findings
from qc_daemon.settings import load
from tests.support.command_line import qc_daemon
from tests.support.peers import association
from tests.support.service import Service
from tests.support.waiting import eventually
from training.phantom.dicom import exam

SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
processes = 1
quiet_seconds = 3600
[jobs]
poll_seconds = 0.1
lease_seconds = 5
"""


def copy_bundle(folder: Path) -> Path:
    """The shipped models under a manifest of another hash."""
    copy = folder / "other"
    shutil.copytree(locate("default"), copy)
    manifest = copy / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format":  1'))
    return copy


def send(service: Service, objects: list[Dataset]) -> None:
    with association(service.port) as peer:
        assert [peer.send_c_store(each).Status for each in objects] == [0] * len(objects)


@pytest.mark.slow
def test_an_exam_keeps_its_bundle_and_the_next_has_the_new_one(tmp_path: Path) -> None:
    # The last of an exam is a cine.
    first, second = (exam(seed, views=[View.NT, View.CRL], cine_frames=2)[:-1] for seed in (3, 4))
    second_bundle = copy_bundle(tmp_path)
    service = Service(tmp_path, SETTINGS, roles=("receive", "work", "schedule")).start()
    try:
        send(service, first[:-1])
        eventually(lambda: service.events("scored"))
        command = qc_daemon(
            "bundle", "activate", str(second_bundle), "--config", str(service.config)
        )
        assert command.returncode == 0, command.stderr
        send(service, first[-1:])
        send(service, second)
        eventually(lambda: len(service.events("scored")) == len(first) + len(second), 300)
        assert not service.events("score failed")
        assert not service.events("process died")
    finally:
        assert service.stop() == 0
    models: dict[str, set[str]] = {}
    for finding in stored_findings(load(service.config), None, None):
        study = finding["study_instance_uid"]
        models.setdefault(study, set()).add(finding["bundle"]["model_id"])
    assert models == {
        first[0].StudyInstanceUID: {read_model_id("default")},
        second[0].StudyInstanceUID: {read_model_id(second_bundle)},
    }
