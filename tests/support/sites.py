"""Sites made up: log odds of two classes, as a bundle gives them at home and elsewhere."""

import numpy as np
import numpy.typing as npt

from detector.anatomy import View
from model.finding import BundleId
from model.site.calibrate import SiteQuestion
from model.site.reference import Reference
from model.site.samples import SiteSample

Floats = npt.NDArray[np.float64]
REFERENCE = Reference.from_auroc(0.99)


def log_odds_of_site(
    generator: np.random.Generator, pictures: int, *, share: float = 0.45, shift: float = 0.0
) -> tuple[Floats, Floats]:
    """(n,) log odds and (n,) labels: standard views at 3, poor ones at -6, both with a tail towards
    the other, as real ones have, and lower by `shift`."""
    labels = (generator.random(pictures) < share).astype(float)
    standard = 5.0 - generator.gamma(1.2, 1.7, pictures)
    poor = -11.0 + generator.gamma(5.0, 1.0, pictures)
    noise = generator.normal(0, 1.0, pictures)
    return np.where(labels == 1, standard, poor) + noise - shift, labels


def log_odds_of_second_hospital(generator: np.random.Generator, pictures: int) -> Floats:
    """(n,) log odds as at the second hospital of the held-back pictures: standard views lower by
    about 3 than where the bundle learnt, 41 % of all, AUROC 0.982."""
    noise = generator.standard_normal(pictures)
    is_standard = generator.random(pictures) < 0.41
    return np.where(is_standard, 0.06 + 1.45 * noise, -4.5 + 1.6 * noise)


def site_samples(log_odds: Floats, labels: Floats | None = None) -> list[SiteSample]:
    """Each one an exam of its own, reviewed where there are labels."""
    return [
        SiteSample(
            f"picture {i}",
            float(value),
            i,
            View.NT,
            is_standard=None if labels is None else bool(labels[i]),
        )
        for i, value in enumerate(log_odds)
    ]


def question(**changes: object) -> SiteQuestion:
    """A question about a made-up site."""
    facts: dict[str, object] = {
        "site": "st marys",
        "bundle": BundleId("default", "1.1", "ab" * 32),
        "review": (0.4, 0.6),
        "reference": REFERENCE,
        "created": "2026-11-29T08:00:00.000Z",
        "version": "0.1.0",
    }
    return SiteQuestion(**(facts | changes))  # type: ignore[arg-type]
