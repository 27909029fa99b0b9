"""Where objects go (`[[destination]]`, `[[rule]]`)."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from detector.anatomy import View
from qc_daemon.settings.section import (
    DAY_SECONDS,
    AETitle,
    Name,
    Patterns,
    Port,
    Secret,
    Section,
    User,
    WebAddress,
    as_list,
)
from qc_daemon.settings.tls import ClientTLSSettings

DeliveredKind = Literal["source", "sr", "overlay", "key-objects", "pdf"]


Objects = Annotated[list[DeliveredKind], BeforeValidator(as_list)]


class DestinationSettings(Section):
    """Where originals and results go: `dicom` by C-STORE, `dicomweb` by STOW-RS, into a folder, or
    reports to a server of FHIR R4 (`fhir`), as DiagnosticReport and Observation.

    `token` (Bearer) or `user` with `password` say who we are to a DICOMweb or FHIR service; the
    secrets themselves stand in the environment or in a file, read anew each time.
    """

    name: Name = Field(description="what rules, commands and metrics call it")
    kind: Literal["dicom", "dicomweb", "folder", "fhir"] = Field(
        default="dicom", description="how objects reach it"
    )
    ae_title: AETitle = Field(default="PACS", description="AE title that we call (dicom)")
    host: str = Field(default="127.0.0.1", description="its address (dicom)")
    port: Port = Field(default=104, description="its port (dicom)")
    url: WebAddress | None = Field(
        default=None, description="of the DICOMweb service, without /studies; of the FHIR server"
    )
    token: Secret | None = Field(
        default=None, description="`env:NAME` or `file:PATH` of a Bearer token (dicomweb, fhir)"
    )
    user: User | None = Field(
        default=None, description="user name (dicomweb, fhir), with `password`"
    )
    password: Secret | None = Field(
        default=None, description="`env:NAME` or `file:PATH` of the password (dicomweb, fhir)"
    )
    retrieve: bool = Field(
        default=False,
        description="whether it gives objects back by WADO-RS, so that originals may leave the"
        " spool once it has them (dicomweb; of kind dicom that is taken for granted)",
    )
    folder: Path | None = Field(
        default=None, description="where files are written (folder); it has to be there"
    )
    layout: Literal["flat", "study"] = Field(
        default="flat",
        description="of a folder: UID.dcm, or by day and exam, with PDFs and PNGs beside them",
    )
    objects: Objects = Field(
        default=["sr", "overlay"],
        description="what goes there where no rule decides; empty only where a rule names it;"
        " fhir takes sr and nothing else",
    )
    tls: ClientTLSSettings | None = Field(default=None, description="TLS towards it; none without")
    timeout: float = Field(
        default=60.0, gt=0, le=DAY_SECONDS, description="seconds to connect, and for an answer"
    )
    commitment: Literal["auto", "off", "required"] = Field(
        default="auto",
        description="whether an object counts as delivered only once the destination has committed"
        " to it. auto: where it takes such requests; required: it waits until it does; off: never",
    )
    commitment_timeout: float = Field(
        default=600.0,
        gt=0,
        le=30 * DAY_SECONDS,
        description="seconds a report may take before it is asked for again",
    )
    max_associations: int = Field(
        default=2, ge=1, le=16, description="objects on their way to it at once, of one process"
    )
    objects_per_minute: float | None = Field(
        default=None, gt=0, le=1e6, description="at most, of one process; no limit without"
    )

    @model_validator(mode="after")
    def _takes_reports(self) -> Self:
        """What is no DICOM object's receiver takes the report by default."""
        if self.kind == "fhir" and "objects" not in self.model_fields_set:
            self.objects = ["sr"]
        return self


class RuleSettings(Section):
    """Which objects go where, before what the destinations take by themselves.

    For each kind of object the first rule decides that lists it in `objects` and whose conditions
    all hold: it goes `to` these destinations and no others, or with `drop` nowhere. Where no rule
    decides, the destinations' own `objects` do. Texts are compared with shell-style patterns
    without regard to case; an absent text is empty.
    """

    name: Name = Field(description="what `rules test` calls it")
    calling_ae: Patterns | None = Field(default=None, description="AE title of the sender")
    station: Patterns | None = Field(default=None, description="Station Name (0008,1010)")
    study: Patterns | None = Field(default=None, description="Study Description (0008,1030)")
    view: Annotated[list[View], Field(min_length=1), BeforeValidator(as_list)] | None = Field(
        default=None, description="the view found"
    )
    verdict: (
        Annotated[
            list[Literal["standard", "non-standard", "review"]],
            Field(min_length=1),
            BeforeValidator(as_list),
        ]
        | None
    ) = Field(default=None, description="the verdict on it")
    objects: Objects = Field(min_length=1, description="the kinds of object it decides about")
    to: Annotated[list[str], BeforeValidator(as_list)] = Field(
        default=[], description="names of destinations"
    )
    drop: bool = Field(default=False, description="these objects go nowhere")

    @property
    def needs_findings(self) -> bool:
        """Whether it can be decided only once the object is scored."""
        return self.view is not None or self.verdict is not None
