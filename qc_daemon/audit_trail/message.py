"""A record as a DICOM audit message (PS3.15 A.5): an XML document in UTF-8.

EVENTS says for each kind of record which message of PS3.15 A.5.3 it is. Codes are of CID 400 to 405
and RFC 3881, as A.5.1.2 lists them. Names of patients are left out, which A.5.3 allows: an empty
ParticipantObjectName stands where the schema asks for a name or a query.
"""

import base64
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from qc_daemon.audit_trail.event import (
    Actor,
    ActorKind,
    AuditEvent,
    AuditKind,
    AuditSource,
    Peer,
    from_body,
)


@dataclass(frozen=True, slots=True)
class Code:
    """A coded value: csd-code, codeSystemName, originalText."""

    value: str
    meaning: str
    system: str = "DCM"


@dataclass(frozen=True, slots=True)
class MessageKind:
    """EventID, EventActionCode and EventTypeCode of a kind of record."""

    event_id: Code
    action: str
    event_type: Code | None = None


_ACTIVITY = Code("110100", "Application Activity")
_LOG_USED = Code("110101", "Audit Log Used")
_ACCESSED = Code("110103", "DICOM Instances Accessed")
_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
_DELETED = Code("110105", "DICOM Study Deleted")
_EXPORT = Code("110106", "Export")
_IMPORT = Code("110107", "Import")
_PATIENT_RECORD = Code("110110", "Patient Record")
_QUERY = Code("110112", "Query")
_ALERT = Code("110113", "Security Alert")
_AUTHENTICATION = Code("110114", "User Authentication")

EVENTS: dict[AuditKind, MessageKind] = {
    AuditKind.START: MessageKind(_ACTIVITY, "E", Code("110120", "Application Start")),
    AuditKind.STOP: MessageKind(_ACTIVITY, "E", Code("110121", "Application Stop")),
    AuditKind.RECEIVED: MessageKind(_TRANSFERRED, "C"),
    AuditKind.SENT: MessageKind(_TRANSFERRED, "R"),
    AuditKind.VIEWED: MessageKind(_ACCESSED, "R"),
    AuditKind.SEARCHED: MessageKind(_QUERY, "E"),
    AuditKind.EXPORTED: MessageKind(_EXPORT, "R"),
    AuditKind.IMPORTED: MessageKind(_IMPORT, "C"),
    AuditKind.DELETED: MessageKind(_DELETED, "D"),
    AuditKind.REVIEWED: MessageKind(_ACCESSED, "U"),
    AuditKind.REJECTED: MessageKind(_ACCESSED, "U"),
    AuditKind.RETRACTED: MessageKind(_ACCESSED, "U"),
    AuditKind.RELEASED: MessageKind(_ACCESSED, "U"),
    AuditKind.DISMISSED: MessageKind(_ACCESSED, "U"),
    AuditKind.LOGIN: MessageKind(_AUTHENTICATION, "E", Code("110122", "Login")),
    AuditKind.LOGOUT: MessageKind(_AUTHENTICATION, "E", Code("110123", "Logout")),
    AuditKind.CALLER_REFUSED: MessageKind(_ALERT, "E", Code("110126", "Node Authentication")),
    AuditKind.SETTINGS_CHANGED: MessageKind(_ALERT, "E", Code("110131", "Software Configuration")),
    AuditKind.BUNDLE_ACTIVATED: MessageKind(_ALERT, "E", Code("110131", "Software Configuration")),
    AuditKind.SITE_CHANGED: MessageKind(_ALERT, "E", Code("110131", "Software Configuration")),
    AuditKind.PEER_CHANGED: MessageKind(_ALERT, "E", Code("110128", "Network Configuration")),
    AuditKind.ACCOUNT_CHANGED: MessageKind(
        _ALERT, "E", Code("110137", "User Security Attributes Changed")
    ),
    AuditKind.IDENTITY_CHANGED: MessageKind(
        _ALERT, "E", Code("110132", "Use of Restricted Function")
    ),
    AuditKind.PATIENT_CHANGED: MessageKind(_PATIENT_RECORD, "U"),
    AuditKind.QUEUE_CHANGED: MessageKind(_ALERT, "E", Code("110132", "Use of Restricted Function")),
    AuditKind.LOG_USED: MessageKind(_LOG_USED, "R"),
    AuditKind.LOG_REPAIRED: MessageKind(_ALERT, "E", Code("110134", "Audit Recording Started")),
}
"""The message of each kind of record."""

_APPLICATION = Code("110150", "Application")
_LAUNCHER = Code("110151", "Application Launcher")
_DESTINATION = Code("110152", "Destination Role ID")
_SOURCE = Code("110153", "Source Role ID")
_DESTINATION_MEDIA = Code("110154", "Destination Media")
_SOURCE_MEDIA = Code("110155", "Source Media")
_URI_MEDIA = Code("110037", "URI")
_STUDY = Code("110180", "Study Instance UID")
_NODE = Code("110182", "Node ID")
_PATIENT_NUMBER = Code("2", "Patient Number", "RFC-3881")
_SEARCH_CRITERIA = Code("10", "Search Criteria", "RFC-3881")
_URI = Code("12", "URI", "RFC-3881")
_APPLICATION_SERVER = "4"  # AuditSourceTypeCode (PS3.15 A.5.1.2.1)
_SUCCESS, _MINOR_FAILURE = "0", "4"
LOG_NAME = "Security Audit Log"


def make_message(source: AuditSource, record: Mapping[str, Any]) -> bytes:
    """The message of a record, one line. Raises KeyError, TypeError or ValueError for a record of
    another form."""
    event = from_body(record)
    kind = EVENTS[event.kind]
    root = ET.Element("AuditMessage")
    _identify(root, kind, event, record["at"])
    for participant in _participants(kind, event, source):
        root.append(participant)
    attributes = {"AuditSourceID": source.id}
    if source.enterprise_site is not None:
        attributes["AuditEnterpriseSiteID"] = source.enterprise_site
    reporter = ET.SubElement(root, "AuditSourceIdentification", attributes)
    ET.SubElement(reporter, "AuditSourceTypeCode", {"csd-code": _APPLICATION_SERVER})
    for each in _objects(kind, event, source):
        root.append(each)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()


def _identify(root: ET.Element, kind: MessageKind, event: AuditEvent, at: str) -> None:
    element = ET.SubElement(
        root,
        "EventIdentification",
        {
            "EventActionCode": kind.action,
            "EventDateTime": at,
            "EventOutcomeIndicator": _SUCCESS if event.is_success else _MINOR_FAILURE,
        },
    )
    _add_code(element, "EventID", kind.event_id)
    if kind.event_type is not None:
        _add_code(element, "EventTypeCode", kind.event_type)
    if not event.is_success and "reason" in event.detail:
        ET.SubElement(element, "EventOutcomeDescription").text = event.detail["reason"]


def _participants(
    kind: MessageKind, event: AuditEvent, source: AuditSource
) -> Iterator[ET.Element]:
    """Who took part, by the table of the message: we, the other side, the person."""
    us = Actor(ActorKind.SERVICE, source.ae_title, source.host)
    person = event.actor if event.actor and event.actor.kind != ActorKind.SERVICE else None
    requestor = event.actor or us
    if kind.event_id == _TRANSFERRED:
        peer = _as_actor(event.peer)
        is_ours = kind.action == "R"
        yield _participant(us if is_ours else peer, _SOURCE, is_requestor=True)
        yield _participant(peer if is_ours else us, _DESTINATION)
        return
    if kind.event_id == _ACTIVITY:
        yield _participant(us, _APPLICATION)
        yield _participant(requestor, _LAUNCHER, is_requestor=True)
        return
    if kind.event_id in (_EXPORT, _IMPORT):
        yield _participant(requestor, is_requestor=True)
        is_export = kind.event_id == _EXPORT
        yield _participant(us, _SOURCE if is_export else _DESTINATION)
        medium = Actor(ActorKind.SERVICE, event.detail.get("what", "file"))
        role = _DESTINATION_MEDIA if is_export else _SOURCE_MEDIA
        yield _participant(medium, role, media=_URI_MEDIA)
        return
    if kind.event_id == _QUERY:
        yield _participant(requestor, _SOURCE, is_requestor=True)
        yield _participant(us, _DESTINATION)
        return
    if kind.event_id == _ALERT and event.peer is not None:
        yield _participant(us, is_requestor=True)
        yield _participant(_as_actor(event.peer))
        return
    yield _participant(requestor, is_requestor=True)
    if person is not None:
        yield _participant(us)


def _as_actor(peer: Peer | None) -> Actor:
    if peer is None:
        return Actor(ActorKind.SERVICE, "unknown")
    return Actor(ActorKind.SERVICE, peer.id, peer.address)


def _participant(
    actor: Actor, role: Code | None = None, *, is_requestor: bool = False, media: Code | None = None
) -> ET.Element:
    attributes = {"UserID": actor.id, "UserIsRequestor": "true" if is_requestor else "false"}
    if actor.address:
        attributes["NetworkAccessPointID"] = actor.address
        attributes["NetworkAccessPointTypeCode"] = _access_point_type(actor.address)
    element = ET.Element("ActiveParticipant", attributes)
    if role is not None:
        _add_code(element, "RoleIDCode", role)
    if media is not None:
        _add_code(ET.SubElement(element, "MediaIdentifier"), "MediaType", media)
    return element


def _access_point_type(address: str) -> str:
    """1: name of a machine, 2: IP address, 5: URI (PS3.15 A.5.1.1)."""
    if urlsplit(address).scheme in ("http", "https", "file"):
        return "5"
    try:
        ip_address(address)
    except ValueError:
        return "1"
    return "2"


def _objects(kind: MessageKind, event: AuditEvent, source: AuditSource) -> Iterator[ET.Element]:
    """What it was about, by the table of the message."""
    if kind.event_id == _QUERY:
        yield _query(event)
        return
    if kind.event_id == _LOG_USED:
        uri = f"qc-daemon:audit-log/{event.objects.get('chain', source.host)}"
        yield _object(uri, _URI, "2", "13", name=LOG_NAME, details=event.detail)
        return
    if event.study is not None:
        study = _object(event.study, _STUDY, "2", "3", details=_facts(event))
        if event.instances or event.detail.get("anonymized"):
            description = ET.SubElement(study, "ParticipantObjectDescription")
            for uid, number in sorted(event.instances.items()):
                ET.SubElement(
                    description, "SOPClass", {"UID": uid, "NumberOfInstances": str(number)}
                )
        yield study
    if event.patient_id is not None:
        yield _object(event.patient_id, _PATIENT_NUMBER, "1", "1")
    if event.study is None and kind.event_id not in (_AUTHENTICATION, _ACTIVITY):
        subject = ", ".join(f"{name} {value}" for name, value in event.objects.items())
        code = _NODE if kind.event_id == _ALERT else _URI
        text = subject or event.detail.get("what", source.id)
        element = _object(text, code, "2", "13", details=_facts(event))
        if event.detail.get("anonymized") == "true":
            description = ET.SubElement(element, "ParticipantObjectDescription")
            ET.SubElement(description, "Anonymized").text = "true"
        yield element


def _facts(event: AuditEvent) -> dict[str, str]:
    """Details of an object; an alert's words are of the type that A.5.3.11 names."""
    facts = dict(event.objects) | dict(event.detail)
    if EVENTS[event.kind].event_id == _ALERT:
        words = ", ".join(f"{name}: {value}" for name, value in event.detail.items())
        return {"Alert Description": words or str(event.kind)}
    return facts


def _query(event: AuditEvent) -> ET.Element:
    """The search's fields and ids (`searches.record_search`), for what was typed may be a name."""
    words = [f"{name}={value}" for name, value in event.objects.items()]
    text = "; ".join([event.detail.get("fields", ""), *words])
    element = _object(event.detail.get("what", "search"), _SEARCH_CRITERIA, "2", "24", name=None)
    query = ET.SubElement(element, "ParticipantObjectQuery")
    query.text = _base64(text)
    return element


def _object(
    id: str,
    id_type: Code,
    type_code: str,
    role: str,
    *,
    name: str | None = "",
    details: Mapping[str, str] | None = None,
) -> ET.Element:
    element = ET.Element(
        "ParticipantObjectIdentification",
        {
            "ParticipantObjectID": id,
            "ParticipantObjectTypeCode": type_code,
            "ParticipantObjectTypeCodeRole": role,
        },
    )
    _add_code(element, "ParticipantObjectIDTypeCode", id_type)
    if name is not None:
        ET.SubElement(element, "ParticipantObjectName").text = name
    for key, value in (details or {}).items():
        attributes = {"type": key, "value": _base64(value)}
        ET.SubElement(element, "ParticipantObjectDetail", attributes)
    return element


def _add_code(parent: ET.Element, name: str, code: Code) -> None:
    attributes = {
        "csd-code": code.value,
        "codeSystemName": code.system,
        "originalText": code.meaning,
    }
    ET.SubElement(parent, name, attributes)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
