"""What sections of the settings are made of, and types that several of them use."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from detector.console import UsageError


class Section(BaseModel):
    """A section: unknown settings are refused, and defaults are checked too."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        """True is no 1: a switch where a number belongs is a mistake."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("give a value, not true or false")
        return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("give an address or a network, as 10.1.0.5 or 10.1.0.0/16") from None
    return value


Network = Annotated[str, AfterValidator(_network)]
Port = Annotated[int, Field(ge=0, le=65535)]


def _secret(value: str) -> str:
    if not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", value):
        raise ValueError("give env:NAME or file:PATH, where the secret stands, not the secret")
    return value


Secret = Annotated[str, AfterValidator(_secret)]
"""Where a secret is: `env:NAME` or `file:PATH`."""


def resolve_secret(source: str | None, base: Path) -> str | None:
    """The source of a secret with a relative path of its file resolved from `base`."""
    if source is None or not source.startswith("file:"):
        return source
    return f"file:{base / source.removeprefix('file:')}"


def _ae_title(value: str) -> str:
    """AE value representation (PS3.5 6.2): 1-16 characters, no backslash, no control."""
    title = value.strip()
    if not 1 <= len(title) <= 16 or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def parse_ae_title(value: str, argument: str) -> str:
    """The AE title that an argument of a command gives. Raises UsageError that names it."""
    try:
        return _ae_title(value)
    except ValueError as error:
        raise UsageError(f"{argument}: {error}") from None


def _fingerprint(value: str) -> str:
    """SHA-256 of a certificate in hexadecimal; colons and capitals as openssl prints them pass."""
    digits = value.replace(":", "").lower()
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise ValueError("a certificate is named by its SHA-256, 64 hexadecimal digits")
    return digits


def _web_address(value: str) -> str:
    """http or https with a host; secrets have settings of their own."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a DICOMweb service is named as https://HOST[:PORT]/PATH")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("no user, query or fragment in it; see user, password and token")
    if parts.port == 0:
        raise ValueError("a port is 1 to 65535")
    return value.rstrip("/")


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise ValueError("a name has 1 to 64 letters, digits, - and _")
    return value


def _mail_address(value: str) -> str:
    if not re.fullmatch(r"[^\s@<>,;:\"()\[\]\\]+@[A-Za-z0-9.-]+", value) or not value.isprintable():
        raise ValueError("a mail address is NAME@HOST, without a person's name before it")
    return value


def _user(value: str) -> str:
    if not re.fullmatch(r"[^:\x00-\x1f]+", value):
        raise ValueError("a user name has at least one character and no colon")
    return value


def _part(value: str) -> str:
    name = value.strip()
    if not name or ("/" not in name and name.startswith(".")):
        raise ValueError("name a part of the bundle, or a part's folder with a / in its path")
    return name


def as_list(value: Any) -> Any:
    """A list of one may stand without its brackets."""
    return [value] if isinstance(value, str) else value


def days_or_forever(value: Any) -> Any:
    if value == "forever" or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    raise ValueError('give a whole number of days, or "forever"')


AETitle = Annotated[str, AfterValidator(_ae_title)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Name = Annotated[str, AfterValidator(_name)]
User = Annotated[str, AfterValidator(_user)]
MailAddress = Annotated[str, AfterValidator(_mail_address)]
PartName = Annotated[str, AfterValidator(_part)]
Patterns = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(min_length=1), BeforeValidator(as_list)
]
"""Shell-style patterns, one of which a text has to be like."""

# Bounds that no one meets who means what he writes: a slip of the key is refused at start.
DAY_SECONDS = 86_400.0
YEAR_MINUTES = 525_600.0
CENTURY_DAYS = 36_500
