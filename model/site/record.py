"""The record of a site calibration: a small JSON that says what it is, and what it rests on."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from detector.anatomy import View
from detector.console import UsageError
from model.finding import SITE_KINDS, BundleId
from model.site.figures import Figures
from model.site.promise import Promise
from model.site.site_map import SiteMap

SCHEMA = 1
NONE, UNLABELLED, REVIEWED = KINDS = SITE_KINDS
MIN_OF_VIEW = 10
"""Of fewer findings of a view nothing is said of it: its verdicts stay as the bundle gives them."""
MAX_BYTES = 4 * 2**20
"""A larger file is no site calibration."""


@dataclass(frozen=True, slots=True)
class SiteRecord:
    """A site calibration, as it is stored, activated and applied.

    `view` and `device` say what it was fitted on, None: all. `kind` "none" leaves all as it is, and
    `reason` says why. `thresholds` are the probabilities between which a person decides. `findings`
    counts all there were, `by_view` those of each view that the map was fitted on, `reviews` those
    with a person's verdict. `before` and `after` are figures of the reviews, the latter with exams
    left out in turn.
    """

    site: str
    kind: str
    reason: str
    bundle: BundleId
    map: SiteMap
    findings: int
    exams: int
    reviews: int
    data_sha256: str
    thresholds: tuple[float, float]
    created: str
    version: str
    view: View | None = None
    device: str | None = None
    share: float | None = None
    shift_interval: tuple[float, float] | None = None
    before: Figures | None = None
    after: Figures | None = None
    promise: Promise | None = None
    by_view: Mapping[View, int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of its JSON: the same for the same content."""
        content = json.dumps(self._body(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def is_calibrated(self) -> bool:
        """Whether it says what probabilities mean at the site, even if that is "the same"."""
        return self.kind != NONE

    @property
    def makes_worse(self) -> bool:
        """Whether the reviews speak against it: its figures, with exams left out in turn, are worse
        than those of the bundle as it is. Such a calibration is not proposed."""
        if self.before is None or self.after is None:
            return False
        return self.after.is_worse_than(self.before)

    def is_about(self, view: View) -> bool:
        """Whether it was fitted on enough findings of the view to say anything of it."""
        if self.view is not None:
            return self.view is view
        return self.by_view.get(view, 0) >= MIN_OF_VIEW

    def to_json(self) -> dict[str, Any]:
        """The JSON form, with its id."""
        return {"id": self.id} | self._body()

    def _body(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "site": self.site,
            "kind": self.kind,
            "reason": self.reason,
            "bundle": self.bundle.to_json(),
            "view": None if self.view is None else self.view.value,
            "device": self.device,
            "map": self.map.to_json(),
            "shift": self.map.shift,
            "shift_interval": None if self.shift_interval is None else list(self.shift_interval),
            "share_standard": self.share,
            "findings": self.findings,
            "findings_by_view": {view.value: count for view, count in self.by_view.items()},
            "exams": self.exams,
            "reviews": self.reviews,
            "data_sha256": self.data_sha256,
            "before": None if self.before is None else self.before.to_json(),
            "after": None if self.after is None else self.after.to_json(),
            "thresholds": list(self.thresholds),
            "promise": None if self.promise is None else self.promise.to_json(),
            "created": self.created,
            "qc_daemon_version": self.version,
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of `to_json`.

        Raises ValueError on what is no site calibration of this schema, is not complete, or was
        changed since (its id no longer fits).
        """
        if not isinstance(data, dict):
            raise ValueError("it is no JSON object")
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema is {data.get('schema')!r}, and {SCHEMA} can be read")
        try:
            record = cls._parse(data)
        except KeyError as error:
            raise ValueError(f"{error.args[0]} is missing") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"a value has the wrong type ({error})") from error
        unknown = set(data) - set(record._body()) - {"id"}
        if unknown:
            raise ValueError(f"unknown keys: {', '.join(sorted(map(str, unknown)))}")
        if data.get("id") != record.id:
            raise ValueError("it was changed after it was fitted: its id does not fit")
        return record

    @classmethod
    def _parse(cls, data: Mapping[str, Any]) -> Self:
        if data["kind"] not in KINDS:
            raise ValueError(f"kind {data['kind']!r} is none of {', '.join(KINDS)}")
        low, high = (float(each) for each in data["thresholds"])
        if not 0 <= low <= high <= 1:
            raise ValueError("thresholds must rise within 0..1")
        interval = data["shift_interval"]
        before, after, promise = data["before"], data["after"], data["promise"]
        share = data["share_standard"]
        if share is not None and not (math.isfinite(share) and 0 <= share <= 1):
            raise ValueError("share_standard lies outside 0..1")
        by_view = {View(view): count for view, count in data["findings_by_view"].items()}
        counts = [data["findings"], data["exams"], data["reviews"], *by_view.values()]
        if not all(type(each) is int and each >= 0 for each in counts):
            raise ValueError("a count is no whole number")
        texts = [data["site"], data["reason"], data["data_sha256"], data["created"]]
        if not all(isinstance(each, str) for each in texts):
            raise ValueError("a text is none")
        return cls(
            site=data["site"],
            kind=data["kind"],
            reason=data["reason"],
            bundle=BundleId(**data["bundle"]),
            map=SiteMap.from_json(data["map"]),
            findings=data["findings"],
            exams=data["exams"],
            reviews=data["reviews"],
            data_sha256=data["data_sha256"],
            thresholds=(low, high),
            created=data["created"],
            version=data["qc_daemon_version"],
            view=None if data["view"] is None else View(data["view"]),
            device=data["device"],
            share=share,
            shift_interval=None if interval is None else (float(interval[0]), float(interval[1])),
            before=None if before is None else Figures.from_json(before),
            after=None if after is None else Figures.from_json(after),
            promise=None if promise is None else Promise.from_json(promise),
            by_view=by_view,
        )


def read_record(path: Path) -> SiteRecord:
    """The site calibration of a file; raises UsageError with what is wrong and what to do."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        if len(content) > MAX_BYTES:
            raise ValueError("it is too large")
        return SiteRecord.from_json(json.loads(content, parse_constant=_refuse_constant))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: no site calibration ({error}): write one with qc-daemon site fit"
        ) from error


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no number")
