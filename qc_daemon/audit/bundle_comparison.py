"""How two bundles judge the same pictures: a table of verdicts, McNemar's test, agreement, and what
changes most.

Pairs of one picture: the answer that is stored, and that of another bundle in shadow. McNemar's
test takes pictures for independent, which those of one exam are not; so the net change stands
beside it with an interval of resampled exams. A function of its arguments.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from detector.anatomy import View
from model.finding import NON_STANDARD, REVIEW, STANDARD
from qc_daemon.audit.readings import ANSWERS, agreement_table
from qc_daemon.audit.statistics.agreement import bootstrap_tables, cross_table, mcnemar
from qc_daemon.audit.statistics.benchmark import Ints
from qc_daemon.audit.statistics.history import rounded

VERDICTS = (STANDARD, NON_STANDARD, REVIEW)
VIEWS = tuple(view.value for view in View)
LARGEST = 20
"""So many of the largest changes of probability are named with their pictures."""
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Answer:
    """What a bundle says of a picture; `probability` is None where it calls the view OTHER."""

    view: str
    verdict: str
    probability: float | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a person says of a picture; blinded if without the models' answer."""

    view: str | None
    verdict: str | None
    is_blinded: bool


@dataclass(frozen=True, slots=True)
class ComparedPicture:
    """A picture, which is a frame and region of an object's revision, with both answers."""

    finding_id: int
    study_instance_uid: str | None
    sop_instance_uid: str
    revision: int
    frame: int
    region: int
    exam: int
    device: str | None
    stored: Answer
    shadow: Answer
    readings: tuple[Reading, ...] = ()

    @property
    def change(self) -> float | None:
        """Probability in shadow less the stored one; None where one of them has none."""
        before, after = self.stored.probability, self.shadow.probability
        return None if before is None or after is None else after - before

    @property
    def is_changed(self) -> bool:
        """Whether the answers differ in anything."""
        return self.stored != self.shadow


def compare_bundles(pictures: Sequence[ComparedPicture]) -> dict[str, Any]:
    """The comparison as JSON values. `changes` names each picture whose answers differ, and
    `largest` the finding ids of those whose probability changes most."""
    ordered = sorted(pictures, key=lambda each: each.finding_id)
    changed_pictures = [each for each in ordered if each.is_changed]
    devices = sorted({each.device for each in ordered if each.device is not None})
    views = [view for view in VIEWS if any(each.stored.view == view for each in ordered)]
    by_device = {device: [each for each in ordered if each.device == device] for device in devices}
    return {
        "data_sha256": _digest(ordered),
        "counts": {
            "compared": len(ordered),
            "exams": len({each.exam for each in ordered}),
            "changed": len(changed_pictures),
            "verdicts_changed": sum(e.stored.verdict != e.shadow.verdict for e in ordered),
            "views_changed": sum(e.stored.view != e.shadow.view for e in ordered),
        },
        "all": _group(ordered),
        "views": [
            {"view": view, **_group([e for e in ordered if e.stored.view == view])}
            for view in views
        ],
        "devices": [{"id": id, **_group(of_device)} for id, of_device in by_device.items()],
        "view_agreement": agreement_table(
            [each.stored.view for each in ordered],
            [each.shadow.view for each in ordered],
            [each.exam for each in ordered],
            VIEWS,
            0,
        ),
        "readers": _readers(ordered),
        "largest": _largest(ordered),
        "changes": [_change(each) for each in changed_pictures],
    }


def _group(pictures: Sequence[ComparedPicture]) -> dict[str, Any]:
    """Verdicts of both bundles on some pictures; stored in rows, shadow in columns."""
    before = [each.stored.verdict for each in pictures]
    after = [each.shadow.verdict for each in pictures]
    table = cross_table(before, after, VERDICTS)
    decided_pictures = [
        each
        for each in pictures
        if each.stored.verdict in ANSWERS and each.shadow.verdict in ANSWERS
    ]
    exams = [each.exam for each in decided_pictures]
    stored_only, shadow_only = int(table[0, 1]), int(table[1, 0])
    test = mcnemar(stored_only, shadow_only)
    cells = [
        ANSWERS.index(each.stored.verdict) * 2 + ANSWERS.index(each.shadow.verdict)
        for each in decided_pictures
    ]
    low, high = bootstrap_tables(np.array(cells, np.int64), exams, 4, {"change": _net_change})[
        "change"
    ]
    return {
        "n": len(pictures),
        "exams": len({each.exam for each in pictures}),
        "answers": list(VERDICTS),
        "table": table.tolist(),
        "mcnemar": {
            "stored_only": stored_only,
            "shadow_only": shadow_only,
            "method": test.method,
            "p": rounded(test.p, 12),
        },
        "change": {
            "n": len(decided_pictures),
            "value": rounded((shadow_only - stored_only) / len(decided_pictures))
            if decided_pictures
            else None,
            "low": rounded(low),
            "high": rounded(high),
        },
        "agreement": agreement_table(
            [each.stored.verdict for each in decided_pictures],
            [each.shadow.verdict for each in decided_pictures],
            exams,
            ANSWERS,
            len(pictures) - len(decided_pictures),
        ),
    }


def _net_change(counts: Ints) -> float:
    """Change of the share that is standard, of counts (4,) of a table row by row."""
    total = counts.sum()
    return float((counts[2] - counts[1]) / total) if total else float("nan")


def _readers(pictures: Sequence[ComparedPicture]) -> dict[str, Any]:
    """How far each bundle agrees with people who read the picture without the models' answer. Only
    readings that both bundles can be held against count, so that both stand on the same."""
    stored, shadow, readers, exams = list[str](), list[str](), list[str](), list[int]()
    unblinded = undecided = 0
    for picture in pictures:
        for reading in picture.readings:
            if reading.verdict not in ANSWERS:
                continue
            if not reading.is_blinded:
                unblinded += 1
                continue
            answers = (picture.stored, picture.shadow)
            if any(a.verdict not in ANSWERS or a.view != reading.view for a in answers):
                undecided += 1
                continue
            stored.append(picture.stored.verdict)
            shadow.append(picture.shadow.verdict)
            readers.append(reading.verdict)
            exams.append(picture.exam)
    right = [
        (one == reader, other == reader)
        for one, other, reader in zip(stored, shadow, readers, strict=True)
    ]
    counts = Counter(right)
    test = mcnemar(counts[True, False], counts[False, True])
    return {
        "stored": agreement_table(stored, readers, exams, ANSWERS, undecided),
        "shadow": agreement_table(shadow, readers, exams, ANSWERS, undecided),
        "mcnemar": {
            "stored_only": counts[True, False],
            "shadow_only": counts[False, True],
            "method": test.method,
            "p": rounded(test.p, 12),
        },
        "unblinded": unblinded,
        "undecided": undecided,
    }


def _largest(pictures: Sequence[ComparedPicture]) -> list[int]:
    sizes = [
        (-abs(each.change), each.finding_id) for each in pictures if each.change not in (None, 0.0)
    ]
    return [finding_id for _, finding_id in sorted(sizes)[:LARGEST]]


def _change(picture: ComparedPicture) -> dict[str, Any]:
    return {
        "finding_id": picture.finding_id,
        "study_instance_uid": picture.study_instance_uid,
        "sop_instance_uid": picture.sop_instance_uid,
        "frame": picture.frame,
        "region": picture.region,
        "device": picture.device,
        "stored": _answer(picture.stored),
        "shadow": _answer(picture.shadow),
        "change": rounded(picture.change, _DIGITS),
    }


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "view": answer.view,
        "verdict": answer.verdict,
        "probability": rounded(answer.probability, _DIGITS),
    }


def _digest(pictures: Sequence[ComparedPicture]) -> str:
    lines = []
    for each in pictures:
        address = (each.sop_instance_uid, each.revision, each.frame, each.region)
        lines.append(repr((address, each.device, each.stored, each.shadow, each.readings)))
    return sha256("\n".join(sorted(lines)).encode()).hexdigest()
