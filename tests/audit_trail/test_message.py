"""Records as DICOM audit messages: each kind by the schema and the tables of PS3.15 A.5."""

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

import qc_daemon.audit_trail.message as message_module
from qc_daemon.audit_trail.chain import AuditChain
from qc_daemon.audit_trail.event import (
    Actor,
    ActorKind,
    AuditEvent,
    AuditKind,
    AuditSource,
    Peer,
    to_body,
)
from qc_daemon.audit_trail.message import EVENTS, make_message
from qc_daemon.audit_trail.message import Code as MessageCode
from qc_daemon.audit_trail.verification import read_records

SCHEMA = Path(__file__).parents[1] / "support" / "audit_message.rng"
SOURCE = AuditSource("QCDAEMON@qc1", "qc1", "QCDAEMON", "ward 7")
AT = "2026-11-30T08:00:00.123+00:00"
LEE = Actor(ActorKind.ACCOUNT, "lee", "10.1.0.7")
ROOT = Actor(ActorKind.MACHINE_USER, "qc")
SERVICE = Actor(ActorKind.SERVICE, "receive")
US = "1.2.840.10008.5.1.4.1.1.6.1"

EXAMPLES = {
    AuditKind.START: AuditEvent(AuditKind.START, actor=ROOT, detail={"version": "0.1.0"}),
    AuditKind.STOP: AuditEvent(AuditKind.STOP, actor=ROOT),
    AuditKind.RECEIVED: AuditEvent(
        AuditKind.RECEIVED,
        actor=SERVICE,
        peer=Peer("VOLUSON1", "10.1.0.5"),
        study="1.2.3",
        patient_id="P1",
        instances={US: 12},
    ),
    AuditKind.SENT: AuditEvent(
        AuditKind.SENT,
        actor=SERVICE,
        peer=Peer("https://pacs.example.org/rs", "https://pacs.example.org/rs"),
        study="1.2.3",
        patient_id="P1",
        instances={US: 12},
    ),
    AuditKind.VIEWED: AuditEvent(
        AuditKind.VIEWED, actor=LEE, study="1.2.3", patient_id="P1", objects={"exam": "7"}
    ),
    AuditKind.SEARCHED: AuditEvent(
        AuditKind.SEARCHED,
        actor=LEE,
        objects={"exam_id": "7"},
        detail={"what": "exams", "fields": "patient, exam_id"},
    ),
    AuditKind.EXPORTED: AuditEvent(
        AuditKind.EXPORTED, actor=ROOT, detail={"what": "teaching images", "anonymized": "true"}
    ),
    AuditKind.IMPORTED: AuditEvent(AuditKind.IMPORTED, actor=ROOT, detail={"what": "findings"}),
    AuditKind.DELETED: AuditEvent(
        AuditKind.DELETED, actor=SERVICE, study="1.2.3", patient_id="P1", detail={"count": "3"}
    ),
    AuditKind.REVIEWED: AuditEvent(AuditKind.REVIEWED, actor=LEE, objects={"finding": "12"}),
    AuditKind.REJECTED: AuditEvent(
        AuditKind.REJECTED, actor=ROOT, study="1.2.3", objects={"instance": "1.2.3.4"}
    ),
    AuditKind.RETRACTED: AuditEvent(
        AuditKind.RETRACTED, actor=ROOT, study="1.2.3", objects={"instance": "1.2.3.4"}
    ),
    AuditKind.RELEASED: AuditEvent(AuditKind.RELEASED, actor=ROOT, objects={"quarantined": "4"}),
    AuditKind.DISMISSED: AuditEvent(AuditKind.DISMISSED, actor=ROOT, objects={"quarantined": "4"}),
    AuditKind.LOGIN: AuditEvent(AuditKind.LOGIN, False, LEE),
    AuditKind.LOGOUT: AuditEvent(AuditKind.LOGOUT, actor=LEE),
    AuditKind.CALLER_REFUSED: AuditEvent(
        AuditKind.CALLER_REFUSED,
        False,
        SERVICE,
        Peer("STRANGER", "10.9.9.9"),
        detail={"reason": "unknown caller"},
    ),
    AuditKind.SETTINGS_CHANGED: AuditEvent(
        AuditKind.SETTINGS_CHANGED, actor=ROOT, detail={"settings": "rule"}
    ),
    AuditKind.BUNDLE_ACTIVATED: AuditEvent(
        AuditKind.BUNDLE_ACTIVATED, actor=ROOT, objects={"model_id": "ab" * 32}
    ),
    AuditKind.SITE_CHANGED: AuditEvent(AuditKind.SITE_CHANGED, actor=ROOT, objects={"site": "a"}),
    AuditKind.PEER_CHANGED: AuditEvent(
        AuditKind.PEER_CHANGED, actor=ROOT, objects={"peer": "VOLUSON1"}, detail={"what": "removed"}
    ),
    AuditKind.ACCOUNT_CHANGED: AuditEvent(
        AuditKind.ACCOUNT_CHANGED, actor=ROOT, objects={"account": "lee"}, detail={"what": "added"}
    ),
    AuditKind.IDENTITY_CHANGED: AuditEvent(
        AuditKind.IDENTITY_CHANGED, actor=ROOT, objects={"person": "p1"}, detail={"what": "merged"}
    ),
    AuditKind.PATIENT_CHANGED: AuditEvent(
        AuditKind.PATIENT_CHANGED,
        actor=ROOT,
        patient_id="4711",
        objects={"into": "4712"},
        detail={"what": "merged"},
    ),
    AuditKind.QUEUE_CHANGED: AuditEvent(AuditKind.QUEUE_CHANGED, actor=ROOT, objects={"job": "3"}),
    AuditKind.LOG_USED: AuditEvent(
        AuditKind.LOG_USED, actor=ROOT, objects={"chain": "qc1"}, detail={"what": "exported"}
    ),
    AuditKind.LOG_REPAIRED: AuditEvent(
        AuditKind.LOG_REPAIRED, False, detail={"reason": "the head was missing"}
    ),
}
# Which entities PS3.15 A.5.3 makes mandatory: roles of participants, types of object.
_STUDY, _PATIENT, _LOG, _CRITERIA = "110180", "2", "12", "10"
NEEDED: dict[str, tuple[set[str], set[str]]] = {
    "110100": ({"110150"}, set()),
    "110101": (set(), {_LOG}),
    "110103": (set(), set()),
    "110104": ({"110153", "110152"}, {_STUDY, _PATIENT}),
    "110105": (set(), {_STUDY, _PATIENT}),
    "110106": ({"110153", "110154"}, set()),
    "110107": ({"110155", "110152"}, set()),
    "110110": (set(), {_PATIENT}),
    "110112": ({"110153", "110152"}, {_CRITERIA}),
    "110113": (set(), set()),
    "110114": (set(), set()),
}


@pytest.fixture(scope="module")
def schema() -> Any:
    return etree.RelaxNG(etree.parse(SCHEMA))


def message(event: AuditEvent) -> Any:
    return etree.fromstring(make_message(SOURCE, {"at": AT, **to_body(event)}))


@pytest.mark.parametrize("kind", AuditKind)
def test_each_kind_is_a_valid_message_with_what_its_table_asks_for(
    schema: Any, kind: AuditKind
) -> None:
    root = message(EXAMPLES[kind])
    schema.assertValid(root)
    event_id = root.find("EventIdentification/EventID").get("csd-code")
    roles = {each.get("csd-code") for each in root.iterfind("ActiveParticipant/RoleIDCode")}
    types = {each.get("csd-code") for each in root.iter("ParticipantObjectIDTypeCode")}
    needed_roles, needed_types = NEEDED[event_id]
    assert needed_roles <= roles
    assert needed_types <= types
    requestors = [each.get("UserIsRequestor") for each in root.iterfind("ActiveParticipant")]
    assert requestors.count("true") == 1


def test_codes_are_those_of_the_standard() -> None:
    every = (getattr(codes.DCM, name, None) for name in dir(codes.DCM))
    meanings = {each.value: each.meaning for each in every if isinstance(each, Code)}
    used = [value for value in vars(message_module).values() if isinstance(value, MessageCode)]
    used += [kind.event_type for kind in EVENTS.values() if kind.event_type is not None]
    assert len(used) > 20
    for code in used:
        if code.system == "DCM":
            assert meanings[code.value] == code.meaning


def test_a_received_study_says_from_whom_to_whom_and_what() -> None:
    root = message(EXAMPLES[AuditKind.RECEIVED])
    source, destination = root.findall("ActiveParticipant")
    assert (source.get("UserID"), source.get("NetworkAccessPointID")) == ("VOLUSON1", "10.1.0.5")
    assert source.get("NetworkAccessPointTypeCode") == "2"
    assert (destination.get("UserID"), destination.get("NetworkAccessPointTypeCode")) == (
        "QCDAEMON",
        "1",
    )
    study, patient = root.findall("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectID") == "1.2.3"
    sop_class = study.find("ParticipantObjectDescription/SOPClass")
    assert dict(sop_class.attrib) == {"UID": US, "NumberOfInstances": "12"}
    assert patient.get("ParticipantObjectID") == "P1"
    assert patient.findtext("ParticipantObjectName") == ""


def test_a_failure_says_so() -> None:
    refused = message(EXAMPLES[AuditKind.CALLER_REFUSED]).find("EventIdentification")
    assert refused.get("EventOutcomeIndicator") == "4"
    assert refused.findtext("EventOutcomeDescription") == "unknown caller"


def test_a_search_has_its_fields_and_no_words_of_a_person() -> None:
    query = message(EXAMPLES[AuditKind.SEARCHED]).find(".//ParticipantObjectQuery").text
    assert base64.b64decode(query).decode() == "patient, exam_id; exam_id=7"


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=700), number=st.integers(1, 10**6))
def test_whatever_was_typed_makes_a_valid_message(
    schema: Any, tmp_path_factory: pytest.TempPathFactory, text: str, number: int
) -> None:
    odd = AuditEvent(
        AuditKind.SENT,
        actor=Actor(ActorKind.ACCOUNT, text, text),
        peer=Peer(text, text),
        study=text,
        patient_id=text,
        instances={text: number},
        objects={"instance": text},
        detail={"what": text},
    )
    folder = tmp_path_factory.mktemp("log")
    AuditChain(folder).append([(datetime(2026, 11, 30, tzinfo=UTC), odd)])
    ((_, body),) = read_records(folder)
    schema.assertValid(etree.fromstring(make_message(SOURCE, body)))
