"""A report to a FHIR R4 server: one transaction, done in whole or not at all."""

import contextlib

import requests

from detector.errors import ErrorCode
from qc_daemon.deliver.http_transport import HttpTransport
from qc_daemon.deliver.outcome import http_outcome, http_words
from qc_daemon.deliver.transport import ObjectStatusError, OutgoingObject
from qc_daemon.fhir.bundle import MEDIA_TYPE, encode, to_bundle

_STORED = (200, 201)
_CONFLICT = 409


class FhirTransport(HttpTransport):
    """A transport of reports (`sr`)."""

    def send(self, outgoing: OutgoingObject) -> bool:
        if outgoing.payload is None:
            raise ObjectStatusError(
                ErrorCode.DELIVERY_REFUSED,
                f"destination {self.destination.name} takes reports (sr) only",
            )
        content = encode(to_bundle(outgoing.payload))
        with self._closing_on_failure():
            answer = self._open_session().post(
                str(self.destination.url),
                data=content,
                headers={"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE},
                timeout=self.destination.timeout,
                allow_redirects=False,
            )
            self._check(answer)
        return False

    def _check(self, answer: requests.Response) -> None:
        """Return if the server has done all of it. Raises QCError."""
        status = answer.status_code
        if status in _STORED and _is_done(answer):
            return
        if status in _STORED:
            raise self._error(
                ErrorCode.DELIVERY_RESOURCES, "did not say that it did the transaction"
            )
        # Two of us at once: the other one's is there by now.
        code = ErrorCode.DELIVERY_RESOURCES if status == _CONFLICT else http_outcome(status)
        message = f"answered HTTP {status}, {http_words(status)}"
        if code is None or code is ErrorCode.DELIVERY_REFUSED:
            raise ObjectStatusError(
                ErrorCode.DELIVERY_REFUSED, f"destination {self.destination.name} {message}"
            )
        raise self._error(code, message)


def _is_done(answer: requests.Response) -> bool:
    """Whether the answer is of a transaction whose entries were all done."""
    with contextlib.suppress(ValueError, TypeError, AttributeError, LookupError):
        body = answer.json()
        return body["type"] == "transaction-response" and all(
            str(entry["response"]["status"]).startswith("2") for entry in body["entry"]
        )
    return False
