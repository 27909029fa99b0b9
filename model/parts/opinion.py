"""An opinion: what a part says of a picture's view, beside the finding that SpatialCLIP gives."""

from dataclasses import asdict, dataclass
from typing import Any

from detector.anatomy import View

# Nothing here imports numpy: the receiver, which must not, reads findings.

SECOND_OPINION, VIEW_CLASSIFIER = "second-opinion", "view-classifier"
ROLES = (SECOND_OPINION, VIEW_CLASSIFIER)
"""What a part is asked for; the settings name a part for each (`score.second_opinion`,
`score.view_classifier`)."""
LOW_SIMILARITY, LOW_PROBABILITY = "low-similarity", "low-probability"
REASONS = (LOW_SIMILARITY, LOW_PROBABILITY)
"""Why a part names no class: the picture is like none, or it is not sure."""


@dataclass(frozen=True, slots=True)
class PartId:
    """Which model gave an opinion: its family, name, version and the SHA-256 of its manifest."""

    family: str
    name: str
    version: str
    model_id: str


@dataclass(frozen=True, slots=True)
class Opinion:
    """A part's most probable class in its own word, and the views that the class stands for.

    `views` is empty where the class is none of ours. With a `reason` the class is not named: the
    part says nothing.
    """

    role: str
    part: PartId
    label: str
    probability: float
    views: tuple[View, ...]
    reason: str | None = None

    def agrees_with(self, view: View) -> bool | None:
        """Whether the class stands for that view; None where the part says nothing of views."""
        if self.reason is not None or not self.views:
            return None
        return view in self.views

    def to_json(self, view: View) -> dict[str, Any]:
        """One of the `opinions` of a finding of that view."""
        return {
            "role": self.role,
            "part": asdict(self.part),
            "class": self.label,
            "probability": self.probability,
            "views": [each.value for each in self.views],
            "reason": self.reason,
            "agrees": self.agrees_with(view),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Opinion":
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError on what is none."""
        part, reason = data["part"], data["reason"]
        if data["role"] not in ROLES or not (reason is None or reason in REASONS):
            raise ValueError("an opinion of another role or reason")
        if not isinstance(data["class"], str):
            raise ValueError("an opinion whose class is no text")
        probability = float(data["probability"])
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"{probability} is no probability")
        return cls(
            data["role"],
            # Later versions may say more of a part.
            PartId(**{name: str(part[name]) for name in PartId.__dataclass_fields__}),
            data["class"],
            probability,
            tuple(View(each) for each in data["views"]),
            reason,
        )
