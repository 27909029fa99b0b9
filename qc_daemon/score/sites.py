"""The site of an image, with what is active there for a bundle."""

from model.site.names import site_of
from model.site.use import SiteUse
from qc_daemon.records.results import sites
from qc_daemon.records.store import Store
from qc_daemon.settings import ScoreSettings


def site_use(
    store: Store,
    settings: ScoreSettings,
    revision_id: int,
    institution: str | None,
    model_id: str,
) -> SiteUse | None:
    """The image's site with what is active there for the bundle; None where sites are not
    calibrated. `institution` as the header writes it."""
    if settings.site_calibration == "off":
        return None
    site = site_of(settings.site or institution)
    with store.read() as session:
        active = sites.active(session, site, model_id)
        devices = sites.device_ids(session, revision_id)
        name = settings.site or sites.written_name(session, site)
    device = devices[0] if devices else None
    return SiteUse(name, active.records, device, active.is_waived, devices[1:])
