"""Bundles for an operator: list, show, activate; which one new exams are scored with."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import visible
from model.bundle.bundle import (
    CARD,
    MANIFEST,
    locate,
    read_manifest,
    read_model_id,
    shipped_bundles,
    verify,
)
from model.finding import BundleId
from model.parts.part import Part, is_part, verify_part
from model.runtime.precision import FAST, check_record
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.observe import log
from qc_daemon.operations.shared import open_store
from qc_daemon.records import schema
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.results import bundles
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings

if TYPE_CHECKING:
    from model.image_reference import ImageReference

_log = log.get(role="schedule")


def bundle_folder(name: str) -> Path:
    """A shipped bundle by name, else the folder itself; raises QCError if there is neither."""
    folder = locate(name).resolve()
    if not folder.is_dir():
        raise QCError(ErrorCode.BUNDLE_INCOMPLETE, f"no bundle {name}; see bundle list")
    return folder


def list_bundles(settings: Settings) -> list[dict[str, Any]]:
    """The shipped bundles and those that were ever active here."""
    rows = {
        read_model_id(name): {"name": name, "path": str(locate(name)), "state": "shipped"}
        for name in shipped_bundles()
    }
    if schema.check(settings.store.url) is None:
        with Store(settings.store.url).read() as session:
            for position, bundle in enumerate(bundles.list_bundles(session)):
                rows[bundle.model_id] = {
                    "name": bundle.name,
                    "path": bundle.path,
                    "state": "active" if position == 0 else "was active",
                }
    return [row | {"model_id": model_id} for model_id, row in rows.items()]


def listed_bundle(settings: Settings, model_id: str) -> dict[str, Any]:
    """The row of the bundle with this model id. Raises UsageError where none is listed."""
    for row in list_bundles(settings):
        if row["model_id"] == model_id:
            return row
    raise UsageError("no bundle that is listed has this model id")


def show_bundle(name: str) -> dict[str, Any]:
    """Name, version, model id, manifest (an object) and model card (Markdown) of a bundle, or of a
    part.

    Raises QCError where there is no bundle of this version.
    """
    folder = bundle_folder(name)
    if is_part(folder):
        part = Part.open(folder)
        return {
            "name": part.id.name,
            "version": part.id.version,
            "model_id": part.id.model_id,
            "path": str(folder),
            "manifest": dict(part.manifest),
            "card": part.card,
        }
    manifest = read_manifest(folder)
    card = folder / CARD
    return {
        "name": manifest["name"],
        "version": manifest["version"],
        "model_id": read_model_id(folder),
        "path": str(folder),
        "manifest": manifest,
        "card": card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None,
    }


def verify_folder(folder: Path) -> list[str]:
    """What is wrong with a bundle, or with a part, a line each."""
    return verify_part(folder) if is_part(folder) else verify(folder)


def describe_bundle(name: str) -> str:
    """Manifest and model card as text, `without_references`."""
    details = without_references(show_bundle(name))
    manifest = json.dumps(details["manifest"], indent=1)
    lines = [f"model_id: {details['model_id']}", manifest, details["card"] or ""]
    return "\n".join("\n".join(map(visible, text.splitlines())) for text in lines)


def without_references(details: Mapping[str, Any]) -> dict[str, Any]:
    """What `show_bundle` gives, with only how much there is of the reference of image features: its
    numbers are more than a page shows and than a table's cell holds."""
    from model.image_reference import KEY

    manifest = dict(details["manifest"])
    if KEY in manifest:
        views = dict(manifest[KEY]).get("views")
        manifest[KEY] = {
            view: {"pictures": each.get("pictures"), "kept": each.get("n")}
            for view, each in (views if isinstance(views, dict) else {}).items()
            if isinstance(each, dict)
        }
    return {**details, "manifest": manifest}


def activate_bundle(settings: Settings, name: str, clock: Clock = utc_now) -> str:
    """Verify the bundle and make it the active one; returns its model id.

    Raises QCError BUNDLE_MISMATCH for one that is damaged, or that does not allow the settings'
    precision on any CPU: nothing would be scored with it.
    """
    folder = bundle_folder(name)
    problems = verify(folder)
    if problems:
        raise QCError(ErrorCode.BUNDLE_MISMATCH, f"not activated: {problems[0]}")
    if settings.score.precision == FAST:
        try:
            # Not for this host's CPU, which may be another than that of the role work.
            check_record(read_manifest(folder))
        except QCError as error:
            raise QCError(ErrorCode.BUNDLE_MISMATCH, f"not activated: {error.message}") from error
    model_id = read_model_id(folder)
    with open_store(settings).begin() as session:
        bundles.activate(session, folder.name, str(folder), model_id, clock())
    objects = {"bundle": folder.name, "model_id": model_id}
    record(settings, AuditKind.BUNDLE_ACTIVATED, objects=objects, clock=clock)
    return model_id


def active_bundle(store: Store) -> BundleId | None:
    """Name, version and model id of the bundle that new exams are fixed to; None before the first.

    The version is empty where the bundle's folder is not there to say it.
    """
    with store.read() as session:
        active = bundles.active(session)
    if active is None:
        return None
    try:
        manifest = json.loads((Path(active.path) / MANIFEST).read_text(encoding="utf-8"))
        version = str(manifest["version"])
    except (OSError, ValueError, KeyError, TypeError):
        version = ""
    return BundleId(active.name, version, active.model_id)


def image_references(store: Store, model_ids: Iterable[str]) -> "dict[str, ImageReference]":
    """What these bundles say of the pictures that calibrated them, by model id; nothing of one that
    says nothing, is not here, or is another one by now."""
    # It loads numpy, which the receiver must not.
    from model.image_reference import ImageReference

    with store.read() as session:
        folders = {each.model_id: each.path for each in bundles.list_bundles(session)}
    folders |= {read_model_id(name): str(locate(name)) for name in shipped_bundles()}
    references = {}
    for model_id in sorted(set(model_ids) & set(folders)):
        try:
            manifest = read_manifest(folders[model_id])
            is_same = read_model_id(folders[model_id]) == model_id
            reference = ImageReference.from_manifest(manifest) if is_same else None
        except (QCError, ValueError) as error:
            _log.warning("bundle without reference", model_id=model_id, reason=str(error))
            continue
        if reference is not None:
            references[model_id] = reference
    return references


def seed_bundle(settings: Settings, store: Store, clock: Clock = utc_now) -> None:
    """Make the settings' bundle the active one if none has been; called once at start."""
    folder = bundle_folder(settings.score.bundle)
    with store.begin() as session:
        bundles.seed(session, folder.name, str(folder), read_model_id(folder), clock())
