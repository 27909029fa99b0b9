"""A finding: the judgement of one frame and ultrasound region with its provenance, and its JSON."""

import math
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from detector.anatomy import View
from detector.boxes import Box, Detection
from detector.errors import Flag
from model.image_features import ImageFeatures
from model.parts.opinion import Opinion

STANDARD = "standard"
NON_STANDARD = "non-standard"
REVIEW = "review"
QUALITY_LABELS = (STANDARD, NON_STANDARD, REVIEW)


@dataclass(frozen=True, slots=True)
class Criterion:
    """One criterion's outcome: met True, False or None (cannot tell).

    `value` is in `unit` (UCUM); `evidence` names the labels it was read from.
    """

    code: str
    met: bool | None
    value: float | None = None
    unit: str = "1"
    evidence: tuple[str, ...] = ()


CRITERION_REASON, STRUCTURE_REASON, REGION_REASON = "criterion", "structure", "region"
REASON_KINDS = (CRITERION_REASON, STRUCTURE_REASON, REGION_REASON)
DIRECTIONS = ("low", "high")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a view is not called standard, in words that say what is wrong and what to do.

    `code` is that of a criterion, a label, or a part of the picture
    (`model.criteria.faults.REGION_FAULTS`). `direction`, of a measured criterion: its value lies
    beyond the lower ("low") or upper ("high") end.
    """

    kind: str
    code: str
    words: str
    direction: str | None = None

    def to_json(self) -> dict[str, str]:
        """One of the finding's `reasons`; `direction` only where there is one."""
        body = {"kind": self.kind, "code": self.code, "words": self.words}
        return body | ({} if self.direction is None else {"direction": self.direction})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Reason":
        """The inverse of `to_json`; raises KeyError or ValueError on what is no reason."""
        direction = data.get("direction")
        return cls(
            _one_of(data["kind"], REASON_KINDS),
            data["code"],
            data["words"],
            None if direction is None else _one_of(direction, DIRECTIONS),
        )


@dataclass(frozen=True, slots=True)
class BundleId:
    """Which models judged: the bundle's name, version and SHA-256 of its manifest.

    `clinical_use`: whether the bundle is meant for it (`Bundle.is_for_clinical_use`); in JSON only
    where it is.
    """

    name: str
    version: str
    model_id: str
    clinical_use: bool = False

    def to_json(self) -> dict[str, Any]:
        """The object `bundle` of a finding."""
        body = asdict(self)
        if not self.clinical_use:
            del body["clinical_use"]
        return body


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """Which site's calibration gave a probability: kind none, unlabelled or reviewed, on `n`
    findings (of kind reviewed: reviews), which shifts the bundle's log odds by `shift`.

    `bundle_probability` is what the bundle says without it, None for OTHER; `calibration` the id of
    the site's calibration, None where there is none; `promise` what it promises of verdicts, in
    plain sentences.
    """

    id: str
    kind: str
    n: int
    shift: float
    bundle_probability: float | None = None
    calibration: str | None = None
    promise: str | None = None


SITE_KINDS = ("none", "unlabelled", "reviewed")


@dataclass(frozen=True, slots=True)
class Judgement:
    """The models' judgement of one frame's region, without files or DICOM.

    `probability` is the calibrated P(standard), None for OTHER: the site's where `site` says so;
    `gates` are the fusion weights of image, text and spatial branch and sum to 1. `reasons`, the
    most important first, say why the view is not called standard; a standard view has none.
    """

    region_index: int
    region_bbox: Box
    view: View
    view_probability: float
    quality: str
    probability: float | None
    raw_probability: float | None
    gates: tuple[float, float, float]
    detections: tuple[Detection, ...]
    description: str
    criteria: tuple[Criterion, ...]
    flags: tuple[Flag, ...] = ()
    reasons: tuple[Reason, ...] = ()
    site: SiteFacts | None = None
    # What parts say of the view; none where the settings name none.
    opinions: tuple[Opinion, ...] = ()
    # Stored beside the finding, not in its JSON, and no part of what was judged.
    features: ImageFeatures | None = field(default=None, compare=False)

    @property
    def rank(self) -> tuple[float, float]:
        """`quality_rank` of this judgement."""
        return quality_rank(self.probability, self.view_probability)


def quality_rank(probability: float | None, view_probability: float) -> tuple[float, float]:
    """Sort key of findings, larger is better: the more probably standard, then the surer view."""
    return (-1.0 if probability is None else probability, view_probability)


@dataclass(frozen=True, slots=True)
class UnreadableFrame:
    """Another frame of a finding's object, which could not be decoded, and why."""

    frame: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A judgement with its provenance: the stored, reported and exchanged result.

    `frame` counts from 1. `source` is a path for files scored outside the daemon, else None.
    `unreadable_frames` are others of the same object. `runtime`: what ran the models, where not all
    in full precision; in JSON only then.
    """

    judgement: Judgement
    bundle: BundleId
    frame: int = 1
    revision: int = 1
    source: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    created: str = field(default="")
    unreadable_frames: tuple[UnreadableFrame, ...] = ()
    runtime: str = ""

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object: what `qc-daemon score` prints and the database stores."""
        j = self.judgement
        body: dict[str, Any] = {
            "source": self.source,
            "study_instance_uid": self.study_instance_uid,
            "series_instance_uid": self.series_instance_uid,
            "sop_instance_uid": self.sop_instance_uid,
            "revision": self.revision,
            "frame": self.frame,
            "region": {"index": j.region_index, "bbox": list(j.region_bbox)},
            "bundle": self.bundle.to_json(),
            "view": {"code": j.view.value, "probability": j.view_probability},
            "quality": {
                "label": j.quality,
                "probability": j.probability,
                "raw_probability": j.raw_probability,
            },
            "gates": dict(zip(("image", "text", "spatial"), j.gates, strict=True)),
            "detections": [
                {"label": d.label, "bbox": list(d.bbox), "confidence": d.confidence}
                for d in j.detections
            ],
            "description": j.description,
            "criteria": [
                {
                    "code": c.code,
                    "met": c.met,
                    "value": c.value,
                    "unit": c.unit,
                    "evidence": list(c.evidence),
                }
                for c in j.criteria
            ],
            "reasons": [reason.to_json() for reason in j.reasons],
            "flags": [flag.value for flag in j.flags],
            "created": self.created,
        }
        if self.runtime:
            body["runtime"] = self.runtime
        if j.site is not None:
            body["site"] = asdict(j.site)
        if j.opinions:
            body["opinions"] = [opinion.to_json(j.view) for opinion in j.opinions]
        if self.unreadable_frames:
            body["unreadable_frames"] = [
                {"frame": each.frame, "error": {"code": each.code, "message": each.message}}
                for each in self.unreadable_frames
            ]
        return body

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Finding":
        """The inverse of `to_json`; raises KeyError or ValueError on what is not a finding."""
        judgement = Judgement(
            region_index=data["region"]["index"],
            region_bbox=_box(data["region"]["bbox"]),
            view=View(data["view"]["code"]),
            view_probability=_probability(data["view"]["probability"]),
            quality=_one_of(data["quality"]["label"], QUALITY_LABELS),
            probability=_probability_or_none(data["quality"]["probability"]),
            raw_probability=_probability_or_none(data["quality"]["raw_probability"]),
            gates=(data["gates"]["image"], data["gates"]["text"], data["gates"]["spatial"]),
            detections=tuple(
                Detection(d["label"], _box(d["bbox"]), _probability(d["confidence"]))
                for d in data["detections"]
            ),
            description=data["description"],
            criteria=tuple(
                Criterion(c["code"], c["met"], c["value"], c["unit"], tuple(c["evidence"]))
                for c in data["criteria"]
            ),
            flags=tuple(Flag(flag) for flag in data["flags"]),
            # Findings of earlier versions have no reasons.
            reasons=tuple(Reason.from_json(each) for each in data.get("reasons", ())),
            site=_site_from_json(data["site"]) if data.get("site") is not None else None,
            opinions=tuple(Opinion.from_json(each) for each in data.get("opinions", ())),
        )
        return cls(
            judgement=judgement,
            bundle=BundleId(**data["bundle"]),
            frame=data["frame"],
            revision=data["revision"],
            source=data["source"],
            study_instance_uid=data["study_instance_uid"],
            series_instance_uid=data["series_instance_uid"],
            sop_instance_uid=data["sop_instance_uid"],
            created=data["created"],
            unreadable_frames=tuple(
                UnreadableFrame(each["frame"], each["error"]["code"], each["error"]["message"])
                for each in data.get("unreadable_frames", ())
            ),
            runtime=str(data.get("runtime", "")),
        )


def _site_from_json(data: dict[str, Any]) -> SiteFacts:
    # Later versions may say more of a site.
    known = {name: data[name] for name in SiteFacts.__dataclass_fields__ if name in data}
    _one_of(data["kind"], SITE_KINDS)
    return SiteFacts(**known)


def utc(moment: datetime) -> str:
    """ISO 8601 in UTC to the millisecond; the moment must know its zone."""
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _box(values: Any) -> Box:
    x0, y0, x1, y1 = (float(v) for v in values)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError("a box that is not finite")
    return (x0, y0, x1, y1)


def _probability(value: Any) -> float:
    p = float(value)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{p} is no probability")
    return p


def _probability_or_none(value: Any) -> float | None:
    return None if value is None else _probability(value)


def _one_of(value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
    return value
