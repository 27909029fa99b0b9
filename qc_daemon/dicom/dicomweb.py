"""Calls to DICOMweb services: credentials, TLS, and words for what fails.

Nothing is taken from the process's environment: no proxy, no netrc, no other authorities.
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
    session = requests.Session()
    session.trust_env = False
    session.headers["Accept"] = JSON
    session.auth = _auth(destination)
    try:
        session.mount("https://", _TLSAdapter(destination.tls or ClientTLSSettings()))
    except (OSError, ValueError) as error:
        raise QCError(
            ErrorCode.DELIVERY_UNREACHABLE,
            f"destination {destination.name}: its tls files cannot be used: {tls.reason(error)}",
        ) from error
    return session


def client(destination: DestinationSettings, session: requests.Session) -> DICOMwebClient:
    """A client for queries of the service; it does not retry."""
    assert destination.url is not None
    client = DICOMwebClient(destination.url, session=session, timeout=destination.timeout)
    client.set_http_retry_params(retry=False)
    return client


def has_instance(destination: DestinationSettings, session: requests.Session, uid: str) -> bool:
    """Whether QIDO-RS finds the instance. Raises requests.RequestException, ValueError."""
    instances = client(destination, session).search_for_instances(
        search_filters={"SOPInstanceUID": uid}, limit=1
    )
    return bool(instances)


def describe_failure(error: requests.RequestException) -> str:
    """Why a request failed, without the error's own text, which may quote what was sent."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ssl.SSLError):
            return tls_failure(inner)
        if isinstance(inner, ConnectionRefusedError | socket.gaierror):
            return connection_failure(inner)
        inner = _inner_error(inner)
    if isinstance(error, requests.ConnectTimeout):
        return connection_failure(TimeoutError())
    return "no answer in time" if isinstance(error, requests.Timeout) else "no connection"


def _inner_error(error: BaseException) -> BaseException | None:
    """The error that caused this one."""
    inner = getattr(error, "reason", None) or next(iter(error.args), None)
    return inner if isinstance(inner, BaseException) else error.__cause__


def _auth(destination: DestinationSettings) -> AuthBase | None:
    if destination.token is not None:
        return _BearerAuth(_read_secret(destination, "token"))
    if destination.user is not None:
        return HTTPBasicAuth(
            destination.user.encode(), _read_secret(destination, "password").encode()
        )
    return None


def _read_secret(destination: DestinationSettings, key: str) -> str:
    """The secret that the setting names. Raises QCError DELIVERY_FORBIDDEN."""
    kind, _, source = str(getattr(destination, key)).partition(":")
    try:
        secret = os.environ[source] if kind == "env" else Path(source).read_text(encoding="utf-8")
    except (KeyError, OSError, UnicodeDecodeError):
        secret = ""
    if not secret.strip() or not secret.strip().isprintable():
        where = f"the environment variable {source}" if kind == "env" else f"the file {source}"
        raise QCError(
            ErrorCode.DELIVERY_FORBIDDEN,
            f"destination {destination.name}: its {key} is not in {where}",
        )
    return secret.strip()


class _BearerAuth(AuthBase):
    """Authorization by a bearer token (RFC 6750)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _TLSAdapter(HTTPAdapter):
    """TLS by our own context, which alone decides whom to trust."""

    def __init__(self, settings: ClientTLSSettings) -> None:
        self._context = tls.client_context(settings)
        self._server_name = settings.server_name
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._server_name is not None:
            kwargs["server_hostname"] = self._server_name
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)  # type: ignore[no-untyped-call]

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: the context verifies, and requests would add the authorities that it ships."""
