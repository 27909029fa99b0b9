"""Deterministic UIDs: the same content always makes the same object.

`2.25.` + the integer of a name-based UUID (PS3.5 B.2), so that a stage done twice makes one object.
"""

from collections.abc import Iterable
from uuid import UUID, uuid5

_NAMESPACE = UUID("7d1c7a52-6c1b-5d0a-9f5e-2b9c1f6a4e37")


def derived_uid(kind: str, *parts: str) -> str:
    """A UID that names `kind` and `parts` (no part may hold a line feed)."""
    return f"2.25.{uuid5(_NAMESPACE, chr(10).join((kind, *parts))).int}"


def object_uid(
    kind: str,
    sop_class_uid: str,
    study_instance_uid: str,
    source_hashes: Iterable[str],
    model_id: str,
    revision: int,
) -> str:
    """SOP Instance UID of an object made from sources with these content hashes, in any order."""
    return derived_uid(
        kind,
        sop_class_uid,
        study_instance_uid,
        ",".join(sorted(source_hashes)),
        model_id,
        str(revision),
    )
