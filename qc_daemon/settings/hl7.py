"""Corrections of patients by HL7 v2 (`[hl7]`)."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from qc_daemon.settings.section import DAY_SECONDS, Network, Port, Section, as_list
from qc_daemon.settings.tls import ServerTLSSettings


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
        description="whose numbers machines send as Patient ID: namespace of that authority"
        " (PID-3.4.1); without, the first number of a message",
    )
    message_seconds: float = Field(
        default=30.0, gt=0, le=DAY_SECONDS, description="seconds a message may take to come"
    )
    tls: ServerTLSSettings | None = Field(
        default=None, description="TLS on that port, and nothing plain; none without"
    )
