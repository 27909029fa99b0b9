"""Encodes an object in another uncompressed transfer syntax (PS3.5 Annex A); pixels stay the same.

It runs in a child process with bounded memory, because anybody may have sent what it reads.
"""

import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.dsutils import split_dataset

from detector.errors import ErrorCode, QCError

CONVERTIBLE = (
    str(ExplicitVRLittleEndian),
    str(ImplicitVRLittleEndian),
    str(DeflatedExplicitVRLittleEndian),
)
"""The transfer syntaxes between which a data set can be converted."""
# Bytes of a block that `reencode` yields.
BLOCK = 512 << 10
# A deflated image grows tenfold; one that grows more than this many times was made to fill the
# memory. Up to the second limit, in bytes, any growth is accepted.
_MAX_GROWTH = 100
_MIN_LIMIT = 64 << 20


def alternatives(transfer_syntax: str) -> list[str]:
    """The transfer syntaxes to which an object can be converted; none for a compressed one.

    Deflated is never among them: a peer that accepts it accepts one of the other two.
    """
    if transfer_syntax not in CONVERTIBLE:
        return []
    return [uid for uid in CONVERTIBLE[:2] if uid != transfer_syntax]


def reencode(path: Path, transfer_syntax: str) -> Iterator[bytes]:
    """The PS3.10 file at `path`, converted to one of its `alternatives`, in blocks.

    Raises QCError: TOO_LARGE for a deflated data set that grows beyond all measure, TRUNCATED,
    UNREADABLE.
    """
    meta, offset = split_dataset(path)
    own = str(meta.TransferSyntaxUID)
    if transfer_syntax not in alternatives(own):
        raise QCError(ErrorCode.UNSUPPORTED_SYNTAX, "the object cannot be encoded anew")
    yield _head(meta, transfer_syntax)
    if own != DeflatedExplicitVRLittleEndian:
        yield from _encode(dcmread(path), transfer_syntax)
        return
    with path.open("rb") as file:
        file.seek(offset)
        inflated = _inflate(file, max(_MIN_LIMIT, _MAX_GROWTH * path.stat().st_size))
        if transfer_syntax == ExplicitVRLittleEndian:
            yield from inflated
            return
        whole = BytesIO(_head(meta, str(ExplicitVRLittleEndian)) + b"".join(inflated))
    yield from _encode(dcmread(whole), transfer_syntax)


def _head(meta: Dataset, transfer_syntax: str) -> bytes:
    """Preamble and meta group (PS3.10 7.1)."""
    changed = FileMetaDataset(meta)
    changed.TransferSyntaxUID = UID(transfer_syntax)
    out = DicomBytesIO()
    out.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(out, changed)
    return bytes(out.getvalue())


def _encode(dataset: Dataset, transfer_syntax: str) -> Iterator[bytes]:
    out = DicomBytesIO()
    out.is_little_endian = True
    out.is_implicit_VR = transfer_syntax == ImplicitVRLittleEndian
    try:
        write_dataset(out, dataset)
    except MemoryError:
        raise
    except Exception as error:
        # pydicom's writers raise almost anything for values that are not what their VR says.
        raise QCError(
            ErrorCode.UNREADABLE, "the object's header is invalid; it cannot be encoded anew"
        ) from error
    out.seek(0)
    while block := out.read(BLOCK):
        yield block


def _inflate(file: BinaryIO, limit: int) -> Iterator[bytes]:
    """A deflated data set (PS3.5 A.5) inflated, in blocks, of `limit` bytes at most."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    try:
        while not inflate.eof:
            chunk = inflate.unconsumed_tail or file.read(1 << 16)
            block = inflate.decompress(chunk, BLOCK)
            if not (chunk or block):
                raise QCError(ErrorCode.TRUNCATED, "the file ends inside its data set")
            size += len(block)
            if size > limit:
                raise QCError(
                    ErrorCode.TOO_LARGE,
                    f"the deflated data set grows to more than {_MAX_GROWTH} times its size;"
                    " it is not inflated for a destination that takes no deflated one",
                )
            if block:
                yield block
    except zlib.error as error:
        raise QCError(ErrorCode.UNREADABLE, "the deflated data set cannot be inflated") from error
