"""Corrections of patients by HL7 v2 (`[hl7]`)."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from qc_daemon.settings.section import DAY_SECONDS, Network, Port, Section, as_list
from qc_daemon.settings.tls import ServerTLSSettings

CharacterSet = Literal[
    "ASCII",
    "8859/1",
    "8859/2",
    "8859/3",
    "8859/4",
    "8859/5",
    "8859/6",
    "8859/7",
    "8859/8",
    "8859/9",
    "8859/15",
    "UNICODE UTF-8",
    "GB 18030-2000",
    "KS X 1001",
    "BIG-5",
]
"""Values of MSH-18 (HL7 table 0211) that are read."""


class HL7Settings(Section):
    """Receives ADT messages (A08: who a patient is; A40: two are one) over MLLP, in the role
    `schedule`. Off unless a port is named."""

    host: str = Field(
        default="127.0.0.1", description="address to listen on; 0.0.0.0: every one of the machine"
    )
    port: Port | None = Field(
        default=None, description="port to listen on, often 2575; 0: a free one; off without"
    )
    allow: Annotated[list[Network], BeforeValidator(as_list)] = Field(
        default=["127.0.0.1", "::1"],
        description="addresses and networks (CIDR) that messages may come from",
    )
    assigning_authority: str | None = Field(
        default=None,
        description="whose numbers machines send as Patient ID: namespace or universal id of that"
        " authority (PID-3.4.1, PID-3.4.2); without, the first number of a message",
    )
    character_set: CharacterSet = Field(
        default="ASCII", description="character set of messages whose MSH-18 is empty"
    )
    message_seconds: float = Field(
        default=30.0, gt=0, le=DAY_SECONDS, description="seconds a message may take to come"
    )
    tls: ServerTLSSettings | None = Field(
        default=None, description="TLS on that port, and nothing plain; none without"
    )
