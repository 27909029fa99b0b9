"""An OpenID provider: its description, the log-in at it, and what it says of who logged in.

OpenID Connect Core 1.0 (authorization code), Discovery 1.0, PKCE (RFC 7636), RFC 9207 (`iss` in the
answer), RP-Initiated Logout 1.0. Requests, PKCE and claims by Authlib, signatures by joserfc. Of
its tokens nothing is kept: a session here is ours.
"""

import base64
import binascii
import hmac
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from detector.errors import QCError
from qc_daemon.digest.sending import read_secret
from qc_daemon.operations.logins.external_accounts import LoginError, LoginProblem
from qc_daemon.operations.passwords import new_token
from qc_daemon.records.clock import Clock
from qc_daemon.settings.login import OidcSettings, is_loopback

ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Signatures that count: by a key that only the provider has."""
_KEY_TYPES = ("RSA", "EC", "OKP")
_DESCRIBED_FOR = timedelta(hours=1)
# A provider that does not answer is not asked again for so long: people would wait in a row.
_REST = timedelta(seconds=5)
# Requests that wait for it at once; more would take all threads that answer pages.
_CONVERSATIONS = 4
_MAX_ANSWER_BYTES = 2**20
_ATTEMPT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """A log-in that was begun, kept in the browser that began it: what the answer is compared
    with. `next` is where it leads, `at` when it began (seconds since 1970)."""

    state: str
    nonce: str
    verifier: str
    next: str
    at: int

    def to_cookie(self) -> str:
        """As letters of a cookie."""
        return base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode()

    @classmethod
    def from_cookie(cls, value: str | None, now: datetime) -> "LoginAttempt":
        """Raises LoginError OUTDATED for none, one of another form, and one that is too old."""
        try:
            attempt = cls(**json.loads(base64.urlsafe_b64decode(value or "")))
            age = now.timestamp() - attempt.at
        except (ValueError, TypeError, binascii.Error, RecursionError):
            raise LoginError(LoginProblem.OUTDATED, "no log-in was begun here") from None
        texts = (attempt.state, attempt.nonce, attempt.verifier, attempt.next)
        if not all(isinstance(each, str) and each for each in texts):
            raise LoginError(LoginProblem.OUTDATED, "no log-in was begun here")
        if not 0 <= age <= _ATTEMPT_SECONDS:
            raise LoginError(LoginProblem.OUTDATED, "the log-in was begun too long ago")
        return attempt


class OidcProvider:
    """The provider of these settings. Its description is asked for when it is needed, and again
    after an hour; its keys again when a token names one that is not known."""

    def __init__(self, settings: OidcSettings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self._conversations = threading.BoundedSemaphore(_CONVERSATIONS)
        self._lock = threading.Lock()
        self._description: tuple[datetime, dict[str, Any]] | None = None
        self._keys: KeySet | None = None
        self._rests_until: datetime | None = None

    def begin(self, redirect_uri: str, next_path: str) -> tuple[str, LoginAttempt]:
        """The provider's page to send the browser to, and what to keep in the browser meanwhile.
        Raises LoginError."""
        attempt = LoginAttempt(
            new_token(), new_token(), new_token(), next_path, int(self._clock().timestamp())
        )
        description = self.describe()
        try:
            client = self._client(redirect_uri)
        except QCError as error:
            raise LoginError(LoginProblem.UNAVAILABLE, error.message) from None
        with client:
            url, _ = client.create_authorization_url(
                description["authorization_endpoint"],
                state=attempt.state,
                nonce=attempt.nonce,
                code_verifier=attempt.verifier,
            )
        return str(url), attempt

    def finish(
        self, answer: Mapping[str, str], attempt: LoginAttempt, redirect_uri: str
    ) -> dict[str, Any]:
        """The claims of the ID token that the answer's code is exchanged for. Raises LoginError."""
        if not hmac.compare_digest(answer.get("state", "").encode(), attempt.state.encode()):
            raise LoginError(LoginProblem.OUTDATED, "state is of another log-in")
        description = self.describe()
        is_named = description.get("authorization_response_iss_parameter_supported") is True
        if ("iss" in answer or is_named) and answer.get("iss") != self.settings.issuer:
            raise LoginError(LoginProblem.NOT_ACCEPTED, "iss is of another provider")
        if "error" in answer:
            raise LoginError(LoginProblem.DENIED, _error_code(answer["error"]))
        if not answer.get("code"):
            raise LoginError(LoginProblem.NOT_ACCEPTED, "no code came")
        with self._session(redirect_uri) as session:
            try:
                token = session.fetch_token(
                    description["token_endpoint"],
                    grant_type="authorization_code",
                    code=answer["code"],
                    code_verifier=attempt.verifier,
                    allow_redirects=False,
                )
            except AuthlibBaseError as error:
                raise LoginError(LoginProblem.NOT_ACCEPTED, _error_code(error.error)) from None
        if not isinstance(token, dict) or not isinstance(token.get("id_token"), str):
            raise LoginError(LoginProblem.NOT_ACCEPTED, "no ID token came")
        return self._claims(token, attempt)

    def end_session_url(self, back_to: str) -> str | None:
        """The provider's page for a log-out that leads back here; None where it has none, or does
        not answer."""
        if not self.settings.end_provider_session:
            return None
        try:
            endpoint = self.describe().get("end_session_endpoint")
        except LoginError:
            return None
        if endpoint is None:
            return None
        query = {"client_id": self.settings.client_id, "post_logout_redirect_uri": back_to}
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"

    def describe(self) -> dict[str, Any]:
        """Its description (Discovery 1.0). Raises LoginError UNAVAILABLE or NOT_ACCEPTED."""
        with self._lock:
            known = self._description
            if known is not None and abs(self._clock() - known[0]) < _DESCRIBED_FOR:
                return known[1]
        path = "/.well-known/openid-configuration"
        description = self._get(self.settings.issuer.rstrip("/") + path)
        if description.get("issuer") != self.settings.issuer:
            raise LoginError(LoginProblem.NOT_ACCEPTED, "the description is of another issuer")
        needed = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        for name in (*needed, "end_session_endpoint"):
            if not _is_endpoint(description.get(name)) and (name in needed or name in description):
                raise LoginError(LoginProblem.NOT_ACCEPTED, f"{name} is no https address")
        with self._lock:
            self._description = (self._clock(), description)
        return description

    def _claims(self, token: Mapping[str, Any], attempt: LoginAttempt) -> dict[str, Any]:
        """The ID token's claims, of a signature that counts. Raises LoginError."""
        settings = self.settings
        try:
            decoded = self._decode(token["id_token"])
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                {
                    "iss": {"essential": True, "value": settings.issuer},
                    "aud": {"essential": True, "value": settings.client_id},
                    "sub": {"essential": True},
                },
                {
                    "nonce": attempt.nonce,
                    "client_id": settings.client_id,
                    "access_token": token.get("access_token"),
                },
            )
            claims.validate(int(self._clock().timestamp()), settings.leeway_seconds)
        except JoseError as error:
            detail = f"{type(error).__name__} {getattr(error, 'claim', '')}".strip()
            raise LoginError(LoginProblem.NOT_ACCEPTED, f"ID token: {detail}") from None
        except (ValueError, TypeError, KeyError) as error:
            detail = f"ID token: {type(error).__name__}"
            raise LoginError(LoginProblem.NOT_ACCEPTED, detail) from None
        return dict(claims)

    def _decode(self, id_token: str) -> jwt.Token:
        listed = self.describe().get("id_token_signing_alg_values_supported")
        names = [name for name in ALGORITHMS if not isinstance(listed, list) or name in listed]
        registry = JWSRegistry(algorithms=names, strict_check_header=False)
        with self._lock:
            keys = self._keys
        if keys is not None:
            try:
                return jwt.decode(id_token, keys, registry=registry)
            except (InvalidKeyIdError, BadSignatureError):
                # The provider has changed its keys.
                pass
        return jwt.decode(id_token, self._fetch_keys(), registry=registry)

    def _fetch_keys(self) -> KeySet:
        listed = self._get(self.describe()["jwks_uri"]).get("keys")
        chosen = [
            key
            for key in (listed if isinstance(listed, list) else [])
            if isinstance(key, dict)
            and key.get("kty") in _KEY_TYPES
            and key.get("use", "sig") == "sig"
        ]
        keys = KeySet.import_key_set({"keys": chosen})
        with self._lock:
            self._keys = keys
        return keys

    def _get(self, url: str) -> dict[str, Any]:
        """An object of JSON. Raises LoginError."""
        with (
            self._session() as session,
            session.request(
                "GET", url, withhold_token=True, allow_redirects=False, stream=True
            ) as answer,
        ):
            content = b""
            for block in answer.iter_content(65_536):
                content += block
                if len(content) > _MAX_ANSWER_BYTES:
                    raise LoginError(LoginProblem.NOT_ACCEPTED, "its answer is too long")
            status = answer.status_code
        if status >= 500:
            raise LoginError(LoginProblem.UNAVAILABLE, f"status {status}")
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = None
        if status != 200 or not isinstance(value, dict):
            raise LoginError(LoginProblem.NOT_ACCEPTED, f"status {status}, no object of JSON")
        return value

    def _client(self, redirect_uri: str | None) -> OAuth2Session:
        """Raises QCError for a secret that is not there."""
        settings, secret = self.settings, None
        if settings.client_secret is not None:
            secret = read_secret(settings.client_secret, "web.oidc.client_secret")
        return OAuth2Session(
            settings.client_id,
            secret,
            scope=" ".join(settings.scopes),
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            token_endpoint_auth_method="none" if secret is None else "client_secret_basic",
            default_timeout=settings.timeout_seconds,
            verify=True if settings.ca is None else str(settings.ca),
        )

    @contextmanager
    def _session(self, redirect_uri: str | None = None) -> Iterator[OAuth2Session]:
        """Requests to the provider. Raises LoginError UNAVAILABLE where it does not answer."""
        with self._lock:
            rests_until = self._rests_until
        if rests_until is not None and self._clock() < rests_until <= self._clock() + _REST:
            raise LoginError(LoginProblem.UNAVAILABLE, "it did not answer a moment ago")
        if not self._conversations.acquire(blocking=False):
            raise LoginError(LoginProblem.UNAVAILABLE, "too many log-ins wait for it")
        try:
            with self._client(redirect_uri) as session:
                yield session
        except QCError as error:
            raise LoginError(LoginProblem.UNAVAILABLE, error.message) from None
        except (requests.JSONDecodeError, requests.exceptions.InvalidJSONError):
            raise LoginError(LoginProblem.NOT_ACCEPTED, "its answer is no JSON") from None
        except (requests.RequestException, OSError) as error:
            with self._lock:
                self._rests_until = self._clock() + _REST
            raise LoginError(LoginProblem.UNAVAILABLE, type(error).__name__) from None
        finally:
            self._conversations.release()


def values_of(claims: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """The texts at a claim, as `groups` or `realm_access.roles`; one text is a list of one."""
    value: Any = claims.get(path)
    if value is None:
        value = claims
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, str):
        return (value,)
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _is_endpoint(value: object) -> bool:
    if not isinstance(value, str):
        return False
    parts = urlsplit(value)
    host = parts.hostname or ""
    return bool(host) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    )


def _error_code(value: object) -> str:
    """An error code of OAuth 2.0; never a provider's own words, which may name people."""
    text = str(value)
    return text if text.isascii() and text.replace("_", "").isalpha() and len(text) < 60 else "?"
