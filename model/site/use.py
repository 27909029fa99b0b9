"""A site calibration at work: what it makes of one picture's log odds."""

from dataclasses import dataclass
from typing import Self

from detector.anatomy import View
from model.finding import SiteFacts
from model.site.names import UNNAMED, is_same_site, site_key
from model.site.promise import describe_promised
from model.site.record import NONE, REVIEWED, SiteRecord


@dataclass(frozen=True, slots=True)
class SiteUse:
    """The site a picture is from and its active calibrations, none while it has none; where several
    apply the first one counts.

    `device` names what made the picture, None if that is not known; `aliases` are other ids that
    count for the same device, as a calibration may know it that is older than their merge.
    `is_waived`: a person decided that verdicts there need no calibration.
    """

    site: str
    records: tuple[SiteRecord, ...] = ()
    device: str | None = None
    is_waived: bool = False
    aliases: tuple[str, ...] = ()

    @classmethod
    def of_record(cls, record: SiteRecord, institution: str | None = None) -> Self:
        """For a picture that a person says is of the calibration's own site and device; unless its
        header names another institution: that one is not calibrated by it."""
        is_named = record.site != UNNAMED and site_key(institution) is not None
        if is_named and not is_same_site(record.site, institution):
            assert institution is not None
            return cls(institution)
        return cls(record.site, (record,), record.device)

    def applied(self, view: View) -> SiteRecord | None:
        """The calibration that counts for this view; None where none was fitted for it."""
        if view is View.OTHER:
            return None
        for record in self.records:
            is_of_device = record.device is None or record.device in (self.device, *self.aliases)
            if record.is_calibrated and record.is_about(view) and is_of_device:
                return record
        return None

    def is_commissioned(self, view: View) -> bool:
        """Whether a verdict on this view is calibrated here, or a person waived that."""
        return self.is_waived or view is View.OTHER or self.applied(view) is not None

    def probability(self, log_odds: float, bundle_probability: float, view: View) -> float:
        """P(standard) at the site, from the bundle's calibrated log odds and probability."""
        record = self.applied(view)
        if record is None or record.map.is_identity:
            return bundle_probability
        return float(record.map.probability(log_odds, view, self.device_in(record)))

    def device_in(self, record: SiteRecord) -> str | None:
        """The device by the id that the calibration's map knows it by."""
        known = (each for each in (self.device, *self.aliases) if each in record.map.devices)
        return next(known, self.device)

    def review_band(self, band: tuple[float, float], view: View) -> tuple[float, float]:
        """The probabilities between which a person decides; `band` where the site says nothing."""
        record = self.applied(view)
        return band if record is None else record.thresholds

    def facts(self, view: View, bundle_probability: float | None) -> SiteFacts:
        """What a finding says of the site."""
        record = self.applied(view)
        if record is None:
            return SiteFacts(self.site, NONE, 0, 0.0, bundle_probability)
        n = record.reviews if record.kind == REVIEWED else record.findings
        promise = record.promise
        is_promised = promise is not None and promise.is_about(view)
        promises = describe_promised(promise) if promise is not None and is_promised else []
        return SiteFacts(
            self.site,
            record.kind,
            n,
            record.map.shift,
            bundle_probability,
            record.id,
            " ".join(promises) or None,
        )
