"""What sections of the settings are made of, and types that several of them use."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator


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


def resolve_secret(source: str | None, base: Path) -> str | None:
    """The source of a secret with a relative path of its file resolved from `base`."""
    if source is None or not source.startswith("file:"):
        return source
    return f"file:{base / source.removeprefix('file:')}"
