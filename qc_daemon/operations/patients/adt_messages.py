"""What ADT messages of other systems order: A08 corrects a patient, A40 merges two.

A message is done, and the row that says so stored, in one transaction, before it is acknowledged: a
crash at any moment leaves both or neither, and the sender sends again what it has no word of. Most
patients of a hospital were never here: their messages are acknowledged and leave a row that names
nobody.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

from pydicom import dcmread
from sqlalchemy.orm import Session

from detector.errors import QCError
from qc_daemon.audit_trail.event import Actor, ActorKind
from qc_daemon.dicom.person_name import clean_name, fold_name
from qc_daemon.hl7.frames import Frame
from qc_daemon.hl7.message import (
    Header,
    Identifier,
    MessageError,
    Patient,
    PatientUpdate,
    acknowledge,
    read_header,
    read_updates,
)
from qc_daemon.observe import log
from qc_daemon.operations.patients.corrections import record_change
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.patients import changes, hl7_messages, identities
from qc_daemon.records.patients.changes import ChangeEffect, Demographics
from qc_daemon.records.results import reports
from qc_daemon.records.store import Store
from qc_daemon.records.tables import PatientAction, PatientIdentityRow
from qc_daemon.settings import Settings

_MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class _Change:
    """A change that a message led to, for the audit log."""

    action: PatientAction
    patient_id: str
    into_id: str | None
    number: int


class MessageHandler:
    """Does what each frame says; `handle` gives its acknowledgement. Safe to use from threads.

    A failure of ours is not acknowledged: senders repeat what they have no word of, and after an AE
    many do not.
    """

    def __init__(self, settings: Settings, store: Store, clock: Clock = utc_now) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._log = log.get(role="schedule")

    def handle(self, frame: Frame, caller: str) -> bytes | None:
        """The acknowledgement of a frame from an address; None where we failed, so that nothing is
        stored. Never raises for what the frame has."""
        header, now = Header(), self._clock()
        code, reason = "AA", ""
        try:
            if frame.fault is not None:
                raise MessageError("AR", frame.fault)
            header = read_header(frame.content, self._settings.hl7.character_set)
            count = self._process(frame.content, header, caller, now)
            self._log.info("hl7 message done", address=caller, kind=header.event, count=count)
        except MessageError as error:
            code, reason, header = error.code, error.reason, error.header or header
        except QCError as error:
            self._log.error("hl7 message not stored", address=caller, code=error.code.value)
            return None
        except Exception as error:
            kind, place = type(error).__name__, log.where(error)
            self._log.error(
                "hl7 message not stored", address=caller, error_type=kind, error_at=place
            )
            return None
        if reason:
            self._log.warning("hl7 message refused", address=caller, status=code, reason=reason)
        return acknowledge(header, code, reason, self._settings.receive.ae_title, now)

    def _process(self, content: bytes, header: Header, caller: str, now: datetime) -> int:
        """Do what the message says, once; how many changes that were. Raises MessageError,
        QCError."""
        updates = read_updates(content, header)
        digest = hashlib.sha256(content).hexdigest()
        sender, control_id = _storable(header.sender), _storable(header.control_id)
        by = f"HL7 {header.field(3)}".strip()[:_MAX_NAME]
        result: list[_Change] = []
        with self._store.begin() as session:
            event = header.event
            row = hl7_messages.claim(session, sender, control_id, event, digest, now)
            if row is None:
                if hl7_messages.hash_of(session, sender, control_id) != digest:
                    raise MessageError("AE", "its control id (MSH-10) was another message's")
                return 0
            identities.lock(session)
            for update in updates:
                result += self._apply(session, update, _storable(by), now)
            hl7_messages.record_changes(session, row, len(result))
        for each in result:
            actor = Actor(ActorKind.SERVICE, "hl7", caller)
            record_change(
                self._settings,
                each.action,
                each.patient_id,
                each.into_id,
                each.number,
                self._clock,
                actor,
            )
        return len(result)

    def _apply(
        self, session: Session, update: PatientUpdate, by: str, now: datetime
    ) -> list[_Change]:
        own_ids = self._own_ids(update.patient.ids)
        if not own_ids:
            return []
        patient_id, result = own_ids[0], list[_Change]()
        for prior in self._prior_ids(update):
            # Of two who were never here nothing is kept. Of one who was, images may come later.
            if prior == patient_id or not (
                identities.is_known(session, prior) or identities.is_known(session, patient_id)
            ):
                continue
            try:
                effect = changes.merge(session, prior, patient_id, by, now, is_new_id_allowed=True)
            except QCError:
                # Its words name patients.
                raise MessageError(
                    "AE", "it contradicts what was merged here before; a person has to decide"
                ) from None
            result += _change(PatientAction.MERGED, prior, patient_id, effect)
        # A number that was merged away says nothing of the patient who has its images now.
        is_current = identities.current_id(session, patient_id) == patient_id
        if is_current and identities.is_known(session, patient_id):
            difference = _difference(session, patient_id, update.patient)
            if difference.values:
                effect = changes.correct(session, patient_id, by, now, difference)
                result += _change(PatientAction.CORRECTED, patient_id, None, effect)
        return result

    def _own_ids(self, ids: tuple[Identifier, ...]) -> list[str]:
        """The numbers that machines send as Patient ID: those of our authority; without one those
        of the first number's."""
        own = self._settings.hl7.assigning_authority
        if own is None:
            return [each.number for each in ids if each.names == ids[0].names]
        return [each.number for each in ids if own.casefold() in each.names]

    def _prior_ids(self, update: PatientUpdate) -> list[str]:
        """The numbers to be merged into the patient's. Raises MessageError where an A40 has none
        that can be ours."""
        if not update.prior_ids:
            return []
        own = self._own_ids(update.prior_ids)
        # Some senders leave the authority out in MRG.
        own = own or [each.number for each in update.prior_ids if not any(each.names)]
        if not own:
            raise MessageError("AE", "no prior number (MRG-1) is of the assigning authority")
        return list(dict.fromkeys(own))


def _change(
    action: PatientAction, patient_id: str, into_id: str | None, effect: ChangeEffect
) -> list[_Change]:
    return [] if effect.number is None else [_Change(action, patient_id, into_id, effect.number)]


def _difference(session: Session, patient_id: str, patient: Patient) -> Demographics:
    """What the message says otherwise than what is known here: an A08 comes for every change of an
    address too, and must not amend reports."""
    row = session.get(PatientIdentityRow, patient_id)
    if row is not None and row.name is not None:
        names = {row.name}
    else:
        names = identities.names(session, patient_id)
    is_same_name = patient.name is None or (
        {fold_name(clean_name(each) or "") for each in names} == {fold_name(patient.name)}
    )
    dates = {row.birth_date} if row is not None and row.birth_date is not None else set()
    dates = dates or _reported_birth_dates(session, patient_id)
    is_same_date = patient.birth_date is None or dates == {patient.birth_date}
    return Demographics(
        None if is_same_name else patient.name, None if is_same_date else patient.birth_date
    )


def _reported_birth_dates(session: Session, patient_id: str) -> set[str]:
    """Birth dates that the last SR of each of the patient's exams has."""
    dates = set()
    for exam_id in identities.exam_ids(session, patient_id):
        last = reports.latest_sr(session, exam_id, before=1 << 31)
        if last is not None:
            header = dcmread(BytesIO(last.payload), specific_tags=["PatientBirthDate"])
            dates.add(str(header.get("PatientBirthDate") or ""))
    return dates


def _storable(text: str) -> str:
    """Text as both databases store it."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()
