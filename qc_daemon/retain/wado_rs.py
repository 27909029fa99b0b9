"""Retrieves an object from a DICOMweb destination: WADO-RS of an instance (PS3.18 10.4)."""

import re

import requests

from detector.errors import ErrorCode, QCError
from qc_daemon.dicom import dicomweb
from qc_daemon.retain.retrieve import ObjectToRetrieve
from qc_daemon.settings import DestinationSettings

MAX_BYTES = 4 << 30
_BLOCK = 1 << 20
_GONE = (404, 410)
_NOT_ACCEPTABLE = 406
# As it was stored; a service that knows no such wildcard is asked for what it likes.
_ACCEPTS = (
    'multipart/related; type="application/dicom"; transfer-syntax=*',
    'multipart/related; type="application/dicom"',
)
_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)


def get(destination: DestinationSettings, target: ObjectToRetrieve) -> bytes | None:
    """The object as the PS3.10 file that the service gives; None if it does not have it.

    The whole object is in memory. Its bytes are those received if the service keeps files as they
    came. Raises QCError DELIVERY_UNREACHABLE: it cannot be asked now, or gives no such object.
    """
    url = (
        f"{destination.url}/studies/{target.study_instance_uid}"
        f"/series/{target.series_instance_uid}/instances/{target.sop_instance_uid}"
    )
    try:
        with dicomweb.session(destination) as session:
            for accept in _ACCEPTS:
                with session.get(
                    url,
                    headers={"Accept": accept},
                    timeout=destination.timeout,
                    allow_redirects=False,
                    stream=True,
                ) as answer:
                    if answer.status_code in _GONE:
                        return None
                    if answer.status_code == _NOT_ACCEPTABLE and accept is not _ACCEPTS[-1]:
                        continue
                    if answer.status_code != requests.codes.ok:
                        raise _unreachable(
                            destination, f"answered HTTP {answer.status_code} to WADO-RS"
                        )
                    return _object(destination, answer)
    except requests.RequestException as error:
        why = dicomweb.describe_failure(error)
        raise _unreachable(destination, f"cannot be asked for an object: {why}") from error
    except QCError as error:
        # A secret or certificate that cannot be read now is one that may be later.
        raise QCError(ErrorCode.DELIVERY_UNREACHABLE, error.message) from error
    raise _unreachable(destination, "gives no objects as DICOM files")


def _object(destination: DestinationSettings, answer: requests.Response) -> bytes:
    body = bytearray()
    for block in answer.iter_content(_BLOCK):
        body += block
        if len(body) > MAX_BYTES:
            raise _unreachable(destination, "gives more than an object")
    content = first_part(bytes(body), answer.headers.get("Content-Type", ""))
    if content is None or content[128:132] != b"DICM":
        raise _unreachable(destination, "did not give a DICOM file")
    return content


def first_part(body: bytes, content_type: str) -> bytes | None:
    """The content of the first part of a multipart body (RFC 2046 5.1); the body itself where it is
    none. None where it is cut off."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None or not content_type.lower().startswith("multipart/"):
        return body
    delimiter = b"--" + boundary[1].strip().encode("latin-1")
    start = body.find(delimiter)
    head = body.find(b"\r\n\r\n", start)
    end = body.find(b"\r\n" + delimiter, head + 4 - 2)
    return None if min(start, head, end) < 0 else body[head + 4 : end]


def _unreachable(destination: DestinationSettings, what: str) -> QCError:
    return QCError(ErrorCode.DELIVERY_UNREACHABLE, f"destination {destination.name} {what}")
