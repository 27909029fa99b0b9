"""C-STORE to a DICOM destination: the bytes as stored, in their own transfer syntax."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pynetdicom import _config, build_context

from detector.errors import ErrorCode, QCError
from qc_daemon.deliver.outcome import outcome
from qc_daemon.deliver.transport import (
    AssociationRejectedError,
    ClassRefusedError,
    Convert,
    ObjectStatusError,
    OutgoingObject,
)
from qc_daemon.deliver.verified_send import verify_sending
from qc_daemon.dicom.association import associate, requestor
from qc_daemon.dicom.association_failure import (
    cause,
    is_called_title_unknown,
    is_calling_title_unknown,
    rejection,
)
from qc_daemon.dicom.status import SOP_CLASS_NOT_SUPPORTED
from qc_daemon.dicom.storage_commitment import PUSH_MODEL
from qc_daemon.dicom.tls import tls_args
from qc_daemon.dicom.transfer_syntax import alternatives, reencode
from qc_daemon.dicom.uids import VERIFICATION
from qc_daemon.settings import DestinationSettings

MAX_PDU = 128 << 10
# An association proposes at most 128 contexts (PS3.8 9.3.2: odd numbers up to 255); two a pair.
_MAX_PAIRS = 60

_REJECTED_PERMANENT = 0x01

Pair = tuple[str, str]


class StoreSCU:
    """A transport that keeps its association open from one object to the next.

    It proposes every pair that it has sent so far: a new pair of SOP class and transfer syntax
    opens a new association, so that after the first exam one association carries them all.
    `convert` encodes a received object anew whose transfer syntax the peer does not accept.
    """

    def __init__(
        self, destination: DestinationSettings, calling_ae: str, convert: Convert | None = None
    ) -> None:
        self.destination = destination
        self._convert = convert
        self._pairs: list[Pair] = []
        self._association: Any = None
        self._ae = requestor(calling_ae, destination.timeout)
        self._ae.maximum_pdu_size = MAX_PDU
        # Send files as they lie on the disk, in chunks; a process-wide switch of pynetdicom.
        _config.STORE_SEND_CHUNKED_DATASET = True

    def send(self, outgoing: OutgoingObject) -> bool:
        pair = (outgoing.sop_class_uid, outgoing.transfer_syntax_uid)
        association = self._associate(pair)
        accepted = {
            (str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in association.accepted_contexts
        }
        others = [each for each in alternatives(pair[1]) if (pair[0], each) in accepted]
        if pair in accepted:
            with outgoing.file() as path:
                self._send(association, path, outgoing.sha256)
        elif others:
            with self._converted(outgoing, others[0]) as path:
                self._send(association, path, None)
        elif pair[0] in {sop_class for sop_class, _ in accepted}:
            raise self._error(
                ErrorCode.DELIVERY_REFUSED, "does not take the object's transfer syntax"
            )
        else:
            raise self._class_refusal()
        return self._is_to_commit(accepted)

    @contextlib.contextmanager
    def _converted(self, outgoing: OutgoingObject, transfer_syntax: str) -> Iterator[Path]:
        """The object in another transfer syntax. Raises QCError."""
        if outgoing.path is not None and self._convert is not None:
            with self._convert(outgoing.path, outgoing.sha256, transfer_syntax) as path:
                yield path
        elif outgoing.path is None:
            # Our own objects are small, and no stranger's.
            with outgoing.file() as own:
                payload = b"".join(reencode(own, transfer_syntax))
            with replace(outgoing, payload=payload).file() as path:
                yield path
        else:
            raise self._error(
                ErrorCode.DELIVERY_REFUSED, "does not take the object's transfer syntax"
            )

    def _is_to_commit(self, accepted: set[Pair]) -> bool:
        """Whether commitment is to be requested: the association shows if the peer offers it."""
        if self.destination.commitment == "auto":
            return any(sop_class == PUSH_MODEL for sop_class, _ in accepted)
        return self.destination.commitment == "required"

    def close(self) -> None:
        association, self._association = self._association, None
        if association is not None and association.is_established:
            association.release()

    def _send(self, association: Any, path: Path, sha256: str | None) -> None:
        try:
            with verify_sending(association, path, sha256):
                status = association.send_c_store(str(path))
        except QCError:
            # Without its last fragment there is no object, and the peer stores nothing.
            self._abort()
            raise
        except ConnectionError as error:
            raise self._loss() from error
        except (RuntimeError, OSError) as error:
            self._abort()
            raise self._error(ErrorCode.DELIVERY_UNREACHABLE, "lost the association") from error
        except (AttributeError, ValueError) as error:
            raise self._error(
                ErrorCode.DELIVERY_REFUSED, "cannot be sent the object: its header is invalid"
            ) from error
        if "Status" not in status:
            raise self._loss()
        code, message = outcome(status.Status), f"answered C-STORE status {status.Status:04X}"
        if status.Status == SOP_CLASS_NOT_SUPPORTED:
            raise ClassRefusedError(self.destination.name, message)
        if code is not None:
            raise ObjectStatusError(code, f"destination {self.destination.name} {message}")

    def _loss(self) -> QCError:
        """The error of a C-STORE that has begun and got no answer.

        The destination is not to blame while it answers others: then the object may be what it
        aborts on.
        """
        what = "broke off a C-STORE or did not answer it in time"
        self._abort()
        if self._answers_echo():
            return self._error(
                ErrorCode.DELIVERY_ABORTED,
                f"{what}, but answers on a new association: the object may be the cause",
            )
        return self._error(ErrorCode.DELIVERY_UNREACHABLE, what)

    def _answers_echo(self) -> bool:
        """Whether the peer answers C-ECHO on a new association, or refuses it only this service.

        Raises QCError DELIVERY_UNREACHABLE: the tls files cannot be read.
        """
        association = associate(
            self._ae,
            self.destination.host,
            self.destination.port,
            contexts=[build_context(VERIFICATION)],
            ae_title=self.destination.ae_title,
            tls_args=tls_args(self.destination),
        )
        if not association.is_established:
            return bool(association.rejected_contexts) and not association.is_rejected
        try:
            is_answered = "Status" in association.send_c_echo()
        except (RuntimeError, OSError):
            is_answered = False
        if is_answered:
            association.release()
        elif association.is_established:
            association.abort()
        return is_answered

    def _associate(self, pair: Pair) -> Any:
        is_proposed = pair in self._pairs
        if is_proposed and self._association is not None and self._association.is_established:
            return self._association
        self.close()
        if not is_proposed:
            self._pairs = [*self._pairs, pair][-_MAX_PAIRS:]
        association = associate(
            self._ae,
            self.destination.host,
            self.destination.port,
            contexts=self._contexts(),
            ae_title=self.destination.ae_title,
            max_pdu=MAX_PDU,
            tls_args=tls_args(self.destination),
        )
        if association.is_established:
            self._association = association
            return association
        if association.is_rejected:
            raise self._rejection(association)
        if association.rejected_contexts and not association.accepted_contexts:
            raise self._class_refusal()
        where = (self.destination.host, self.destination.port)
        why = cause(association, *where, tls_args(self.destination))
        raise self._error(ErrorCode.DELIVERY_UNREACHABLE, f"cannot be reached: {why}")

    def _contexts(self) -> list[Any]:
        payload = [
            build_context(sop_class, syntax)
            for sop_class, own in self._pairs
            for syntax in (own, alternatives(own))
            if syntax
        ]
        # Requests go on associations of their own; this only asks whether the peer takes any.
        return (
            payload
            if self.destination.commitment == "off"
            else [*payload, build_context(PUSH_MODEL)]
        )

    def _abort(self) -> None:
        association, self._association = self._association, None
        if association is not None and association.is_established:
            association.abort()

    def _rejection(self, association: Any) -> QCError:
        """A-ASSOCIATE-RJ (PS3.8 9.3.4): what is permanent waits for someone who fixes it."""
        why, name = rejection(association), self.destination.name
        if association.acceptor.primitive.result != _REJECTED_PERMANENT:
            return AssociationRejectedError(
                ErrorCode.DELIVERY_UNREACHABLE, name, f"cannot be stored to for now: {why}"
            )
        if is_calling_title_unknown(association):
            unknown: Literal["calling", "called"] | None = "calling"
        else:
            unknown = "called" if is_called_title_unknown(association) else None
        return AssociationRejectedError(
            ErrorCode.DELIVERY_FORBIDDEN, name, f"cannot be stored to: {why}", unknown
        )

    def _class_refusal(self) -> QCError:
        return ClassRefusedError(
            self.destination.name, "accepts no presentation context for the object"
        )

    def _error(self, code: ErrorCode, what: str) -> QCError:
        return QCError(code, f"destination {self.destination.name} {what}")
