"""Reviews: the events of each finding as they came, and what they add up to.

Rows are only added. The unique number of an event within its finding is what two reviewers at once
meet at: the second one's insert does nothing.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from detector.anatomy import View
from qc_daemon.records.acquisition import identities
from qc_daemon.records.listings import ALL, Window
from qc_daemon.records.received.revisions import RevisionFacts, as_facts, select_facts
from qc_daemon.records.tables import (
    AcquisitionOperator,
    AcquisitionRow,
    Exam,
    Finding,
    IdentityKind,
    Instance,
    Person,
    ReviewEvent,
    Revision,
    RevisionState,
)
from qc_daemon.records.upsert import insert_once
from qc_daemon.review.drawing import NEW_DEVICE, NEW_PERSON
from qc_daemon.review.events import READINGS, Draw, Event, EventKind, name_words
from qc_daemon.review.state import ReviewState, current_state

# So many findings' events are asked for at once: a statement has a limited number of parameters.
_PAGE = 500
_READABLE = (RevisionState.SCORED, RevisionState.HEADER)


@dataclass(frozen=True, slots=True)
class FindingKey:
    """What names a finding in every database: image, revision of its content, frame, region and
    models."""

    sop_instance_uid: str
    revision: int
    frame: int
    region: int
    model_id: str

    def __str__(self) -> str:
        return f"{self.sop_instance_uid}/{self.revision}/{self.frame}/{self.region}/{self.model_id}"


@dataclass(frozen=True, slots=True)
class ReviewableFinding:
    """A stored finding for review, with its events so far.

    `reported` are the contents that reports show it for, by exam; empty where a later content of
    the image replaced it (`replaced_by`: the findings that stand now) or it is in quarantine.
    `file` is the revision whose file has its pixels.
    """

    finding_id: int
    key: FindingKey
    body: dict[str, Any]
    file: RevisionFacts
    reported: dict[int, RevisionFacts]
    replaced_by: tuple[int, ...]
    history: tuple[Event, ...]

    @property
    def verdict(self) -> str:
        """What the models say of its quality."""
        return str(self.body["quality"]["label"])

    @property
    def answer(self) -> tuple[View, str | None]:
        """View and verdict of the models, as a reading has them: no verdict for OTHER."""
        return model_answer(self.body)


def model_answer(body: Mapping[str, Any]) -> tuple[View, str | None]:
    """View and verdict of a finding's JSON object, as a reading has them: no verdict for OTHER."""
    view = View(body["view"]["code"])
    return view, None if view is View.OTHER else str(body["quality"]["label"])


def append(session: Session, finding_id: int, event: Event) -> bool:
    """Add the event; False if one of this number is there already."""
    values = {
        "finding_id": finding_id,
        "number": event.number,
        "kind": event.kind,
        "reader": event.reader,
        "at": event.at,
        "revision": event.revision,
        "model_id": event.model_id,
        "view": event.view,
        "verdict": event.verdict,
        "criteria": dict(event.criteria),
        "reason": event.reason,
        "remark": event.remark,
        "reader_number": event.reader_number,
        "is_blinded": event.is_blinded,
        "seconds": event.seconds,
        "drawn_by": _rules(event.draw),
        "drawn_probability": event.draw and event.draw.probability,
        "second_by": _rules(event.second),
        "second_probability": event.second and event.second.probability,
    }
    return insert_once(session, ReviewEvent, values, ("finding_id", "number")) is not None


def histories(session: Session, finding_ids: Collection[int]) -> dict[int, tuple[Event, ...]]:
    """The events of those of the findings that have any, in order."""
    ids, events = sorted(finding_ids), dict[int, list[Event]]()
    for start in range(0, len(ids), _PAGE):
        rows = session.execute(
            select(*ReviewEvent.__table__.c)
            .where(ReviewEvent.finding_id.in_(ids[start : start + _PAGE]))
            .order_by(ReviewEvent.finding_id, ReviewEvent.number)
        )
        for row in rows:
            events.setdefault(row.finding_id, []).append(_event(row))
    return {finding_id: tuple(of_finding) for finding_id, of_finding in events.items()}


def outcomes(session: Session, finding_ids: Collection[int]) -> dict[int, ReviewState]:
    """The states of those of the findings that a person's verdict stands for."""
    states = {id: current_state(events) for id, events in histories(session, finding_ids).items()}
    return {finding_id: state for finding_id, state in states.items() if state.outcome is not None}


def reported_outcomes(session: Session, finding_ids: Collection[int]) -> dict[int, ReviewState]:
    """As `outcomes`, as reports have them (`ReviewState.as_reported`): without first readings that
    a blinded one is to follow, whose reader must not come upon them, or contradicts."""
    reported = {id: each.as_reported() for id, each in outcomes(session, finding_ids).items()}
    return {finding_id: state for finding_id, state in reported.items() if state.outcome}


def waiting_for_second_reading(session: Session, limit: int, after: int) -> list[tuple[int, int]]:
    """Of findings that a blinded reading was asked for, and that nobody has read since, the id of
    the event that asked and the finding's, the longest waiting first; events above `after`."""
    later = aliased(ReviewEvent)
    is_answered = exists().where(
        later.finding_id == ReviewEvent.finding_id,
        later.number > ReviewEvent.number,
        later.kind.in_((*READINGS, EventKind.DISPUTE, EventKind.RESOLVE)),
    )
    rows = session.execute(
        select(ReviewEvent.id, ReviewEvent.finding_id)
        .where(
            ReviewEvent.id > after,
            or_(ReviewEvent.kind == EventKind.DISPUTE, ReviewEvent.second_by.is_not(None)),
            ~is_answered,
        )
        .order_by(ReviewEvent.id)
        .limit(limit)
    )
    return [(row.id, row.finding_id) for row in rows]


def find(session: Session, key: FindingKey) -> int | None:
    """The id of the finding with this key, None if there is none."""
    return session.execute(
        select(Finding.id)
        .join(Revision, Revision.id == Finding.revision_id)
        .join(Instance, Instance.id == Revision.instance_id)
        .where(
            Instance.sop_instance_uid == key.sop_instance_uid,
            Revision.number == key.revision,
            Finding.frame == key.frame,
            Finding.region == key.region,
            Finding.model_id == key.model_id,
        )
    ).scalar_one_or_none()


def exams_of(session: Session, finding_ids: Collection[int]) -> set[int]:
    """The exams that these findings' contents came under, whether or not they still stand."""
    ids, exam_ids = sorted(finding_ids), set[int]()
    of_instance = aliased(Revision)
    for start in range(0, len(ids), _PAGE):
        exam_ids.update(
            session.scalars(
                select(of_instance.exam_id)
                .join(Revision, Revision.instance_id == of_instance.instance_id)
                .join(Finding, Finding.revision_id == Revision.id)
                .where(Finding.id.in_(ids[start : start + _PAGE]))
                .distinct()
            )
        )
    return exam_ids


def reviewable(session: Session, finding_id: int) -> ReviewableFinding | None:
    """The finding for review, None if there is no such finding."""
    row = session.execute(
        select_facts()
        .add_columns(Finding.body, Finding.frame, Finding.region, Finding.model_id)
        .join(Finding, Finding.revision_id == Revision.id)
        .where(Finding.id == finding_id)
    ).one_or_none()
    if row is None:
        return None
    facts = as_facts(row)
    newest = _newest_contents(session, facts.instance_id)
    standing = {row.source_revision_id or row.revision_id for row in newest.values()}
    replaced_by = session.scalars(
        select(Finding.id).where(Finding.revision_id.in_(standing)).order_by(Finding.id)
    )
    return ReviewableFinding(
        finding_id=finding_id,
        key=FindingKey(facts.sop_instance_uid, facts.number, row.frame, row.region, row.model_id),
        body=row.body,
        file=facts,
        reported={
            exam_id: as_facts(each)
            for exam_id, each in newest.items()
            if (each.source_revision_id or each.revision_id) == facts.revision_id
        },
        replaced_by=tuple(replaced_by),
        history=histories(session, [finding_id]).get(finding_id, ()),
    )


def _newest_contents(session: Session, instance_id: int) -> dict[int, Row[Any]]:
    """The newest readable content of the instance in each exam that it came under."""
    rows = session.execute(
        select_facts()
        .add_columns(Revision.source_revision_id)
        .where(Revision.instance_id == instance_id, Revision.state.in_(_READABLE))
        .order_by(Revision.number)
    )
    return {row.exam_id: row for row in rows}


@dataclass(frozen=True, slots=True)
class ReviewedFinding:
    """A finding that a person's verdict stands for, to learn, calibrate or count from.

    `state.outcome` is that verdict. `first` is the first reading; `first.draw` says how the
    finding came to it. `site` (`site_key`), `device_id` (merges are followed) and
    whether the picture has text in it are of the image's header, None where that does not say.
    """

    finding_id: int
    key: FindingKey
    exam_id: int
    patient_id: str
    body: dict[str, Any]
    state: ReviewState
    file: RevisionFacts
    site: str | None = None
    device_id: str | None = None
    has_burned_in_text: bool | None = None

    @property
    def first(self) -> Event:
        """The first reading."""
        return self.state.readings[0]

    @property
    def weight(self) -> float | None:
        """For how many findings this one stands: the inverse of the probability that it was drawn
        with; None where the reader chose it, so that it stands for itself alone."""
        draw = self.first.draw
        return None if draw is None else 1.0 / draw.probability


def reviewed_findings(
    session: Session, window: Window = ALL, *, settled_only: bool = True
) -> Iterator[ReviewedFinding]:
    """The findings that a person's verdict stands for, by id, also of replaced contents: a picture
    that was judged is still that picture.

    The window is about the first reading. With `settled_only` none that waits for a second reading
    or whose readings disagree.
    """
    first = (
        select(ReviewEvent.finding_id, func.min(ReviewEvent.at).label("at"))
        .where(ReviewEvent.kind.in_(READINGS))
        .group_by(ReviewEvent.finding_id)
        .subquery()
    )
    statement = select(first.c.finding_id).order_by(first.c.finding_id)
    if window.since is not None:
        statement = statement.where(first.c.at >= window.since)
    if window.until is not None:
        statement = statement.where(first.c.at < window.until)
    ids = session.scalars(statement.limit(window.limit)).all()
    for start in range(0, len(ids), _PAGE):
        yield from _reviewed_page(session, ids[start : start + _PAGE], settled_only)


def _reviewed_page(
    session: Session, ids: Collection[int], settled_only: bool
) -> Iterator[ReviewedFinding]:
    states = outcomes(session, ids)
    devices = identities.roots(session, IdentityKind.DEVICE)
    rows = session.execute(
        select_facts()
        .add_columns(
            Finding.id.label("finding_id"),
            Finding.body,
            Finding.frame,
            Finding.region,
            Finding.model_id,
            Exam.patient_id,
            AcquisitionRow.site,
            AcquisitionRow.device_id,
            AcquisitionRow.burned_in_annotation,
        )
        .join(Finding, Finding.revision_id == Revision.id)
        .join(AcquisitionRow, AcquisitionRow.revision_id == Revision.id, isouter=True)
        .where(Finding.id.in_(ids))
        .order_by(Finding.id)
    )
    for row in rows:
        state = states.get(row.finding_id)
        if state is None or not state.readings or (settled_only and not state.is_settled):
            continue
        facts = as_facts(row)
        yield ReviewedFinding(
            row.finding_id,
            FindingKey(facts.sop_instance_uid, facts.number, row.frame, row.region, row.model_id),
            facts.exam_id,
            row.patient_id,
            row.body,
            state,
            facts,
            row.site,
            devices.get(row.device_id, row.device_id),
            row.burned_in_annotation,
        )


def iter_events(
    session: Session, window: Window = ALL
) -> Iterator[tuple[int, FindingKey, tuple[Event, ...]]]:
    """Each finding with events within the window, by id: its key and its whole history."""
    statement = window.where(select(ReviewEvent.finding_id), ReviewEvent.at)
    ids = session.scalars(statement.distinct().order_by(ReviewEvent.finding_id)).all()
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        events = histories(session, page)
        keys = _keys(session, page)
        yield from ((finding_id, keys[finding_id], events[finding_id]) for finding_id in page)


def _keys(session: Session, ids: Collection[int]) -> dict[int, FindingKey]:
    rows = session.execute(
        select(
            Finding.id,
            Instance.sop_instance_uid,
            Revision.number,
            Finding.frame,
            Finding.region,
            Finding.model_id,
        )
        .join(Revision, Revision.id == Finding.revision_id)
        .join(Instance, Instance.id == Revision.instance_id)
        .where(Finding.id.in_(ids))
    )
    return {row.id: FindingKey(*row[1:]) for row in rows}


def novelties(session: Session, revision_id: int, new_after: int) -> frozenset[str]:
    """NEW_PERSON, NEW_DEVICE: whether a person who scanned the revision, or its device, has fewer
    than so many images; merged ones count together."""
    persons = set(
        session.scalars(
            select(AcquisitionOperator.person_id).where(
                AcquisitionOperator.revision_id == revision_id
            )
        )
    )
    device = session.scalars(
        select(AcquisitionRow.device_id).where(AcquisitionRow.revision_id == revision_id)
    ).one_or_none()
    known_words = set()
    for kind, ids, word in (
        (IdentityKind.PERSON, persons, NEW_PERSON),
        (IdentityKind.DEVICE, {device} if device else set(), NEW_DEVICE),
    ):
        groups = [identities.members(session, kind, id) or {id} for id in ids]
        if any(_count_images(session, kind, group) < new_after for group in groups):
            known_words.add(word)
    return frozenset(known_words)


def _count_images(session: Session, kind: IdentityKind, ids: Collection[str]) -> int:
    images = func.count(Revision.instance_id.distinct())
    if kind is IdentityKind.PERSON:
        statement = (
            select(images)
            .join(AcquisitionOperator, AcquisitionOperator.revision_id == Revision.id)
            .where(AcquisitionOperator.person_id.in_(ids))
        )
    else:
        statement = (
            select(images)
            .join(AcquisitionRow, AcquisitionRow.revision_id == Revision.id)
            .where(AcquisitionRow.device_id.in_(ids))
        )
    return session.execute(statement).scalar_one()


def names_of(session: Session, name: str) -> frozenset[tuple[str, ...]]:
    """The names, as `name_words` has them, that count for the same person as this one now: those of
    persons who were merged; the name itself among them."""
    rows = session.execute(select(Person.id, Person.name, Person.received_name)).all()
    roots = identities.roots(session, IdentityKind.PERSON)
    names: dict[str, set[tuple[str, ...]]] = {}
    for row in rows:
        of_person = names.setdefault(roots.get(row.id, row.id), set())
        of_person.update(name_words(each) for each in (row.name, row.received_name) if each)
    own = name_words(name)
    return frozenset({own}.union(*(each for each in names.values() if own in each)))


def operator_names(session: Session, revision_id: int) -> list[str]:
    """The names of those who scanned the revision, as received and as given."""
    rows = session.execute(
        select(Person.name, Person.received_name)
        .join(AcquisitionOperator, AcquisitionOperator.person_id == Person.id)
        .where(AcquisitionOperator.revision_id == revision_id)
    )
    return [name for row in rows for name in row if name]


def _rules(draw: Draw | None) -> str | None:
    return None if draw is None else ",".join(draw.rules)


def _draw(rules: str | None, probability: float | None) -> Draw | None:
    if rules is None or probability is None:
        return None
    return Draw(tuple(rules.split(",")), probability)


def _event(row: Any) -> Event:
    return Event(
        number=row.number,
        kind=EventKind(row.kind),
        reader=row.reader,
        at=row.at,
        revision=row.revision,
        model_id=row.model_id,
        view=None if row.view is None else View(row.view),
        verdict=row.verdict,
        criteria=tuple(row.criteria.items()),
        reason=row.reason,
        remark=row.remark,
        reader_number=row.reader_number,
        is_blinded=row.is_blinded,
        seconds=row.seconds,
        draw=_draw(row.drawn_by, row.drawn_probability),
        second=_draw(row.second_by, row.second_probability),
    )
