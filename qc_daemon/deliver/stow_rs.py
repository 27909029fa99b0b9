"""STOW-RS to a DICOMweb destination (PS3.18 10.5): the file as stored, one in each request.

dicomweb-client queries here but does not send: it would encode the data set anew, and have it in
memory three times.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests

from detector.errors import ErrorCode
from qc_daemon.deliver.http_transport import HttpTransport
from qc_daemon.deliver.outcome import UNSUPPORTED_MEDIA_TYPE, http_outcome, http_words, outcome
from qc_daemon.deliver.transport import ClassRefusedError, ObjectStatusError, OutgoingObject
from qc_daemon.dicom import dicomweb
from qc_daemon.dicom.status import SOP_CLASS_NOT_SUPPORTED
from qc_daemon.spool.verification import blocks

# The DICOM JSON Model names elements by their tags (PS3.18 F.2).
_FAILED, _STORED = "00081198", "00081199"
_INSTANCE, _REASON = "00081155", "00081197"


class StowRS(HttpTransport):
    """A transport that keeps its connection open from one object to the next."""

    def send(self, outgoing: OutgoingObject) -> bool:
        with self._closing_on_failure():
            with outgoing.file() as path:
                answer = self._post(path, outgoing)
            self._check_answer(answer, outgoing)
        # DICOMweb has no commitment: the answer is all there is.
        return False

    def _post(self, path: Path, outgoing: OutgoingObject) -> requests.Response:
        """The answer. Raises QCError DELIVERY_ABORTED, requests.RequestException.

        A destination that breaks off and answers another request is not to blame: then the object
        may be what it fails on.
        """
        boundary = uuid4().hex
        body = _Multipart(path, outgoing.sha256, boundary)
        try:
            return self._open_session().post(
                f"{self.destination.url}/studies",
                data=body,
                headers={
                    "Content-Type": "multipart/related;"
                    f' type="application/dicom"; boundary="{boundary}"'
                },
                timeout=self.destination.timeout,
                # requests would turn the POST into a GET.
                allow_redirects=False,
            )
        except requests.RequestException as error:
            self.close()
            if not body.is_begun or not self._answers_query(outgoing.sop_instance_uid):
                raise
            what = "did not answer the POST in time"
            if not isinstance(error, requests.Timeout):
                what = "broke off the connection during the POST"
            raise self._error(
                ErrorCode.DELIVERY_ABORTED,
                f"{what}, but answers another request: the object may be the cause",
            ) from error

    def _answers_query(self, uid: str) -> bool:
        """Whether the destination answers a QIDO-RS request, whatever it answers.

        A status that a proxy gives for a server that is away is no answer.
        Raises requests.RequestException.
        """
        with self._open_session().get(
            f"{self.destination.url}/instances",
            params={"SOPInstanceUID": uid, "limit": "1"},
            timeout=self.destination.timeout,
            allow_redirects=False,
            # Only its status is read.
            stream=True,
        ) as answer:
            return http_outcome(answer.status_code) is not ErrorCode.DELIVERY_RESOURCES

    def _check_answer(self, answer: requests.Response, outgoing: OutgoingObject) -> None:
        """Return if the destination has the object. Raises QCError, requests.RequestException."""
        status = answer.status_code
        is_of_object = True
        code, message = http_outcome(status), f"answered HTTP {status}, {http_words(status)}"
        is_stored, failure = _store_result(answer, outgoing.sop_instance_uid)
        if failure is not None:
            code, message = outcome(failure), f"answered STOW-RS failure reason {failure:04X}"
        elif code is None and not is_stored and not self._has_object(outgoing):
            code, message = ErrorCode.DELIVERY_RESOURCES, "did not say that it stored the object"
        else:
            is_of_object = False
        if failure == SOP_CLASS_NOT_SUPPORTED or (
            failure is None and status == UNSUPPORTED_MEDIA_TYPE
        ):
            raise ClassRefusedError(self.destination.name, message)
        if code is not None and is_of_object:
            raise ObjectStatusError(code, f"destination {self.destination.name} {message}")
        if code is not None:
            raise self._error(code, message)

    def _has_object(self, outgoing: OutgoingObject) -> bool:
        """Whether the destination lists the object, if its answer did not say that it stored it."""
        with contextlib.suppress(ValueError, requests.HTTPError):
            return dicomweb.has_instance(
                self.destination, self._open_session(), outgoing.sop_instance_uid
            )
        return False


def _store_result(answer: requests.Response, uid: str) -> tuple[bool, int | None]:
    """Whether the answer says that the object is stored, and the Failure Reason if it failed.

    An answer that cannot be read says neither.
    """
    try:
        result = answer.json()
        for item in _items(result, _FAILED):
            if _value(item, _INSTANCE) == uid:
                return False, int(_value(item, _REASON))
        return any(_value(item, _INSTANCE) == uid for item in _items(result, _STORED)), None
    except (ValueError, TypeError, AttributeError, LookupError):
        return False, None


def _items(dataset: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    return list(dataset.get(tag, {}).get("Value", []))


def _value(dataset: dict[str, Any], tag: str) -> Any:
    return dataset[tag]["Value"][0]


class _Multipart:
    """A multipart/related body of one part (RFC 2387), read from its file as it is sent.

    Its length is known, so that it goes out without chunked coding, which some servers refuse. One
    whose file has another SHA-256 than `sha256` ends early, so that the server takes none of it.
    """

    def __init__(self, path: Path, sha256: str | None, boundary: str) -> None:
        self._head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._path = path
        self._sha256 = sha256
        self._size = path.stat().st_size
        # The connection is there, and the request's head has gone out.
        self.is_begun = False

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        self.is_begun = True
        yield self._head
        yield from blocks(self._path, self._sha256)
        yield self._tail
