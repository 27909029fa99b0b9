"""DICOMweb services that we call: who we are to them, and TLS as everywhere else.

Nothing is taken from the process's surroundings: no proxy, no netrc, no authorities but ours.
"""

import os
import socket
import ssl
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.web import DICOMwebClient
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth

from detector.errors import ErrorCode, QCError
from qc_daemon.dicom import tls
from qc_daemon.dicom.association_failure import connection_failure, tls_failure
from qc_daemon.settings import ClientTLSSettings, DestinationSettings

JSON = "application/dicom+json"


def session(destination: DestinationSettings) -> requests.Session:
    """A session with the service, with our credentials and TLS.

    Raises QCError: DELIVERY_FORBIDDEN for a secret and DELIVERY_UNREACHABLE for TLS files that
    cannot be read.
    """
    made = requests.Session()
    made.trust_env = False
    made.headers["Accept"] = JSON
    made.auth = _auth(destination)
    try:
        made.mount("https://", _Secure(destination.tls or ClientTLSSettings()))
    except (OSError, ValueError) as error:
        raise QCError(
            ErrorCode.DELIVERY_UNREACHABLE,
            f"destination {destination.name}: its tls files cannot be used: {tls.reason(error)}",
        ) from error
    return made


def client(destination: DestinationSettings, session: requests.Session) -> DICOMwebClient:
    """Queries of the service; what fails is told at once."""
    assert destination.url is not None
    made = DICOMwebClient(destination.url, session=session, timeout=destination.timeout)
    made.set_http_retry_params(retry=False)
    return made


def holds(destination: DestinationSettings, session: requests.Session, uid: str) -> bool:
    """Whether QIDO-RS finds the instance. Raises requests.RequestException, ValueError."""
    found = client(destination, session).search_for_instances(
        search_filters={"SOPInstanceUID": uid}, limit=1
    )
    return bool(found)


def trouble(error: requests.RequestException) -> str:
    """Why a request failed, without a word of its own, which may quote what was sent."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ssl.SSLError):
            return tls_failure(inner)
        if isinstance(inner, ConnectionRefusedError | socket.gaierror):
            return connection_failure(inner)
        inner = _within(inner)
    if isinstance(error, requests.ConnectTimeout):
        return connection_failure(TimeoutError())
    return "no answer in time" if isinstance(error, requests.Timeout) else "no connection"


def _within(error: BaseException) -> BaseException | None:
    """The error that this one is about."""
    inner = getattr(error, "reason", None) or next(iter(error.args), None)
    return inner if isinstance(inner, BaseException) else error.__cause__


def _auth(destination: DestinationSettings) -> AuthBase | None:
    if destination.token is not None:
        return _Bearer(_secret(destination, "token"))
    if destination.user is not None:
        return HTTPBasicAuth(destination.user.encode(), _secret(destination, "password").encode())
    return None


def _secret(destination: DestinationSettings, key: str) -> str:
    """The secret that the setting names. Raises QCError DELIVERY_FORBIDDEN."""
    kind, _, place = str(getattr(destination, key)).partition(":")
    try:
        found = os.environ[place] if kind == "env" else Path(place).read_text(encoding="utf-8")
    except (KeyError, OSError, UnicodeDecodeError):
        found = ""
    if not found.strip() or not found.strip().isprintable():
        where = f"the environment variable {place}" if kind == "env" else f"the file {place}"
        raise QCError(
            ErrorCode.DELIVERY_FORBIDDEN,
            f"destination {destination.name}: its {key} is not in {where}",
        )
    return found.strip()


class _Bearer(AuthBase):
    """RFC 6750."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Secure(HTTPAdapter):
    """TLS by our own context, which alone says whom to trust."""

    def __init__(self, settings: ClientTLSSettings) -> None:
        self._context = tls.client_context(settings)
        self._server_name = settings.server_name
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._server_name is not None:
            kwargs["server_hostname"] = self._server_name
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)  # type: ignore[no-untyped-call]

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context verifies; requests would add the authorities it ships."""
