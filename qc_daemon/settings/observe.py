"""The settings of the audit log (`[audit_log]`) and of the servers that get its messages."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from qc_daemon.settings.section import Port, Section


def _server_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise ValueError("a name has 1 to 64 letters, digits, - and _")
    return value


class AuditServerSettings(Section):
    """An audit record repository that gets each record as a DICOM audit message (PS3.15 A.5) by
    syslog (RFC 5424): over TLS (PS3.15 A.6), or UDP (PS3.15 A.7), which loses what the network
    loses. While it cannot be reached, records wait in the log."""

    name: Annotated[str, AfterValidator(_server_name)] = Field(description="its name in the log")
    host: str = Field(description="its address")
    port: Port = Field(default=6514, description="its port; of UDP commonly 514")
    protocol: Literal["tls", "udp"] = Field(default="tls", description="how messages go there")
    ca: Path | None = Field(
        default=None, description="authorities (PEM) that verify it; the system's without"
    )
    certificate: Path | None = Field(default=None, description="what we show (PEM), with `key`")
    key: Path | None = Field(default=None, description="the key of `certificate` (PEM)")
    server_name: str | None = Field(
        default=None, description="the name in its certificate, where that is not the host"
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together; give both or neither")
        if self.protocol == "udp" and (self.ca or self.certificate or self.server_name):
            raise ValueError("ca, certificate, key and server_name are for TLS; remove them")
        return self


class AuditLogSettings(Section):
    """The audit log: who did what to which object, in a chain of hashes (`qc-daemon audit-log`)."""

    folder: Path | None = Field(
        default=None,
        description="folder of the log, in which each machine has its own;"
        " else `audit-log` beside the spool",
    )
    segment_megabytes: int = Field(
        default=16, ge=1, le=1024, description="size at which the log goes on in another file"
    )
    enterprise_site: str | None = Field(
        default=None, min_length=1, description="AuditEnterpriseSiteID of the messages"
    )
    server: list[AuditServerSettings] = Field(default=[], description="see below")

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [server.name for server in self.server]
        if len(names) != len(set(names)):
            raise ValueError("two servers share a name; rename one")
        return self


class ObserveSettings(Section):
    """The log; `/metrics`, `/live` and `/ready` over HTTP, off unless a port is named."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: Port | None = Field(default=None, description="port to listen on; 0: a free one")
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        default="info", description="lowest level that the log has; `QC_LOG` wins"
    )
