"""Zero-shot classification: the class whose prompts a picture is most similar to, or none."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softmax

from model.fetalclip.network import SCALE, FetalClip, mean_direction, similarity
from model.fetalclip.preprocess import TextEncoder
from model.fetalclip.prompts import Prompts


@dataclass(frozen=True, slots=True)
class RejectRule:
    """When no class is named. The defaults never reject, as published.

    A softmax over cosines times 100 is sure of something for any picture: the cosine itself says
    whether the picture is like any class at all.
    """

    min_probability: float = 0.0  # of the most probable class
    min_cosine: float = -1.0  # between the picture and the most probable class, -1 to 1
    classes: frozenset[str] = frozenset()  # they have prompts and mean "none of the others"

    def reason(self, label: str, probability: float, cosine: float) -> str | None:
        """Why the class is not named; None where it is."""
        if label in self.classes:
            return "reject-class"
        if cosine < self.min_cosine:
            return "low-similarity"
        return "low-probability" if probability < self.min_probability else None


@dataclass(frozen=True, slots=True)
class Classification:
    """What is said of a picture. `probabilities` sum to 1 over all classes of the prompts."""

    label: str | None  # None: rejected
    closest: str  # the most probable class, named or not
    probability: float  # of `closest`
    cosine: float  # between the picture and `closest`
    reason: str | None  # why rejected: reject-class, low-similarity or low-probability
    probabilities: dict[str, float]


class ZeroShotClassifier:
    """The classes of a prompt file, each as one direction: its prompts' mean.

    Prompts are encoded once, here; upstream's maps encode them again for each picture.
    """

    def __init__(
        self,
        network: FetalClip,
        encoder: TextEncoder,
        prompts: Prompts,
        reject: RejectRule | None = None,
    ) -> None:
        self.classes = tuple(prompts)
        self.reject = reject or RejectRule()
        self.directions = mean_direction(
            [network.text_features(encoder.tokens(texts)) for texts in prompts.values()]
        )

    def classify(self, image_features: Tensor) -> list[Classification]:
        """Of image features (B, d), of any length."""
        scores = similarity(image_features, self.directions)
        return [
            self._classification(probabilities, cosines)
            for probabilities, cosines in zip(
                softmax(scores, -1).tolist(), (scores / SCALE).tolist(), strict=True
            )
        ]

    def _classification(
        self, probabilities: Sequence[float], cosines: Sequence[float]
    ) -> Classification:
        best = max(range(len(self.classes)), key=probabilities.__getitem__)
        label = self.classes[best]
        reason = self.reject.reason(label, probabilities[best], cosines[best])
        return Classification(
            None if reason else label,
            label,
            probabilities[best],
            cosines[best],
            reason,
            dict(zip(self.classes, probabilities, strict=True)),
        )
