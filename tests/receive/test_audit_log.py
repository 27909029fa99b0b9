"""What is received, and who is refused, reaches the audit log by the process's thread."""

from collections.abc import Callable
from pathlib import Path

from qc_daemon.audit_trail import recorder
from qc_daemon.audit_trail.chain import AuditChain
from qc_daemon.audit_trail.recorder import Recorder
from tests.support.audit_log import records
from tests.support.dicom_objects import ultrasound
from tests.support.peers import association
from tests.support.running_receiver import RunningReceiver


def test_received_objects_and_refused_callers_are_recorded(
    start_receiver: Callable[..., RunningReceiver], tmp_path: Path
) -> None:
    folder = tmp_path / "audit-log"
    peers = [{"ae_title": "MODALITY", "address": "127.0.0.1"}]
    with recorder.used(Recorder(AuditChain(folder), "receive")):
        receiver = start_receiver(peer=peers)
        objects = [ultrasound() for _ in range(3)]
        with association(receiver.port) as sender:
            assert all(sender.send_c_store(each).Status == 0 for each in objects)
        with association(receiver.port, calling="STRANGER") as stranger:
            assert stranger.is_rejected
        receiver.scp.renew_holds()
    received = [each for each in records(folder) if each["kind"] == "received"]
    assert sum(sum(each["instances"].values()) for each in received) == 3
    assert received[0]["peer"] == {"id": "MODALITY", "address": "127.0.0.1"}
    assert received[0]["study"] == str(objects[0].StudyInstanceUID)
    assert received[0]["patient_id"] == str(objects[0].PatientID)
    (refused,) = [each for each in records(folder) if each["kind"] == "caller-refused"]
    assert (refused["peer"]["id"], refused["success"]) == ("STRANGER", False)
    everything = "\n".join(path.read_text() for path in folder.iterdir())
    assert str(objects[0].PatientName) not in everything
