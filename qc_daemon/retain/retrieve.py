"""Retrieves an object from a DICOM destination: C-GET (PS3.4 C.4.3), else C-MOVE to ourselves."""

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
from qc_daemon.dicom.status import SUCCESS
from qc_daemon.dicom.tls import tls_args
from qc_daemon.settings import DestinationSettings

# Study Root Query/Retrieve Information Model (PS3.4 C.6.2).
GET, MOVE = "1.2.840.10008.5.1.4.1.2.2.3", "1.2.840.10008.5.1.4.1.2.2.2"
# Transfer syntaxes that a destination may give an object back in, beside the received one.
_PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@dataclass(frozen=True, slots=True)
class ObjectToRetrieve:
    """The object's identifiers, and the transfer syntax in which it was received."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str


class NotOfferedError(Exception):
    """The peer does not accept the SOP class of this retrieval."""


def get(
    destination: DestinationSettings, calling_ae: str, target: ObjectToRetrieve
) -> bytes | None:
    """The object as a PS3.10 file with our meta group; None if the destination does not have it.

    The whole object is in memory. Its bytes are those received if the destination stored the data
    set unchanged. Raises NotOfferedError, or QCError DELIVERY_UNREACHABLE: it cannot be asked now.
    """
    received: list[bytes] = []

    def store(event: Any) -> int:
        refusal = refusal_of(event)
        if refusal is not None:
            return refusal.status
        if str(event.request.AffectedSOPInstanceUID) == target.sop_instance_uid:
            received.append(_encode_file(event))
        return SUCCESS

    # The received transfer syntax has a context of its own, so that the peer need not convert.
    others = [uid for uid in _PLAIN if uid != target.transfer_syntax_uid]
    contexts = [
        build_context(target.sop_class_uid, uid) for uid in (target.transfer_syntax_uid, *others)
    ]
    role = build_role(target.sop_class_uid, scp_role=True)
    with _association(
        destination, calling_ae, GET, contexts, [role], [(evt.EVT_C_STORE, store)]
    ) as association:
        if not any(each.abstract_syntax == GET for each in association.accepted_contexts):
            raise NotOfferedError
        responses = list(association.send_c_get(_identifier(target), GET))
    if not received:
        _check_final_status(destination, responses)
    return received[-1] if received else None


def move(destination: DestinationSettings, our_ae: str, target: ObjectToRetrieve) -> None:
    """Have the destination send the object to our own receiver (PS3.4 C.4.2).

    It must know the address of our AE title, and be a peer of ours. Raises QCError.
    """
    try:
        with _association(destination, our_ae, MOVE) as association:
            _check_final_status(
                destination, association.send_c_move(_identifier(target), our_ae, MOVE)
            )
    except NotOfferedError:
        raise _unreachable(destination, "offers neither C-GET nor C-MOVE") from None


def _check_final_status(
    destination: DestinationSettings, responses: Iterable[tuple[Dataset, Any]]
) -> None:
    """Read all responses. Raises QCError unless the last one says that there is no object.

    Success without an object says so, and "unable to process" (C000-CFFF), as Orthanc sends it;
    after any other status the object may come at a later try.
    """
    last = None
    for status, _ in responses:
        last = status.get("Status")
    if last is None or (last != SUCCESS and last >> 12 != 0xC):
        answer = "no answer" if last is None else f"status {last:04X}"
        raise _unreachable(destination, f"did not give an object back: {answer}")


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


def _identifier(target: ObjectToRetrieve) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID = target.study_instance_uid
    identifier.SeriesInstanceUID = target.series_instance_uid
    identifier.SOPInstanceUID = target.sop_instance_uid
    return identifier


def _encode_file(event: Any) -> bytes:
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
