"""Where results go: each destination is asked, and what the service knows of it is told."""

import requests

from detector.plain_text import count_of
from qc_daemon.deliver.folder import folder_problem
from qc_daemon.deliver.outcome import http_words
from qc_daemon.dicom import dicomweb
from qc_daemon.operations.destinations import (
    commitment_fault,
    commitment_words,
    destination_condition,
    unknown_destinations,
)
from qc_daemon.operations.doctor_checks.check_result import NoticeError, first_of
from qc_daemon.operations.doctor_checks.echo import (
    open_association,
    require_echo,
    require_established,
)
from qc_daemon.operations.doctor_checks.store import require_writable
from qc_daemon.records import schema
from qc_daemon.records.tables import CommitmentSupport
from qc_daemon.settings import DestinationSettings, Settings


def check_destinations(settings: Settings) -> str:
    """Whether there are any, and whether objects wait for one that the settings lack."""
    if not settings.destination:
        raise NoticeError("none is set: nothing is sent on; see [[destination]]")
    number = count_of(len(settings.destination), "is", "are")
    if schema.check(settings.store.url):
        return f"{number} set"
    lost = unknown_destinations(settings)
    if lost:
        listed = first_of(f"{count} for {name}" for name, count in lost.items())
        raise NoticeError(
            f"{number} set; objects wait for some that are not in the settings ({listed}):"
            " put them back, or see qc-daemon queue list and queue cancel"
        )
    return f"{number} set"


def check_destination(subject: tuple[Settings, DestinationSettings]) -> str:
    """Ask the destination; warn where it answers, and the service fails to send to it."""
    settings, destination = subject
    summary = _ask_destination(settings, destination)
    if schema.check(settings.store.url):
        return summary
    condition = destination_condition(settings, destination.name)
    if condition.failing_since is None:
        return summary
    raise NoticeError(
        f"{summary}; but sending to it fails since {condition.failing_since:%Y-%m-%d %H:%M} UTC"
        f" ({condition.error_code}: {condition.error_message}); see qc-daemon destination list"
    )


def _ask_destination(settings: Settings, destination: DestinationSettings) -> str:
    if destination.folder is not None and destination.kind == "folder":
        problem = folder_problem(destination.folder)
        if problem is not None:
            raise OSError(0, problem)
        return f"{require_writable(destination.folder)} is writable"
    if destination.kind == "dicomweb":
        return _check_dicomweb(destination)
    if destination.kind == "fhir":
        return _check_fhir(destination)
    _echo(destination, settings.receive.ae_title, 10)
    return f"{destination.ae_title} answers C-ECHO"


def check_commitment(subject: tuple[Settings, DestinationSettings]) -> str:
    """The commitment's state at the service's last contact; no request is sent to check it."""
    settings, destination = subject
    if schema.check(settings.store.url):
        return "nothing is known yet"
    condition = destination_condition(settings, destination.name)
    fault = commitment_fault(destination, condition)
    if fault is not None:
        raise OSError(0, fault)
    words = commitment_words(destination, condition)
    if condition.commitment == CommitmentSupport.NOT_OFFERED and destination.commitment != "off":
        raise NoticeError(words)
    return words


def _check_dicomweb(destination: DestinationSettings) -> str:
    """Search one study (QIDO-RS), which checks address, TLS and credentials; nothing is stored."""
    hasty = destination.model_copy(update={"timeout": min(10.0, destination.timeout)})
    with dicomweb.session(destination) as session:
        try:
            dicomweb.client(hasty, session).search_for_studies(limit=1)
        except requests.HTTPError as error:
            raise OSError(0, f"{destination.url} answers HTTP {_describe_status(error)}") from error
        except requests.RequestException as error:
            raise OSError(
                0, f"{destination.url} cannot be reached: {dicomweb.describe_failure(error)}"
            ) from error
        except ValueError as error:
            raise OSError(0, f"{destination.url} is no DICOMweb service") from error
    summary = f"{destination.url} answers QIDO-RS"
    secret = destination.token or destination.user
    plain = secret is not None and (destination.url or "").startswith("http:")
    return f"{summary}; credentials go there in the clear, use https" if plain else summary


def _check_fhir(destination: DestinationSettings) -> str:
    """Ask what the server can (its capability statement); nothing is stored."""
    timeout = min(10.0, destination.timeout)
    with dicomweb.session(destination) as session:
        try:
            answer = session.get(
                f"{destination.url}/metadata",
                headers={"Accept": "application/fhir+json"},
                timeout=timeout,
                allow_redirects=False,
            )
            version = str(answer.json().get("fhirVersion", "")) if answer.ok else ""
        except requests.RequestException as error:
            raise OSError(
                0, f"{destination.url} cannot be reached: {dicomweb.describe_failure(error)}"
            ) from error
        except (ValueError, AttributeError) as error:
            raise OSError(0, f"{destination.url} is no FHIR server") from error
    if not answer.ok:
        status = answer.status_code
        raise OSError(0, f"{destination.url} answers HTTP {status}, {http_words(status)}")
    if not version.startswith("4."):
        raise OSError(0, f"{destination.url} is of FHIR {version[:16] or '?'}, and not of R4 (4.0)")
    return f"{destination.url} is a server of FHIR {version}"


def _describe_status(error: requests.HTTPError) -> str:
    assert error.response is not None
    status = error.response.status_code
    return f"{status}, {http_words(status)}"


def _echo(peer: DestinationSettings, calling: str, timeout: float) -> None:
    with open_association(peer, calling, timeout) as association:
        require_established(association, peer)
        require_echo(association, peer)
