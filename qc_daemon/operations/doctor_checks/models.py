"""What scores: bundle, device, and the calibration of sites."""

import importlib.util
import socket
from typing import Any

from detector.errors import QCError
from model.bundle.bundle import read_manifest, verify
from model.runtime.precision import FAST
from qc_daemon.operations.bundles import bundle_folder
from qc_daemon.operations.doctor_checks.check_result import NoticeError, first_of
from qc_daemon.operations.sites import check_promises, commissioning_sites
from qc_daemon.records import schema
from qc_daemon.records.results import bundles
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from qc_daemon.spool import running_services


def check_bundle(settings: Settings) -> str:
    """Whether each file of the bundle of the settings is as its manifest says."""
    folder = bundle_folder(settings.score.bundle)
    problems = verify(folder)
    if problems:
        raise OSError(0, problems[0])
    return f"{folder.name}, verified"


def check_sites(settings: Settings) -> str:
    """Warn of sites without a calibration, and of promises that are broken."""
    if settings.score.site_calibration == "off":
        return "probabilities are not calibrated to sites (score.site_calibration is off)"
    if schema.check(settings.store.url):
        return "nothing to check yet"
    store = Store(settings.store.url)
    broken = [
        f"{name} ({check.wrong} of {check.called} wrong)"
        for name, check in check_promises(settings, store)
        if not check.is_consistent
    ]
    if broken:
        raise NoticeError(f"promise broken: {first_of(broken)}; fit the site again (site fit)")
    waiting = commissioning_sites(settings, store)
    if waiting:
        raise NoticeError(
            f"not calibrated, so that findings are flagged: {first_of(waiting)}; see site history,"
            " then site activate or site waive"
        )
    return "every site with findings is calibrated or waived"


def check_device(settings: Settings) -> str:
    """The device that the networks run on, and what runs them; where their libraries are not
    installed, whether anything here needs them.

    A host that only receives, delivers or shows pages is installed without them.
    """
    if importlib.util.find_spec("torch") is None:
        host = socket.gethostname()
        services = running_services.list_running(settings.store.spool)
        if any(each.host == host and "work" in each.roles for each in services):
            raise OSError(
                0,
                "the role work runs here without the models' libraries; install again without"
                " --no-models, or leave that role to another host",
            )
        return "none: the models' libraries are not installed, this host does not score"
    # Imports torch.
    from model.device import choose_device
    from model.runtime.runtime import choose_runtime

    device = choose_device(settings.score.device)
    runtime = choose_runtime(
        settings.score.runtime,
        device,
        precision=settings.score.precision,
        manifest=_active_manifest(settings) if settings.score.precision == FAST else None,
    )
    return f"{settings.score.device}: {device}; {settings.score.runtime}: {runtime.facts}"


def _active_manifest(settings: Settings) -> dict[str, Any]:
    """The manifest of the active bundle, of the settings' before there is one; empty where it
    cannot be read, which another check says."""
    folder = settings.score.bundle
    if schema.check(settings.store.url) is None:
        with Store(settings.store.url).read() as session:
            active = bundles.active(session)
        folder = folder if active is None else active.path
    try:
        return read_manifest(folder)
    except QCError:
        return {}
