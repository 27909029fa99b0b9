"""One object back from a DICOM destination: C-GET (PS3.4 C.4.3), else C-MOVE to ourselves."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, build_role, evt
from pynetdicom.dsutils import create_file_meta

from detector.errors import ErrorCode, QCError
from qc_daemon.dicom.association import associate, requestor
from qc_daemon.dicom.association_failure import cause
from qc_daemon.dicom.dimse_request import refusal_of
from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.dicom.tls import tls_args
from qc_daemon.settings import DestinationSettings

# Study Root Query/Retrieve Information Model (PS3.4 C.6.2).
GET, MOVE = "1.2.840.10008.5.1.4.1.2.2.3", "1.2.840.10008.5.1.4.1.2.2.2"
_SUCCESS = 0x0000
_PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which object, and how it was encoded when it was received."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str


class NotOfferedError(Exception):
    """The peer does not take part in this kind of retrieval."""


def get(destination: DestinationSettings, calling_ae: str, wanted: Wanted) -> bytes | None:
    """The object as a PS3.10 file with our meta group, or None if the destination has it not.

    The whole object is held in memory. Bytes equal those received if the destination kept the data
    set as it came. Raises NotOfferedError, or QCError DELIVERY_UNREACHABLE: it cannot be asked now.
    """
    received: list[bytes] = []

    def store(event: Any) -> int:
        refused = refusal_of(event)
        if refused is not None:
            return refused.status
        if str(event.request.AffectedSOPInstanceUID) == wanted.sop_instance_uid:
            received.append(_file(event))
        return _SUCCESS

    # The received encoding in a context of its own, so that the peer need not choose another.
    others = [uid for uid in _PLAIN if uid != wanted.transfer_syntax_uid]
    contexts = [
        build_context(wanted.sop_class_uid, uid) for uid in (wanted.transfer_syntax_uid, *others)
    ]
    role = build_role(wanted.sop_class_uid, scp_role=True)
    with _association(
        destination, calling_ae, GET, contexts, [role], [(evt.EVT_C_STORE, store)]
    ) as association:
        if not any(each.abstract_syntax == GET for each in association.accepted_contexts):
            raise NotOfferedError
        responses = list(association.send_c_get(_identifier(wanted), GET))
    if not received:
        _finish(destination, responses)
    return received[-1] if received else None


def move(destination: DestinationSettings, our_ae: str, wanted: Wanted) -> None:
    """Have the destination store the object to our own receiver (PS3.4 C.4.2).

    It has to know our AE title's address, and we it as a sender. Raises QCError.
    """
    try:
        with _association(destination, our_ae, MOVE) as association:
            _finish(destination, association.send_c_move(_identifier(wanted), our_ae, MOVE))
    except NotOfferedError:
        raise _unreachable(destination, "offers neither C-GET nor C-MOVE") from None


def _finish(destination: DestinationSettings, responses: Iterable[tuple[Dataset, Any]]) -> None:
    """Wait for the last response; raises QCError where it may be another one later.

    Without the object, success and "unable to process" (C000-CFFF, as Orthanc has it) both say that
    it is not there.
    """
    last = None
    for status, _ in responses:
        last = status.get("Status")
    if last is None or (last != _SUCCESS and last >> 12 != 0xC):
        told = "no answer" if last is None else f"status {last:04X}"
        raise _unreachable(destination, f"did not give an object back: {told}")


@contextlib.contextmanager
def _association(
    destination: DestinationSettings,
    calling_ae: str,
    model: str,
    contexts: Sequence[Any] = (),
    roles: Sequence[Any] = (),
    handlers: Sequence[Any] = (),
) -> Iterator[Any]:
    ae = requestor(calling_ae, destination.timeout)
    secure = tls_args(destination)
    association = associate(
        ae,
        destination.host,
        destination.port,
        contexts=[build_context(model), *contexts],
        ae_title=destination.ae_title,
        ext_neg=list(roles),
        evt_handlers=list(handlers),
        tls_args=secure,
    )
    if association.rejected_contexts and not association.accepted_contexts:
        # Every context refused: pynetdicom has aborted.
        raise NotOfferedError
    if not association.is_established:
        why = cause(association, destination.host, destination.port, secure)
        raise _unreachable(destination, f"cannot be asked for an object: {why}")
    try:
        yield association
    except (ValueError, RuntimeError) as error:
        raise _unreachable(destination, "lost the association while giving back") from error
    finally:
        if association.is_established:
            association.release()


def _identifier(wanted: Wanted) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID = wanted.study_instance_uid
    identifier.SeriesInstanceUID = wanted.series_instance_uid
    identifier.SOPInstanceUID = wanted.sop_instance_uid
    return identifier


def _file(event: Any) -> bytes:
    """The stored object as a file, byte for byte as our receiver would have written it."""
    out = DicomBytesIO()
    out.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(
        out,
        create_file_meta(
            sop_class_uid=event.request.AffectedSOPClassUID,
            sop_instance_uid=event.request.AffectedSOPInstanceUID,
            transfer_syntax=event.context.transfer_syntax,
            implementation_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version=IMPLEMENTATION_VERSION_NAME,
        ),
    )
    out.write(event.request.DataSet.getvalue())
    return out.getvalue()


def _unreachable(destination: DestinationSettings, what: str) -> QCError:
    return QCError(ErrorCode.DELIVERY_UNREACHABLE, f"destination {destination.name} {what}")
