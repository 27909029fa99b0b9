"""The receiver and who may store to it (`[receive]`)."""

import os
from typing import Annotated, Self

from pydantic import Field, model_validator

from qc_daemon.settings.section import (
    DAY_SECONDS,
    YEAR_MINUTES,
    AETitle,
    Fingerprint,
    Network,
    Port,
    Section,
)
from qc_daemon.settings.tls import ClientTLSSettings, TLSSettings


class PeerSettings(Section):
    """A sender that may store to us: calling AE title and address range."""

    ae_title: AETitle = Field(description="AE title that it calls by")
    address: Network = Field(
        default="0.0.0.0/0", description="address or network (CIDR) that it calls from"
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None,
        description="where it takes storage commitment reports, at the address it asked from",
    )
    certificate: Fingerprint | None = Field(
        default=None, description="SHA-256 of the certificate that it must show, over TLS"
    )
    tls: ClientTLSSettings | None = Field(default=None, description="how it is called there")


class PressureSettings(Section):
    """When we ask senders to wait: soft marks turn new associations away, hard ones every object.

    Free space of the spool's disk counts below the percentage or the megabytes, whichever is less,
    so that neither a huge nor a small disk stops early.
    """

    soft_free_percent: float = Field(
        default=10.0, ge=0, le=100, description="free space, not below the hard mark"
    )
    hard_free_percent: float = Field(default=5.0, ge=0, le=100, description="free space")
    soft_free_megabytes: int = Field(
        default=10_240, ge=0, description="free space, not below the hard mark"
    )
    hard_free_megabytes: int = Field(default=2_048, ge=0, description="free space")
    soft_queue_minutes: float = Field(
        default=10_080.0,
        ge=0,
        le=YEAR_MINUTES,
        description="how long the oldest due score job has waited; 0: no mark. A week, for workers"
        " that are down are no reason to stop forwarding",
    )
    hard_queue_minutes: float = Field(
        default=0.0, ge=0, le=YEAR_MINUTES, description="the same; not below the soft mark"
    )

    @model_validator(mode="after")
    def _soft_before_hard(self) -> Self:
        for unit in ("percent", "megabytes"):
            if getattr(self, f"soft_free_{unit}") < getattr(self, f"hard_free_{unit}"):
                raise ValueError(
                    f"soft_free_{unit} must not be below hard_free_{unit}:"
                    " the soft mark is the one that is reached first"
                )
        if 0 < self.hard_queue_minutes < self.soft_queue_minutes:
            if "soft_queue_minutes" not in self.model_fields_set:
                # Its default is of a service without a hard mark.
                self.soft_queue_minutes = self.hard_queue_minutes
                return self
            raise ValueError(
                "soft_queue_minutes must not be above hard_queue_minutes:"
                " the soft mark is the one that is reached first"
            )
        return self


class ReceiveSettings(Section):
    """The DICOM receiver."""

    ae_title: AETitle = Field(default="QCDAEMON", description="our AE title")
    host: str = Field(
        default="127.0.0.1", description="address to listen on; 0.0.0.0: every one of the machine"
    )
    port: Port = Field(default=11112, description="port to listen on; 0: a free one")
    processes: int = Field(
        default_factory=lambda: min(2, os.cpu_count() or 1),
        ge=1,
        le=64,
        description="receivers on the one port, each bound by Python's lock",
    )
    max_associations: int = Field(
        default=64, ge=1, le=10_000, description="at once, of all processes together"
    )
    max_associations_per_ae: int = Field(
        default=16, ge=0, le=10_000, description="at once with one calling AE title; 0: no cap"
    )
    artim_timeout: float = Field(
        default=10.0,
        gt=0,
        le=DAY_SECONDS,
        description="seconds that a connection may stay without a request",
    )
    network_timeout: float = Field(
        default=60.0, gt=0, le=DAY_SECONDS, description="seconds that an association may be silent"
    )
    quiet_seconds: float = Field(
        default=60.0,
        ge=0,
        le=DAY_SECONDS,
        description="seconds without an object that close an exam",
    )
    max_open_minutes: float = Field(
        default=240.0, gt=0, le=YEAR_MINUTES, description="minutes after which an exam is closed"
    )
    peer: list[PeerSettings] = Field(
        default=[], description="who may store; without any only this machine may"
    )
    tls: TLSSettings | None = Field(default=None, description="a port for TLS; none without")
    pressure: PressureSettings = PressureSettings()
