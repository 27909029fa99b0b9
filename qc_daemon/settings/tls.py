"""TLS, towards peers that we call and of our receiver (PS3.15 B.12)."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from qc_daemon.settings.section import Port, Section


class ClientTLSSettings(Section):
    """TLS towards a peer that we call (PS3.15 B.12)."""

    ca: Path | None = Field(
        default=None, description="authorities (PEM) that verify it; the system's without"
    )
    certificate: Path | None = Field(default=None, description="what we show (PEM), with `key`")
    key: Path | None = Field(default=None, description="the key of `certificate` (PEM)")
    server_name: str | None = Field(
        default=None, description="the name in its certificate, where that is not the host"
    )
    minimum: Literal["1.2", "1.3"] = Field(default="1.2", description="lowest version of TLS")

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together; give both or neither")
        return self


class ServerTLSSettings(Section):
    """TLS of a port of ours (PS3.15 B.12). Files may be renewed while the service runs."""

    certificate: Path = Field(description="what we show (PEM)")
    key: Path = Field(description="the key of `certificate` (PEM)")
    ca: Path | None = Field(
        default=None, description="authorities (PEM) of the senders' certificates"
    )
    mutual: Literal["required", "optional", "none"] = Field(
        default="required", description="whether senders show a certificate"
    )
    minimum: Literal["1.2", "1.3"] = Field(default="1.2", description="lowest version of TLS")


class TLSSettings(ServerTLSSettings):
    """TLS for the receiver (PS3.15 B.12): a port of its own beside the plain one."""

    port: Port = Field(default=2762, description="port for TLS; 0: a free one")
    only: bool = Field(default=False, description="no plain port beside this one")
