"""Writes elements into a file as they are, valid or not, which no writer of DICOM would."""

import struct
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

_LONG = ("OB", "OW", "SQ", "UN", "UT")


def write_elements(path: Path, undefined: bool = False, **elements: Any) -> Path:
    """A copy with these elements; None: there with no value, a text: those very bytes.

    `undefined`: sequences and items have no length. NumberOfFrames=None: not there at all.
    """
    dataset = dcmread(path)
    syntax = dataset.file_meta.TransferSyntaxUID
    texts: dict[int, bytes] = {}
    for keyword, value in elements.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        if tag in dataset:
            del dataset[tag]
        if keyword == "NumberOfFrames" and value is None:
            continue
        if value is None or isinstance(value, str):
            texts[tag] = (value or "").encode("latin-1")
        elif isinstance(value, list) and all(isinstance(each, str) for each in value):
            if value or dictionary_VR(tag) != "SQ":
                texts[tag] = "\\".join(value).encode("latin-1")
            else:
                setattr(dataset, keyword, value)
        else:
            setattr(dataset, keyword, value)
            if undefined:
                dataset[tag].is_undefined_length = True
    changed = path.with_name(f"{path.stem}.changed.dcm")
    dataset.save_as(changed, enforce_file_format=True)
    if texts:
        _insert(
            changed,
            texts,
            implicit=syntax == ImplicitVRLittleEndian,
            big=syntax == ExplicitVRBigEndian,
        )
    return changed


def encoded(tag: int, value: bytes, implicit: bool, big: bool, vr: str | None = None) -> bytes:
    """One element as bytes, padded to even length."""
    order = ">" if big else "<"
    value += b" " * (len(value) % 2)
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack(f"{order}L", len(value)) + value
    vr = vr or dictionary_VR(tag).split(" ")[0]
    if vr in _LONG:
        return head + vr.encode() + b"\0\0" + struct.pack(f"{order}L", len(value)) + value
    return head + vr.encode() + struct.pack(f"{order}H", len(value)) + value


def _insert(path: Path, texts: dict[int, bytes], implicit: bool, big: bool) -> None:
    """Each where the order of the tags wants it."""
    whole = path.read_bytes()
    dataset: Dataset = dcmread(path)
    start = 132 + 12 + dataset.file_meta.FileMetaInformationGroupLength
    # Before the first element with a greater tag; its header stands right before its value.
    insertions = []
    for tag, value in texts.items():
        behind = min(each.tag for each in dataset if each.tag > tag)
        insertions.append((_find(whole, start, behind, implicit, big), tag, value))
    for at, tag, value in sorted(insertions, reverse=True):
        whole = whole[:at] + encoded(tag, value, implicit, big) + whole[at:]
    path.write_bytes(whole)


def _find(whole: bytes, start: int, tag: int, implicit: bool, big: bool) -> int:
    """Where the top-level element begins; none of the elements before it is a sequence of
    undefined length."""
    order = ">" if big else "<"
    at = start
    while True:
        group, element = struct.unpack_from(f"{order}HH", whole, at)
        if (group << 16 | element) == tag:
            return at
        vr = whole[at + 4 : at + 6].decode("latin-1")
        if implicit:
            at += 8 + struct.unpack_from(f"{order}L", whole, at + 4)[0]
        elif vr in _LONG:
            at += 12 + struct.unpack_from(f"{order}L", whole, at + 8)[0]
        else:
            at += 8 + struct.unpack_from(f"{order}H", whole, at + 6)[0]
