"""A small OpenID provider over HTTP on this machine: it checks what a provider checks (client,
redirect URI, code once, PKCE), and can be told to answer wrongly."""

import base64
import hashlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.support.waiting import eventually

CLIENT, SECRET = "qc-daemon", "secret of the client"


@dataclass
class OidcProvider:
    """One person is logged in at it, whose claims are `person`.

    `token` is what its ID tokens say otherwise than they should; None removes a claim.
    `description` is what its description says otherwise; `codes` are those that were not used yet.
    """

    port: int
    redirect_uri: str
    person: dict[str, Any] = field(default_factory=dict)
    token: dict[str, Any] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    clock_seconds: float = 0.0
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    signs_with: RSAKey | None = None
    answers_error: str | None = None

    def __post_init__(self) -> None:
        self.rotate()

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rotate(self) -> None:
        """Take another key; the one before does not count any more."""
        self.key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig"})

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._describe),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/keys", self._keys),
                Route("/end", self._end),
            ]
        )

    def _describe(self, request: Request) -> Response:
        self.asked.append("description")
        values = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "end_session_endpoint": f"{self.issuer}/end",
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            "authorization_response_iss_parameter_supported": True,
        }
        return JSONResponse(values | self.description)

    def _keys(self, request: Request) -> Response:
        self.asked.append("keys")
        unknown = {"kty": "AKP", "alg": "ML-DSA-44", "kid": "later", "pub": "AA"}
        return JSONResponse({"keys": [unknown, self.key.as_dict(private=False)]})

    def _authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        assert query["client_id"] == CLIENT
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        if query["redirect_uri"] != self.redirect_uri:
            # Never led on to an address that it was not told.
            return Response("redirect_uri is unknown", 400)
        answer = {"state": query["state"], "iss": self.issuer}
        if self.answers_error is not None:
            answer |= {"error": self.answers_error, "error_description": "Doe^Jane <script>"}
        else:
            code = secrets.token_urlsafe()
            self.codes[code] = query
            answer["code"] = code
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(answer)}", 303)

    async def _token(self, request: Request) -> Response:
        self.asked.append("token")
        form = {key: value[0] for key, value in parse_qs((await request.body()).decode()).items()}
        kind, _, credentials = request.headers.get("authorization", "").partition(" ")
        expected = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        if (kind.casefold(), credentials) != ("basic", expected):
            return JSONResponse({"error": "invalid_client"}, 401)
        # A code counts once, for the log-in that it was made for.
        query = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if (
            query is None
            or form.get("redirect_uri") != query["redirect_uri"]
            or challenge != query["code_challenge"]
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        return JSONResponse(
            {
                "access_token": secrets.token_urlsafe(),
                "token_type": "Bearer",
                "id_token": self.id_token(query["nonce"]),
            }
        )

    def id_token(self, nonce: str) -> str:
        """The person's ID token."""
        now = int(time.time() + self.clock_seconds)
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": nonce}
        claims |= self.person | self.token
        present = {name: value for name, value in claims.items() if value is not None}
        header = {"alg": "RS256", "kid": self.key.kid}
        return jwt.encode(header, present, self.signs_with or self.key)

    def _end(self, request: Request) -> Response:
        self.asked.append("end")
        return RedirectResponse(request.query_params["post_logout_redirect_uri"], 303)


@contextmanager
def oidc_provider(redirect_uri: str) -> Iterator[OidcProvider]:
    """The provider, served until the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        provider = OidcProvider(listener.getsockname()[1], redirect_uri)
        config = uvicorn.Config(provider.app(), log_config=None, lifespan="off", loop="asyncio")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            eventually(lambda: server.started, 60)
            yield provider
        finally:
            server.should_exit = True
            thread.join(60)
