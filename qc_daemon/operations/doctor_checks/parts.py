"""Checks the parts that the settings name, and says how often they agree with the findings."""

from detector.plain_text import count_of
from model.bundle.bundle import SPATIALCLIP, Bundle
from model.parts.backbone import find_backbone, needed_backbone
from qc_daemon.operations.bundles import bundle_folder
from qc_daemon.records import schema
from qc_daemon.records.results import bundles, opinions
from qc_daemon.records.results.opinions import Agreement
from qc_daemon.records.store import Store
from qc_daemon.score.parts import named_parts
from qc_daemon.settings import Settings


def check_parts(settings: Settings) -> str:
    """One line on the parts of the active bundle, or else of the one that the settings name.

    Raises QCError for one that is missing or damaged, and for a CLIP that SpatialCLIP lacks.
    """
    store = None if schema.check(settings.store.url) else Store(settings.store.url)
    active = None
    if store is not None:
        with store.read() as session:
            active = bundles.active(session)
    folder = active.path if active is not None else bundle_folder(settings.score.bundle)
    bundle = Bundle.open(folder)
    backbone, opinion_parts = named_parts(bundle, settings.score)
    spatialclip = bundle.path / SPATIALCLIP
    find_backbone(spatialclip, bundle.parts(), backbone)
    lines = []
    if backbone is not None:
        is_needed = needed_backbone(spatialclip) is not None
        use = "the bundle's backbone" if is_needed else "not used: the bundle has its own CLIP"
        lines.append(f"{backbone.id.name}: {use}")
    counts: dict[tuple[str, str], Agreement] = {}
    if store is not None and opinion_parts:
        ids = frozenset(part.id.model_id for part in opinion_parts.values())
        with store.read() as session:
            counts = {(e.role, e.model_id): e for e in opinions.agreements(session, ids)}
    for role, part in opinion_parts.items():
        agreement = counts.get((role, part.id.model_id))
        lines.append(f"{part.id.name}: {role}, {_agreement(agreement)}")
    return "; ".join(lines) or "none is named in the settings"


def _agreement(counts: Agreement | None) -> str:
    if counts is None:
        return "not asked yet"
    opinions = counts.agreed + counts.disagreed
    return (
        f"agrees in {counts.agreed} of {count_of(opinions, 'finding')}, silent in {counts.silent}"
    )
