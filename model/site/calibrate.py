"""From a site's findings to its calibration: unlabelled first, then by the reviews there are."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from detector.anatomy import View
from model.finding import BundleId
from model.site import figures
from model.site.promise import Tolerance, make_promise, review_band
from model.site.record import NONE, REVIEWED, UNLABELLED, SiteRecord
from model.site.reference import Reference
from model.site.reviewed import find_problem, fit_reviewed, left_out_log_odds
from model.site.samples import Samples, SiteSample
from model.site.site_map import SiteMap
from model.site.unlabelled import fit_unlabelled


@dataclass(frozen=True, slots=True)
class SiteQuestion:
    """What is calibrated: the site, the bundle with its own review band and reference, and the
    view and device it is limited to; `created` and `version` stand in the record."""

    site: str
    bundle: BundleId
    review: tuple[float, float]
    reference: Reference | None
    created: str
    version: str
    view: View | None = None
    device: str | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)


def calibrate_site(rows: Iterable[SiteSample], question: SiteQuestion) -> SiteRecord:
    """The site's calibration by these findings; of kind "none" where they do not tell enough.

    Raises ValueError where there are no findings at all.
    """
    samples = Samples.of(rows)
    if not samples.rows:
        raise ValueError("no findings with a probability")
    reviewed = samples.reviewed()
    fit = fit_unlabelled(samples, question.reference)
    prior = fit.map or SiteMap()
    problem = find_problem(reviewed)
    if problem is None:
        kind, site_map, reason = REVIEWED, fit_reviewed(reviewed, prior), "fitted to reviews"
    else:
        kind, site_map = (NONE if fit.map is None else UNLABELLED), prior
        reason = f"not enough to tell: {fit.reason}" if fit.map is None else fit.reason
        if reviewed.rows:
            reason += f" ({problem})"
    # Without the fit of all findings the map rests on the reviewed ones alone.
    fitted = reviewed if kind == REVIEWED and fit.map is None else samples
    promise = None
    if reviewed.rows:
        promise = make_promise(reviewed, site_map, question.review, question.tolerance)
    band = question.review if promise is None else review_band(promise, question.review)
    before, after = (
        (None, None)
        if problem is not None
        else _figures(reviewed, prior, question.review, band, isotonic=bool(site_map.knots))
    )
    return SiteRecord(
        site=question.site,
        kind=kind,
        reason=reason,
        bundle=question.bundle,
        map=site_map,
        findings=len(samples.rows),
        exams=samples.exams,
        reviews=len(reviewed.rows),
        data_sha256=samples.sha256(),
        thresholds=band,
        created=question.created,
        version=question.version,
        view=question.view,
        device=question.device,
        share=fit.share,
        shift_interval=fit.shift_interval,
        before=before,
        after=after,
        promise=promise,
        by_view=dict(sorted(Counter(row.view for row in fitted.rows).items())),
    )


def _figures(
    reviewed: Samples,
    prior: SiteMap,
    review: tuple[float, float],
    band: tuple[float, float],
    *,
    isotonic: bool,
) -> tuple[figures.Figures, figures.Figures]:
    """Figures of the bundle's probabilities, and of the site's with exams left out in turn."""
    y, weights = reviewed.labels(), reviewed.review_weights()
    odds = left_out_log_odds(reviewed, prior, isotonic=isotonic)
    return (
        figures.measure(reviewed.log_odds, y, reviewed.exam, review, weights),
        figures.measure(odds, y, reviewed.exam, band, weights),
    )
