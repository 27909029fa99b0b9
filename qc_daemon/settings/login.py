"""The settings of log-ins that another program vouches for: OpenID Connect and a proxy's header."""

import ipaddress
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from qc_daemon.settings.section import Network, Secret, Section


def _issuer(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an issuer is named as https://login.example.org/realms/hospital")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("an issuer has no user, query or fragment")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("an issuer is asked over https; http only on this machine")
    return value


def is_loopback(host: str) -> bool:
    """Whether the host is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _header(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", value):
        raise ValueError("a header's name has letters, digits and -")
    return value


def _page(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or not value.isprintable():
        raise ValueError("a page is named as https://HOST/PATH")
    return value


Header = Annotated[str, AfterValidator(_header)]
FirstLogin = Literal["approve", "create", "refuse"]
_FIRST_LOGIN = (
    "what becomes of who has no account: one that waits for `user enable`, one that counts at"
    " once, or none"
)


class RoleMapping(Section):
    """Which of our roles who is in a group there has; of several the first that is listed."""

    value: str = Field(min_length=1, description="the group, as the claim or header has it")
    role: str = Field(description="the role that it gives, here")


class ExternalLoginSettings(Section):
    """What both ways share."""

    first_login: FirstLogin = Field(default="approve", description=_FIRST_LOGIN)
    default_role: str | None = Field(
        default=None,
        description="role of a new account that no mapping gives one; without it, who is in no"
        " mapped group is not let in",
    )
    mapping: list[RoleMapping] = Field(default=[], description="see below")

    @model_validator(mode="after")
    def _gives_roles(self) -> Self:
        values = [each.value for each in self.mapping]
        if len(values) != len(set(values)):
            raise ValueError("two mappings are of one value; remove one")
        if not self.mapping and self.default_role is None and self.first_login != "refuse":
            raise ValueError("a new account would have no role: give default_role or a mapping")
        return self

    def role_of(self, values: Collection[str]) -> str | None:
        """The role that these groups give; None for none."""
        return next((each.role for each in self.mapping if each.value in values), None)


class OidcSettings(ExternalLoginSettings):
    """Log in at an OpenID provider (OpenID Connect Core 1.0, authorization code with PKCE). At the
    provider, `https://OUR-HOST/login/oidc/callback` is the redirect URI, and `https://OUR-HOST/login`
    what a log-out leads back to. Accounts with a password go on to count."""

    issuer: Annotated[str, AfterValidator(_issuer)] = Field(
        description="of the provider; `/.well-known/openid-configuration` below it describes it"
    )
    client_id: str = Field(min_length=1, description="what the provider calls us")
    client_secret: Secret | None = Field(
        default=None,
        description="`env:NAME` or `file:PATH` of the secret; none for a public client",
    )
    title: str = Field(
        default="single sign-on",
        min_length=1,
        max_length=60,
        description="what the log-in page calls it",
    )
    scopes: list[str] = Field(default=["openid", "profile"], description="what we ask for")
    ca: Path | None = Field(
        default=None,
        description="authority of the provider's certificate (PEM); else well-known ones",
    )
    timeout_seconds: float = Field(
        default=5.0, gt=0, le=60, description="for each answer of the provider"
    )
    leeway_seconds: int = Field(
        default=60, ge=0, le=600, description="that its clock and ours may differ by"
    )
    name_claim: str = Field(
        default="preferred_username", min_length=1, description="of a new account's name"
    )
    full_name_claim: str = Field(
        default="name", min_length=1, description="of its full name, the reader of its reviews"
    )
    roles_claim: str | None = Field(
        default=None,
        description="of the groups, as `groups` or `realm_access.roles`; with `mapping`",
    )
    join_verified_email: bool = Field(
        default=False,
        description="whether an account whose name is the mail address of the claim `email`, with"
        " `email_verified`, is that person's; only for a provider of which nobody chooses the"
        " address himself. Else `user link` joins them",
    )
    end_provider_session: bool = Field(
        default=True, description="whether a log-out leads to the provider's, where it has one"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if "openid" not in self.scopes:
            raise ValueError("scopes needs openid")
        if self.join_verified_email and "email" not in self.scopes:
            raise ValueError("join_verified_email asks for the claim: add email to scopes")
        if self.mapping and self.roles_claim is None:
            raise ValueError("roles_claim is missing: name the claim that mapping is of")
        return self


class HeaderLoginSettings(ExternalLoginSettings):
    """Log in by a header of a proxy that has asked for the password. The proxy must remove the
    header from what browsers send. Whoever can connect from `addresses` can be anybody here."""

    addresses: list[Network] = Field(
        min_length=1, description="of the proxies; from elsewhere the header is ignored and counted"
    )
    name_header: Header = Field(default="X-Remote-User", description="of the account's name")
    full_name_header: Header | None = Field(
        default=None, description="of a new account's full name; without it the name"
    )
    roles_header: Header | None = Field(
        default=None, description="of the groups, with commas between them; with `mapping`"
    )
    logout_page: Annotated[str, AfterValidator(_page)] | None = Field(
        default=None, description="where a log-out leads, as the proxy's own"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.mapping and self.roles_header is None:
            raise ValueError("roles_header is missing: name the header that mapping is of")
        return self
