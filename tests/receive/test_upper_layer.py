"""What the upper layer overrides of pynetdicom, pinned; and the bytes before a data set."""

import hashlib
import inspect
import io

import pynetdicom
import pytest
from pydicom.filewriter import write_file_meta_info
from pynetdicom import association as associations
from pynetdicom import dimse, dimse_messages, dul, transport
from pynetdicom.dsutils import create_file_meta

from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.receive.identifiers import file_head

PINNED = {
    associations.Association.__init__: "eb07516b8009",
    associations.Association.kill: "8f9713666a7f",
    associations.Association.run_reactor: "ed8bbbe3b3d6",
    associations.Association._run_reactor: "f28838c5559e",
    associations.Association._serve_request: "2f24c1759cdf",
    dimse.DIMSEServiceProvider.get_msg: "890e3e04283f",
    dimse.DIMSEServiceProvider.receive_primitive: "5f99c86b14a1",
    dimse_messages.DIMSEMessage.decode_msg: "f51c777e841a",
    dimse_messages.DIMSEMessage.message_to_primitive: "f8f43d34e434",
    dul.DULServiceProvider.__init__: "c82dafa9438d",
    dul.DULServiceProvider._decode_pdu: "fc71dd1bf853",
    dul.DULServiceProvider._is_transport_event: "8725ed03bb8f",
    dul.DULServiceProvider._process_recv_primitive: "4c0ebbb3e646",
    dul.DULServiceProvider._read_pdu_data: "19f2d4e38c13",
    dul.DULServiceProvider.run_reactor: "e3a10eb3a093",
    dul.DULServiceProvider.stop_dul: "28a7e0be126e",
    transport.AssociationSocket.__init__: "1f0325fdef2c",
    transport.AssociationSocket.close: "c726c8db5381",
    transport.RequestHandler._create_association: "05c8d12b7986",
}


@pytest.mark.parametrize("method", PINNED, ids=lambda method: method.__qualname__)
def test_pynetdicom_is_as_we_know_it(method: object) -> None:
    source = inspect.getsource(method)  # type: ignore[arg-type]
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    assert digest == PINNED[method], (
        f"pynetdicom {pynetdicom.__version__} changed what qc_daemon/receive/upper_layer builds"
        f" on: read it anew, then pin {digest}"
    )


@pytest.mark.parametrize("odd", [0, 1])
def test_file_head_is_what_pydicom_writes(odd: int) -> None:
    uids = ("1.2.840.10008.5.1.4.1.1.6.1", "1.2.3" + "4" * odd, "1.2.840.10008.1.2.1")
    expected = io.BytesIO()
    expected.write(bytes(128) + b"DICM")
    meta = create_file_meta(
        sop_class_uid=uids[0],
        sop_instance_uid=uids[1],
        transfer_syntax=uids[2],
        implementation_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version=IMPLEMENTATION_VERSION_NAME,
    )
    write_file_meta_info(expected, meta)
    ours = file_head(*uids, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME)
    assert ours == expected.getvalue()


def test_file_head_refuses_what_no_element_holds() -> None:
    with pytest.raises(ValueError):
        file_head("1.2", "1." + "2" * 70000, "1.2", "1.2", "X")
    with pytest.raises(ValueError):
        file_head("1.2", "1.\udcff", "1.2", "1.2", "X")
