"""The modality worklist (`[worklist]`)."""

from pydantic import Field

from qc_daemon.settings.section import DAY_SECONDS, AETitle, Port, Section
from qc_daemon.settings.tls import ClientTLSSettings


class WorklistSettings(Section):
    """Asked (C-FIND) for what images lack: accession number, operator, patient's age. Off unless a
    host is named; scoring never waits for it."""

    ae_title: AETitle = Field(default="WORKLIST", description="AE title that we call")
    host: str | None = Field(default=None, description="its address; without, nobody is asked")
    port: Port = Field(default=104, description="its port")
    tls: ClientTLSSettings | None = Field(default=None, description="TLS towards it; none without")
    timeout: float = Field(
        default=10.0, gt=0, le=DAY_SECONDS, description="seconds to connect, and for an answer"
    )
