"""Stored pictures that are like a given one: exact nearest neighbours of stored embeddings.

Every embedding of the same models is read and compared, some thousands at a time, so that memory
stays bounded and time grows with their number.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import decimals
from qc_daemon.operations.results import (
    ANY_FINDING,
    FindingFilter,
    add_image_features,
    iter_listed,
)
from qc_daemon.operations.shared import open_store
from qc_daemon.records.listings import ALL, ExamFilter, Window
from qc_daemon.records.results import image_features
from qc_daemon.records.results.findings import rank
from qc_daemon.records.results.image_features import EmbeddedFinding
from qc_daemon.settings import Settings

LIMIT = 20
"""So many pictures are listed unless the caller says otherwise."""
SIMILARITY = "similarity"
_BLOCK = 8192
"""Embeddings compared at once."""
_BATCH = 200
"""Neighbours read at once: a filter may leave out some."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Likeness:
    """Whose neighbours are asked for: an object, and a frame of it (None: its best)."""

    sop_instance_uid: str
    frame: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Likeness":
        """SOP_UID or SOP_UID/FRAME. Raises UsageError."""
        uid, slash, frame = text.partition("/")
        if not uid or (slash and not (frame.isascii() and frame.isdigit() and int(frame) > 0)):
            raise UsageError(f"--like {text}: give SOP_UID or SOP_UID/FRAME; frames count from 1")
        return cls(uid, int(frame) if slash else None)


def read_similar(
    settings: Settings,
    likeness: Likeness,
    form: Literal["finding", "row"],
    *,
    limit: int | None = LIMIT,
    exam_filter: ExamFilter | None = None,
    window: Window = ALL,
    finding_filter: FindingFilter = ANY_FINDING,
    all_frames: bool = False,
    all_revisions: bool = False,
    with_image_features: bool = False,
    left_out: list[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """The stored findings of other objects whose pictures are most like this one, the most similar
    first, as `read_findings` gives them, with the cosine of the embeddings as `similarity`.

    Of an object its most similar frame, unless `all_frames`. Only findings of the same models are
    compared: embeddings of others mean something else. Raises QCError STORAGE where there is
    no such finding, or none of its embedding.
    """
    with open_store(settings).read() as session:
        query = _query(image_features.of_object(session, likeness.sop_instance_uid), likeness)
        assert query.embedding is not None
        ids, cosines = nearest(query.embedding, image_features.embeddings(session, query.model_id))
        listed: set[str] = {likeness.sop_instance_uid}
        count = 0
        for start in range(0, len(ids), _BATCH):
            batch = {
                int(id): float(cosine)
                for id, cosine in zip(
                    ids[start : start + _BATCH], cosines[start : start + _BATCH], strict=True
                )
            }
            objects = iter_listed(
                session,
                settings,
                exam_filter or ExamFilter(),
                replace(window, limit=None),
                form,
                all_frames=True,
                all_revisions=all_revisions,
                finding_filter=finding_filter,
                revision_ids=image_features.revisions_of(session, batch),
                left_out=left_out,
            )
            by_finding = {
                each["finding_id"]: each for each in objects if each["finding_id"] in batch
            }
            rows = (
                by_finding[id] | {SIMILARITY: float(decimals(cosine))}
                for id, cosine in batch.items()
                if id in by_finding
            )
            images = _choose(rows, listed, likeness.sop_instance_uid, all_frames=all_frames)
            for each in add_image_features(session, images) if with_image_features else images:
                if limit is not None and count >= limit:
                    return
                count += 1
                yield each


def nearest(
    query: bytes, embeddings: Iterable[tuple[int, bytes]]
) -> tuple[npt.NDArray[np.int64], Floats]:
    """All ids of `embeddings` (id, little-endian float16) and their cosines with `query`, the most
    similar first, of equal ones the lower id; what has another length is left out.

    Exact: each is compared.
    """
    direction = _unit(np.frombuffer(query, "<f2")[None])[0]
    rows = iter(embeddings)
    ids: list[int] = []
    cosines: list[Floats] = [np.empty(0, np.float32)]
    while block := list(islice(rows, _BLOCK)):
        same = [row for row in block if len(row[1]) == len(query)]
        if same:
            matrix = np.frombuffer(b"".join(each for _, each in same), "<f2")
            ids += [id for id, _ in same]
            cosines.append(_unit(matrix.reshape(len(same), -1)) @ direction)
    of_all, similarity = np.array(ids, np.int64), np.concatenate(cosines)
    order = np.lexsort((of_all, -similarity))
    return of_all[order], similarity[order]


def _choose(
    rows: Iterable[dict[str, Any]], listed: set[str], own: str, *, all_frames: bool
) -> Iterator[dict[str, Any]]:
    """The rows of other objects, of each the first unless `all_frames`; `listed` are the objects
    that have had theirs."""
    for row in rows:
        uid = row["sop_instance_uid"]
        if uid == own or (not all_frames and uid in listed):
            continue
        listed.add(uid)
        yield row


def _query(findings: Sequence[EmbeddedFinding], likeness: Likeness) -> EmbeddedFinding:
    if not findings:
        raise _unknown(f"no image {likeness.sop_instance_uid} was scored; see results")
    frames = sorted({each.body["frame"] for each in findings})
    if likeness.frame is not None and likeness.frame not in frames:
        scored = ", ".join(map(str, frames))
        raise _unknown(f"frame {likeness.frame} of it was not scored; these were: {scored}")
    of_frame = [each for each in findings if likeness.frame in (None, each.body["frame"])]
    with_embedding = [each for each in of_frame if each.embedding is not None]
    if not with_embedding:
        raise _unknown("no embedding of it is stored: a version without them scored it")
    return max(with_embedding, key=lambda each: rank(each.body))


def _unit(rows: npt.NDArray[np.float16]) -> Floats:
    values = rows.astype(np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Floats = values / np.maximum(lengths, 1e-12)
    return unit


def _unknown(message: str) -> QCError:
    return QCError(ErrorCode.STORAGE, f"--like: {message}")
