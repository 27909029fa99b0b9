"""Changes of what new findings are scored with: the bundle, and site calibrations.

Pages and API name what is stored or shipped, never a path of this machine.
"""

import re
from collections.abc import Mapping

from detector.console import UsageError
from qc_daemon.operations import sites
from qc_daemon.operations.bundles import activate_bundle, list_bundles, listed_bundle
from qc_daemon.operations.changes.change import Change, Choice, Made, Plan
from qc_daemon.records.clock import Clock
from qc_daemon.records.tables import SiteAction
from qc_daemon.settings import Settings
from qc_daemon.verbs import Verb

BUNDLE = ("name", "state", "model_id")
CALIBRATION = ("site", "calibration", "kind", "findings", "reviews", "shift", "decided_at")
SITE = ("site", "state", "images", "calibrations", "proposed_at")
_CALIBRATION_ID = re.compile(r"[0-9a-f]{12,64}")


def calibration_id(value: str) -> str:
    """The id of a calibration: never a path. Raises UsageError."""
    if not _CALIBRATION_ID.fullmatch(value):
        raise UsageError("give the id of a calibration, as its history has it")
    return value


def _bundle(settings: Settings, choice: Choice) -> Plan:
    rows = list_bundles(settings)
    return Plan(BUNDLE, [r for r in rows if r["model_id"] == choice.name or r["state"] == "active"])


def _calibration(settings: Settings, choice: Choice) -> Plan:
    rows = sites.list_history(settings, None)
    return Plan(CALIBRATION, [row for row in rows if row["calibration"] == choice.name][-1:])


def _site(settings: Settings, choice: Choice) -> Plan:
    return Plan(SITE, [row for row in sites.list_sites(settings) if row["site"] == choice.name])


def _activate_bundle(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    model_id = activate_bundle(settings, listed_bundle(settings, choice.name)["path"], clock)
    return Made(1, f"exams that are opened from now on are scored with {model_id[:12]}")


def _activate_site(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    return Made(1, sites.activate(settings, calibration_id(choice.name), by, clock).line)


def _retire(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    return Made(1, sites.decide(settings, choice.name, SiteAction.RETIRED, by, clock).line)


def _waive(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
    return Made(1, sites.decide(settings, choice.name, SiteAction.WAIVED, by, clock).line)


_VERB, _BY_NAME = Verb.ACTIVATE_MODELS, ("name",)
CHANGES: Mapping[str, Change] = {
    "bundle-activate": Change(_VERB, _BY_NAME, _bundle, _activate_bundle),
    "site-activate": Change(_VERB, _BY_NAME, _calibration, _activate_site),
    "site-retire": Change(_VERB, _BY_NAME, _site, _retire),
    "site-waive": Change(_VERB, _BY_NAME, _site, _waive),
}
"""By name, as commands are called."""
