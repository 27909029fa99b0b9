"""Make a bundle of another one with the same models: with parts beside them, or with a record of
their precision."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.bundle import bundle
from model.bundle.bundle import CLINICAL_USE, Bundle
from model.bundle.manifest import mismatch
from model.parts.part import PARTS, Part, views_json
from model.runtime.precision import FAST, KEY, PrecisionRecord, records_of

HEADING = "## Models of other families"


def extend(
    base: Path, parts: Sequence[Path], out: Path, *, name: str | None, version: str | None
) -> Bundle:
    """A copy of the bundle `base` with these parts, in `out`, which must not exist; opened.

    Name and version are the base's, the version with the parts' names, unless given. Where the
    base's manifest states a clinical use, the copy states none. Raises QCError; nothing is left of
    a bundle that could not be made.
    """
    original = Bundle.open(base)
    with _copy(original, out) as (folder, facts):
        if CLINICAL_USE in facts:
            # Nobody has said that of the parts. A stated "false" stays: the card may be silent.
            facts[CLINICAL_USE] = False
        added = copy_parts(parts, folder)
        names = "+".join(part.id.name for part in added)
        facts["name"] = name or original.id.name
        facts["version"] = version or f"{original.id.version}+{names}"
        every = original.parts() + added
        facts["parts"] = parts_json(every)
        card = folder / bundle.CARD
        text = card.read_text(encoding="utf-8").partition(f"\n{HEADING}\n")[0].rstrip()
        card.write_text(f"{text}\n\n{card_of_parts(every)}", encoding="utf-8")
    return Bundle.open(out)


def add_record(
    base: Path, record: PrecisionRecord, out: Path, *, name: str | None, version: str | None
) -> Bundle:
    """A copy of the bundle `base` that records what another precision changes, in `out`, which must
    not exist; opened. Records of the same runtime, precision and kind of CPU are replaced. What the
    manifest states of clinical use stays, for the models are the same.

    Name and version are the base's, the version with "fast", unless given. Raises QCError; nothing
    is left of a bundle that could not be made.
    """
    original = Bundle.open(base)
    try:
        records = records_of(original.manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise mismatch(f"{bundle.MANIFEST}: {KEY} is unusable ({error})") from error
    others = [each for each in records if each.subject != record.subject]
    with _copy(original, out) as (_, facts):
        facts["name"] = name or original.id.name
        own = original.id.version
        facts["version"] = version or (own if records else f"{own}+{FAST}")
        facts[KEY] = [each.to_json() for each in (*others, record)]
    return Bundle.open(out)


@contextmanager
def _copy(original: Bundle, out: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A copy of the bundle and its manifest's facts, both to be changed; it becomes `out` at the
    end. Raises QCError where there is something already; nothing is left after an error."""
    if out.exists():
        raise mismatch(f"{out} exists: name a new folder for the bundle")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "bundle"
        shutil.copytree(original.path, folder, ignore=shutil.ignore_patterns(bundle.MANIFEST))
        facts = dict(original.manifest)
        yield folder, facts
        bundle.write_manifest(folder, facts)
        folder.rename(out)


def copy_parts(parts: Sequence[Path], folder: Path) -> list[Part]:
    """Copy verified parts into a bundle's folder, each under its name. Raises QCError on one that
    is none, or whose name the bundle has already."""
    added = []
    for source in parts:
        part = Part.open(source)
        target = folder / PARTS / part.id.name
        if target.exists():
            raise mismatch(
                f"the bundle has a part {part.id.name} already: make it under another name"
            )
        shutil.copytree(source, target)
        added.append(part)
    return added


def parts_json(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The manifest's key `parts`."""
    return [
        {
            "family": part.id.family,
            "name": part.id.name,
            "version": part.id.version,
            "model_id": part.id.model_id,
            "views": views_json(part.views),
        }
        for part in parts
    ]


def card_of_parts(parts: Sequence[Part]) -> str:
    """The section of a bundle's card that tells each part: its own card, two headings lower."""
    lines = [HEADING]
    for part in parts:
        lines += [
            "",
            f"### Part {part.id.name} ({part.id.family}, model_id {part.id.model_id[:12]})",
            "",
            *(f"###{line}" if line.startswith("#") else line for line in part.card.splitlines()),
        ]
    return "\n".join(lines) + "\n"
