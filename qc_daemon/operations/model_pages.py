"""Bundles, their parts and site calibrations as pages and API show them."""

import re
from pathlib import Path
from typing import Any

from detector.console import UsageError
from detector.errors import QCError
from model.parts.part import Part, parts_in
from model.site.figures import Figures
from model.site.record import SiteRecord
from qc_daemon.operations import sites
from qc_daemon.operations.audits import list_audits
from qc_daemon.operations.bundles import (
    list_bundles,
    listed_bundle,
    show_bundle,
    without_references,
)
from qc_daemon.operations.finding_lists import NotVisibleError
from qc_daemon.operations.shared import open_store
from qc_daemon.operations.site_words import describe_record
from qc_daemon.records.results import audits, opinions
from qc_daemon.records.results.opinions import Agreement
from qc_daemon.settings import Settings

_MODEL_ID = re.compile(r"[0-9a-f]{64}")
_CALIBRATION_ID = re.compile(r"[0-9a-f]{12}")
PART_COLUMNS = ("name", "version", "family", "role", "agreed", "disagreed", "silent")


def list_models(settings: Settings) -> list[dict[str, Any]]:
    """Bundles that are shipped or were active, without where they lie."""
    return [
        {name: row[name] for name in ("name", "state", "model_id")}
        for row in list_bundles(settings)
    ]


def read_model(settings: Settings, model_id: str) -> dict[str, Any]:
    """A bundle's manifest and card, rows of PART_COLUMNS of its parts, and rows of the audits that
    tried it in shadow; `problem` says why its folder cannot be read. Raises NotVisibleError."""
    if not _MODEL_ID.fullmatch(model_id):
        raise NotVisibleError
    try:
        row = listed_bundle(settings, model_id)
    except UsageError:
        raise NotVisibleError from None
    shadow = audits.shadow_name(model_id)
    model = {
        "name": row["name"],
        "state": row["state"],
        "model_id": model_id,
        "shadow_audits": [each for each in list_audits(settings) if each["audit"] == shadow],
        "manifest": {},
        "card": None,
        "parts": [],
        "problem": None,
    }
    try:
        details = without_references(show_bundle(row["path"]))
        parts = parts_in(Path(row["path"]))
    except QCError as error:
        return model | {"problem": error.message}
    return model | {
        "manifest": details["manifest"],
        "card": details["card"],
        "parts": _part_rows(settings, parts),
    }


def _part_rows(settings: Settings, parts: list[Part]) -> list[dict[str, Any]]:
    """The parts, with what each was asked and how often it agreed with the finding."""
    with open_store(settings).read() as session:
        counts = opinions.agreements(session, frozenset(part.id.model_id for part in parts))
    rows = []
    for part in parts:
        of_part: list[Agreement | None] = [
            each for each in counts if each.model_id == part.id.model_id
        ]
        for agreement in of_part or [None]:
            rows.append(
                {
                    "name": part.id.name,
                    "version": part.id.version,
                    "family": str(part.manifest.get("family", "")),
                    "role": "" if agreement is None else agreement.role,
                    "agreed": 0 if agreement is None else agreement.agreed,
                    "disagreed": 0 if agreement is None else agreement.disagreed,
                    "silent": 0 if agreement is None else agreement.silent,
                }
            )
    return rows


def list_calibrations(settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `site list` and of `site history`, the newest last; both empty before a bundle is
    active."""
    try:
        return sites.list_sites(settings), sites.list_history(settings, None)
    except QCError as error:
        if error.__cause__ is not None:
            raise
        return [], []


def read_calibration(settings: Settings, calibration: str) -> SiteRecord:
    """The stored calibration with this id. Raises NotVisibleError."""
    if not _CALIBRATION_ID.fullmatch(calibration):
        raise NotVisibleError
    try:
        return sites.find_record(settings, calibration)
    except UsageError:
        raise NotVisibleError from None


def calibration_lines(record: SiteRecord) -> list[str]:
    """What there is to know of it."""
    return describe_record(record)


def figure_rows(record: SiteRecord) -> list[tuple[str, str, str]]:
    """What, before and after: figures of the reviews; empty where there are none."""
    if record.before is None or record.after is None:
        return []
    return [
        (name, before, after)
        for (name, before), (_, after) in zip(
            _figures(record.before), _figures(record.after), strict=True
        )
    ]


def _figures(figures: Figures) -> list[tuple[str, str]]:
    rows = []
    for name, figure in (
        ("calibration error", figures.calibration_error),
        ("accuracy", figures.accuracy),
        ("log loss", figures.log_loss),
    ):
        if figure is None:
            continue
        interval = figure.interval
        within = "" if interval is None else f" ({interval[0]:.3f} – {interval[1]:.3f})"
        rows.append((name, f"{figure.value:.3f}{within}"))
    standard, review, other = figures.called
    return [
        *rows,
        ("called standard", f"{standard:.0%}"),
        ("left to a person", f"{review:.0%}"),
        ("called non-standard", f"{other:.0%}"),
    ]
