"""What DICOM peers can do: destinations take the classes that go there, machines take reports."""

from ipaddress import ip_network

from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from detector.plain_text import count_of
from qc_daemon.deliver.fallback import REPORT_CLASSES
from qc_daemon.dicom.association import associate, requestor
from qc_daemon.dicom.association_failure import cause
from qc_daemon.dicom.tls import tls_args
from qc_daemon.dicom.uids import VERIFICATION
from qc_daemon.operations.doctor_checks.check_result import NoticeError
from qc_daemon.settings import DestinationSettings, PeerSettings, Settings

_SECONDS = 10.0
# Of each kind of object one of the classes has to be taken.
_CLASSES: dict[str, tuple[tuple[str, ...], str]] = {
    "source": (
        (str(UltrasoundImageStorage), str(UltrasoundMultiFrameImageStorage)),
        "ultrasound images",
    ),
    "sr": (REPORT_CLASSES, "structured reports, nor pictures in their place"),
    "overlay": ((str(SecondaryCaptureImageStorage),), "secondary captures (overlays)"),
    "key-objects": ((str(KeyObjectSelectionDocumentStorage),), "key object selections"),
    "pdf": ((str(EncapsulatedPDFStorage),), "encapsulated PDF"),
}


def check_capabilities(subject: tuple[Settings, DestinationSettings]) -> str:
    """Which of the kinds of object that go to the destination it negotiates; nothing is stored.

    Raises OSError where there is no association, NoticeError for a kind that it does not take.
    """
    settings, destination = subject
    kinds = set(destination.objects)
    for rule in settings.rule:
        if destination.name in rule.to:
            kinds |= set(rule.objects)
    entity = requestor(settings.receive.ae_title, _SECONDS)
    for kind in sorted(kinds):
        for uid in _CLASSES[kind][0]:
            if uid not in {str(each.abstract_syntax) for each in entity.requested_contexts}:
                entity.add_requested_context(uid)
    association = associate(
        entity,
        destination.host,
        destination.port,
        ae_title=destination.ae_title,
        tls_args=tls_args(destination),
    )
    if not association.is_established:
        why = cause(association, destination.host, destination.port, tls_args(destination))
        raise OSError(0, f"{destination.ae_title}@{destination.host}:{destination.port}: {why}")
    taken = {str(each.abstract_syntax) for each in association.accepted_contexts}
    association.release()
    refused = [
        words
        for kind, (classes, words) in _CLASSES.items()
        if kind in kinds and not taken & set(classes)
    ]
    if refused:
        raise NoticeError(
            f"{destination.ae_title} takes no {'; no '.join(refused)}: allow them there, or take"
            f" them out of what goes to {destination.name}"
        )
    return f"{destination.ae_title} takes {', '.join(sorted(kinds))}"


def check_peers(settings: Settings) -> str:
    """The peers of the settings: distinct, and those that take reports answer C-ECHO.

    Raises OSError for one that does not answer, NoticeError for what lets in too many or nobody.
    """
    peers = settings.receive.peer
    notices = [
        f"{each.ae_title} may call from anywhere (address 0.0.0.0/0); give its network"
        for each in peers
        if ip_network(each.address, strict=False).prefixlen == 0
    ]
    seen: set[tuple[str, str]] = set()
    for each in peers:
        key = (each.ae_title, str(ip_network(each.address, strict=False)))
        if key in seen:
            notices.append(f"{each.ae_title} is listed twice for {each.address}; remove one")
        seen.add(key)
    asked = [each for each in peers if each.port is not None and _host(each) is not None]
    for each in asked:
        _echo(settings, each)
    if notices:
        raise NoticeError("; ".join(notices))
    answered = f", {count_of(len(asked), 'answers', 'answer')} C-ECHO" if asked else ""
    return f"{count_of(len(peers), 'peer')} in the settings{answered}"


def _host(peer: PeerSettings) -> str | None:
    """The address of a peer that is one machine."""
    network = ip_network(peer.address, strict=False)
    return str(network.network_address) if network.num_addresses == 1 else None


def _echo(settings: Settings, peer: PeerSettings) -> None:
    host = _host(peer)
    assert host is not None
    assert peer.port is not None
    called = DestinationSettings(
        name="peer", ae_title=peer.ae_title, host=host, port=peer.port, tls=peer.tls
    )
    entity = requestor(settings.receive.ae_title, _SECONDS)
    entity.add_requested_context(VERIFICATION)
    association = associate(
        entity, host, peer.port, ae_title=peer.ae_title, tls_args=tls_args(called)
    )
    where = f"peer {peer.ae_title}@{host}:{peer.port}, which takes commitment reports"
    if not association.is_established:
        why = cause(association, host, peer.port, tls_args(called))
        raise OSError(0, f"{where}: {why}; correct its port or address, or remove port")
    try:
        status = association.send_c_echo()
    finally:
        association.release()
    if not status or status.Status != 0x0000:
        raise OSError(0, f"{where}, does not answer C-ECHO")
