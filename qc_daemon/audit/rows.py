"""The findings that an audit is made of, as columns: a million of them take some 100 MB."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from heapq import heappush, heappushpop
from math import isfinite, log, nan
from typing import Any

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from model.finding import NON_STANDARD, STANDARD
from model.image_features import STATISTICS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NOBODY, SHARED = -1, -2
"""Codes of a column of persons: none is named; several are."""
UNKNOWN = -1
"""Code of a device, site or time that is not known."""
UNDECIDED = -1
"""Verdict of a finding that waits for a person, or of view OTHER."""
_MAX_CRITERIA = 62
MOST_EMBEDDINGS = 96
"""Of more findings of a device in four weeks this many have an embedding in the rows, by lot: a
million would take some hundred MB."""
_FOUR_WEEKS = 28
_TINY = 1e-6
_NO_STATISTICS = array("f", [nan] * len(STATISTICS))


@dataclass(frozen=True, slots=True)
class BundleKey:
    """Which models judged."""

    name: str
    version: str
    model_id: str


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """A finding with what an audit needs of it.

    `verdict` is standard, non-standard or None, a person's where there is one; `criteria` the codes
    of the criteria with their outcome; `day` a date's ordinal, `second` of that day (None: only the
    day is known).
    """

    key: str
    finding_id: int
    exam_id: int
    persons: Sequence[str]
    device: str | None
    site: str | None
    bundle: BundleKey
    view: str
    view_probability: float
    verdict: str | None
    is_reviewed: bool
    probability: float | None
    raw_probability: float | None
    confidences: Sequence[float]
    criteria: Mapping[str, bool | None]
    day: int
    second: int | None
    gestation: float | None
    bmi: float | None
    crl: float | None
    nt: float | None
    # In the order of `model.image_features.STATISTICS`; the embedding as float16.
    statistics: Sequence[float | None] | None = None
    embedding: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Embeddings (m, d) of one bundle's findings with their rows (m,), in the order of time; `rank`
    (m,) sorts them at random, always the same way for the same findings."""

    row: Ints
    rank: npt.NDArray[np.uint64]
    values: npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Columns (n,) in the order of time, and what their codes stand for.

    `met` and `judged` are bits by the place in `criteria`. `statistics` (n, k) are of the images,
    NaN where not known, without columns where no finding has any. `embeddings` are by the code of
    the bundle, of MOST_EMBEDDINGS findings a device and four weeks. `digest` is of all rows,
    whatever the order that they were read in.
    """

    persons: tuple[str, ...]
    devices: tuple[str, ...]
    sites: tuple[str, ...]
    bundles: tuple[BundleKey, ...]
    views: tuple[str, ...]
    criteria: tuple[str, ...]
    person: Ints
    device: Ints
    site: Ints
    bundle: Ints
    view: Ints
    verdict: Ints
    is_reviewed: Bools
    probability: Floats
    log_odds: Floats
    view_probability: Floats
    confidence: Floats
    detections: Ints
    met: Ints
    judged: Ints
    day: Ints
    second: Ints
    exam: Ints
    gestation: Floats
    bmi: Floats
    crl: Floats
    nt: Floats
    finding_id: Ints
    statistics: npt.NDArray[np.float32]
    embeddings: Mapping[int, Embeddings]
    digest: str

    def __len__(self) -> int:
        return len(self.day)

    @property
    def is_view(self) -> Bools:
        """(n,) Whether the view is one that is assessed."""
        return np.asarray(self.view != self.views.index(View.OTHER))


_INTEGERS = ("person", "device", "site", "bundle", "view", "verdict", "detections", "met")
_VIEWS = tuple(view.value for view in View)


class RowsBuilder:
    """Takes findings one by one, in any order."""

    def __init__(self) -> None:
        self._codes: dict[str, dict[Any, int]] = {
            name: {} for name in ("person", "device", "site", "bundle", "exam")
        }
        self._criteria: dict[str, int] = {}
        names = (*_INTEGERS, "judged", "is_reviewed", "day", "second", "exam", "finding_id")
        self._integers = {name: array("q") for name in names}
        floats = ("probability", "log_odds", "view_probability", "confidence", "gestation", "bmi")
        self._floats = {name: array("f") for name in (*floats, "crl", "nt")}
        self._digests = bytearray()
        self._statistics = array("f")
        self._has_statistics = False
        self._embeddings = _EmbeddingSample()

    def add(self, finding: AuditFinding) -> None:
        """Add a finding."""
        met = judged = 0
        for code, outcome in finding.criteria.items():
            place = self._criteria.setdefault(code, len(self._criteria))
            if outcome is not None and place < _MAX_CRITERIA:
                judged |= 1 << place
                met |= int(outcome) << place
        confidences = finding.confidences
        integers: dict[str, int] = {
            "person": self._person(finding.persons),
            "device": self._code("device", finding.device),
            "site": self._code("site", finding.site),
            "bundle": self._code("bundle", finding.bundle),
            "view": _VIEWS.index(finding.view),
            "verdict": {STANDARD: 1, NON_STANDARD: 0}.get(finding.verdict or "", UNDECIDED),
            "detections": len(confidences),
            "met": met,
            "judged": judged,
            "is_reviewed": int(finding.is_reviewed),
            "day": finding.day,
            "second": UNKNOWN if finding.second is None else finding.second,
            "exam": self._code("exam", finding.exam_id),
            "finding_id": finding.finding_id,
        }
        floats = {
            "probability": finding.probability,
            "log_odds": _log_odds(finding.raw_probability),
            "view_probability": finding.view_probability,
            "confidence": sum(confidences) / len(confidences) if confidences else None,
            "gestation": finding.gestation,
            "bmi": finding.bmi,
            "crl": finding.crl,
            "nt": finding.nt,
        }
        for name, number in integers.items():
            self._integers[name].append(number)
        for name, value in floats.items():
            self._floats[name].append(nan if value is None else value)
        content = (finding.key, finding.persons, finding.device, finding.site, finding.criteria)
        integers.pop("finding_id")
        codes = {
            name: integers.pop(name)
            for name in ("person", "device", "site", "bundle", "exam", "met", "judged")
        }
        text = repr((content, integers, floats, finding.bundle.model_id))
        digest = sha256(text.encode() + self._add_features(finding)).digest()[:16]
        if finding.embedding is not None:
            key = (codes["device"], finding.day // _FOUR_WEEKS, codes["bundle"])
            self._embeddings.add(key, len(self._digests) // 16, digest, finding.embedding)
        self._digests += digest

    def _add_features(self, finding: AuditFinding) -> bytes:
        """Add the statistics; returns the bytes of all features, for the digest."""
        if finding.statistics is None:
            self._statistics.extend(_NO_STATISTICS)
            return finding.embedding or b""
        own = array("f", [nan if each is None else each for each in finding.statistics])
        self._statistics.extend(own)
        self._has_statistics = True
        return own.tobytes() + (finding.embedding or b"")

    def build(self) -> Rows:
        """The columns of all that was added; once, for what was added is given up with it: of a
        million findings no column is in memory twice."""
        digests = np.frombuffer(self._digests, "S16") if self._digests else np.empty(0, "S16")
        # What was read first depends on the database; the time and the content do not.
        second, day = (np.array(self._integers[name], np.int64) for name in ("second", "day"))
        order = np.lexsort((digests, second, day))
        columns = dict[str, Any]()
        while self._integers:
            name, integers = self._integers.popitem()
            columns[name] = np.array(integers, np.int64)[order]
        while self._floats:
            name, floats = self._floats.popitem()
            columns[name] = np.array(floats, np.float64)[order]
        names = {}
        for column in ("person", "device", "site", "bundle"):
            names[column], columns[column] = self._sorted(column, columns[column])
        columns["exam"] = _by_appearance(columns["exam"])
        criteria = sorted(code for code, place in self._criteria.items() if place < _MAX_CRITERIA)
        for name in ("met", "judged"):
            columns[name] = self._ordered_bits(columns[name], criteria)
        columns["is_reviewed"] = columns["is_reviewed"].astype(bool)
        digest = sha256(np.sort(digests).tobytes()).hexdigest()
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        bundle_places = self._places("bundle")
        return Rows(
            persons=names["person"],
            devices=names["device"],
            sites=names["site"],
            bundles=names["bundle"],
            views=_VIEWS,
            criteria=tuple(criteria),
            statistics=self._statistics_of(order),
            embeddings={
                int(bundle_places[bundle]): each
                for bundle, each in self._embeddings.build(place).items()
            },
            digest=digest,
            **columns,
        )

    def _statistics_of(self, order: Ints) -> npt.NDArray[np.float32]:
        if not self._has_statistics:
            return np.empty((len(order), 0), np.float32)
        given, self._statistics = self._statistics, array("f")
        return np.frombuffer(given, np.float32).reshape(len(order), -1)[order]

    def _sorted(self, column: str, codes: Ints) -> tuple[tuple[Any, ...], Ints]:
        """The names in order, and the codes as places in them; negative ones stay."""
        place = self._places(column)
        names = sorted(self._codes[column], key=str)
        return tuple(names), np.where(codes < 0, codes, place[codes])

    def _places(self, column: str) -> Ints:
        """Of each code the place of its name among the names in order."""
        known = self._codes[column]
        place = np.zeros(len(known) + 1, np.int64)
        for index, name in enumerate(sorted(known, key=str)):
            place[known[name]] = index
        return place

    def _ordered_bits(self, bits: Ints, criteria: Sequence[str]) -> Ints:
        """The bits by the places of the codes in order, not in the order that they came in."""
        ordered = np.zeros_like(bits)
        for place, code in enumerate(criteria):
            ordered |= ((bits >> self._criteria[code]) & 1) << place
        return ordered

    def _code(self, column: str, value: Any) -> int:
        if value is None:
            return UNKNOWN
        codes = self._codes[column]
        return codes.setdefault(value, len(codes))

    def _person(self, persons: Sequence[str]) -> int:
        if len(persons) > 1:
            return SHARED
        return self._code("person", persons[0]) if persons else NOBODY


class _EmbeddingSample:
    """Of each key (device, four weeks, bundle) the findings with the smallest digests."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int, int], list[tuple[int, int, bytes]]] = {}

    def add(self, key: tuple[int, int, int], row: int, digest: bytes, embedding: bytes) -> None:
        entries = self._entries.setdefault(key, [])
        entry = (-int.from_bytes(digest[:8], "big"), row, embedding)
        if len(entries) < MOST_EMBEDDINGS:
            heappush(entries, entry)
        else:
            heappushpop(entries, entry)

    def build(self, place: Ints) -> dict[int, Embeddings]:
        """By bundle; `place` (n,) is where each row has come to lie."""
        by_bundle: dict[int, list[tuple[int, int, bytes]]] = {}
        for (_, _, bundle), entries in self._entries.items():
            # Of one bundle all are of the same size, but for what a file brought.
            by_bundle.setdefault(bundle, []).extend(entries)
        return {bundle: _embeddings(entries, place) for bundle, entries in by_bundle.items()}


def _embeddings(entries: list[tuple[int, int, bytes]], place: Ints) -> Embeddings:
    sizes = Counter(len(each[2]) for each in entries)
    usual = max(sizes, key=lambda size: (sizes[size], size))
    chosen = [each for each in entries if len(each[2]) == usual]
    row = place[np.array([each[1] for each in chosen])]
    rank = np.array([-each[0] for each in chosen], np.uint64)
    values = np.frombuffer(b"".join(each[2] for each in chosen), "<f2").reshape(len(chosen), -1)
    order = np.argsort(row, kind="stable")
    return Embeddings(row[order], rank[order], values[order].astype(np.float16, copy=False))


def _log_odds(probability: float | None) -> float | None:
    if probability is None or not isfinite(probability):
        return None
    p = min(max(probability, _TINY), 1 - _TINY)
    return log(p / (1 - p))


def _by_appearance(codes: Ints) -> Ints:
    """The codes numbered anew, from 0, in the order in which they come."""
    unique, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    place = np.empty(len(unique), np.int64)
    place[np.argsort(first)] = np.arange(len(unique))
    return np.asarray(place[inverse], np.int64)
