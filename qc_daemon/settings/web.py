"""The settings of pages and REST API (`[web]`)."""

import re
import string
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from qc_daemon.settings.login import (
    ExternalLoginSettings,
    HeaderLoginSettings,
    OidcSettings,
    is_loopback,
)
from qc_daemon.settings.section import Network, Port, Section
from qc_daemon.verbs import DEFAULT_ROLES, Verb


def _role_name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", value):
        raise ValueError("a role's name has 1 to 32 small letters, digits and -")
    return value


def _viewer(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a viewer is named as https://HOST[:PORT]/PATH?study={study}")
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}
    except ValueError:
        fields = set()
    if fields != {"study"}:
        raise ValueError("it has {study} where the Study Instance UID goes, and no other braces")
    return value


class AccountRoleSettings(Section):
    """What the accounts of a role may do, besides or in place of the roles that there are:
    administrator, sonographer, lead, engineer, auditor and kiosk."""

    name: Annotated[str, AfterValidator(_role_name)] = Field(description="its name")
    verbs: list[Verb] = Field(description="what its accounts may do")


class WebSettings(Section):
    """Pages and REST API; off unless a port is named. People log in with accounts (`qc-daemon user
    add`)."""

    host: str = Field(
        default="127.0.0.1", description="address to listen on; another needs TLS or a proxy"
    )
    port: Port | None = Field(default=None, description="port to listen on; 0: a free one")
    certificate: Path | None = Field(
        default=None, description="what we show (PEM), with `key`; may be renewed while we run"
    )
    key: Path | None = Field(default=None, description="the key of `certificate` (PEM)")
    trusted_proxies: list[Network] = Field(
        default=[],
        description="whose X-Forwarded-For and X-Forwarded-Proto count; they must keep Host",
    )
    session_hours: float = Field(
        default=10.0, gt=0, le=720, description="after which one logs in again"
    )
    idle_minutes: float = Field(
        default=60.0, gt=0, le=43_200, description="without a request, after which one does too"
    )
    login_attempts: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="wrong passwords of a name from an address, then"
        " neither is let in for `lock_minutes`; of a name or an address alone ten times as many",
    )
    lock_minutes: float = Field(default=15.0, gt=0, le=1440, description="see `login_attempts`")
    request_seconds: float = Field(
        default=20.0, gt=0, le=3600, description="in which a request has to arrive whole"
    )
    request_kilobytes: int = Field(
        default=1024, ge=16, le=1_048_576, description="the largest body of a request"
    )
    viewer: Annotated[str, AfterValidator(_viewer)] | None = Field(
        default=None,
        description="link to a viewer, as `https://viewer.example.org/?StudyInstanceUIDs={study}`",
    )
    role: list[AccountRoleSettings] = Field(default=[], description="see below")
    oidc: OidcSettings | None = Field(default=None, description="off without this section")
    header_login: HeaderLoginSettings | None = Field(
        default=None, description="off without this section"
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together; give both or neither")
        names = [role.name for role in self.role]
        if len(names) != len(set(names)):
            raise ValueError("two roles share a name; rename one")
        for way, login in (("oidc", self.oidc), ("header_login", self.header_login)):
            for role in [] if login is None else _roles_of(login):
                if role not in self.roles:
                    raise ValueError(f"{way}: there is no role {role}; see web.role")
        is_reachable = self.port is not None and not is_loopback(self.host)
        if is_reachable and self.certificate is None and not self.trusted_proxies:
            raise ValueError(
                "passwords would go over the network in clear: give certificate and key, or"
                " trusted_proxies where a proxy does TLS, or host = 127.0.0.1"
            )
        return self

    @property
    def roles(self) -> dict[str, frozenset[Verb]]:
        """The verbs of each role."""
        return dict(DEFAULT_ROLES) | {role.name: frozenset(role.verbs) for role in self.role}


def _roles_of(login: ExternalLoginSettings) -> list[str]:
    """The roles that the log-in may give."""
    default = [] if login.default_role is None else [login.default_role]
    return [*(each.role for each in login.mapping), *default]
