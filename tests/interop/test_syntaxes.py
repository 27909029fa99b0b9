"""DCMTK's storescu and dcmsend with every transfer syntax they can propose: stored as it came."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian
from sqlalchemy import select

from qc_daemon.receive import presentation_contexts
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Revision
from tests.support.dcmtk import SUCCESS, dcmsend
from tests.support.dicom_objects import US, part10, ultrasound
from tests.support.environment import require
from tests.support.peers import store
from tests.support.service import Service

_SYNTAX = "1.2.840.10008.1.2"
# storescu's option and the syntax of the file it is for.
PROPOSED = {
    "-x=": ".1",
    "-xe": ".1",
    "-xb": ".2",
    "-xi": "",
    "-xd": ".1.99",
    "-xs": ".4.70",
    "-xy": ".4.50",
    "-xx": ".4.51",
    "-xv": ".4.90",
    "-xw": ".4.91",
    "-xt": ".4.80",
    "-xu": ".4.81",
    "-xm": ".4.100",
    "-xh": ".4.101",
    "-xn": ".4.102",
    "-xl": ".4.103",
    "-x2": ".4.104",
    "-x3": ".4.105",
    "-xo": ".4.106",
    "-x4": ".4.107",
    "-x5": ".4.108",
    "-xr": ".5",
}
SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
processes = 1
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("syntaxes"), SETTINGS, ("receive",)).start()
    yield service
    service.end()


def encoded(syntax: str, name: str, sop_class: str = US) -> Dataset:
    """A still in the syntax; what a codec would make of it the receiver must not care for."""
    dataset = ultrasound(sop_class=sop_class, syntax=syntax, AccessionNumber=name)
    if UID(syntax).is_encapsulated:
        fragments = [hashlib.sha256(f"{name}{n}".encode()).digest() * 99 for n in range(2)]
        dataset.PixelData = encapsulate([b"".join(fragments)], fragments_per_frame=2)
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
    elif syntax == ExplicitVRBigEndian:
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit = 15
        dataset["PixelData"].VR = "OW"
        dataset.PixelData = bytes(range(256)) * 2
    return dataset


def stored(service: Service, syntax: str | None, accession: str) -> Dataset:
    """The one stored object of this accession number; of this syntax, where one is named."""
    with Store(f"sqlite:///{service.folder / 'qc.db'}").read() as session:
        rows = session.scalars(select(Revision).order_by(Revision.id)).all()
    matches = [
        (row, dataset)
        for row in rows
        if (dataset := dcmread(service.folder / "spool" / row.path)).AccessionNumber == accession
    ]
    ((row, dataset),) = matches
    assert syntax in (None, row.transfer_syntax_uid)
    assert row.transfer_syntax_uid == dataset.file_meta.TransferSyntaxUID
    return dataset


@pytest.mark.parametrize("option", PROPOSED)
def test_storescu(service: Service, tmp_path: Path, option: str) -> None:
    program = shutil.which("storescu")
    require(program is not None, "storescu (DCMTK)")
    assert program is not None
    syntax, name = _SYNTAX + PROPOSED[option], f"ACC{option}"
    dataset = encoded(syntax, name)
    file = tmp_path / "sent.dcm"
    file.write_bytes(part10(dataset))
    sender = subprocess.run(
        [program, "-v", option, "-aec", "QCDAEMON", "127.0.0.1", str(service.port), str(file)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert sender.returncode == 0, sender.stdout + sender.stderr
    # Where an uncompressed syntax is proposed beside others the sender may re-encode the header.
    exact = option in ("-xi", "-xd") or UID(syntax).is_encapsulated
    stored_dataset = stored(service, syntax if exact else None, name)
    assert stored_dataset.PixelData == dataset.PixelData
    assert stored_dataset == dcmread(file)


def test_dcmsend(service: Service, tmp_path: Path, dcmsend_program: str) -> None:
    files = {}
    for number, syntax in enumerate(presentation_contexts.transfer_syntaxes()):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10(encoded(syntax, f"D{number}")))
        files[path] = (syntax, f"D{number}")
    results = dcmsend(dcmsend_program, service.port, list(files), tmp_path / "report.txt")
    # A syntax that is newer than this DCMTK, it does not send at all.
    assert {each.status for each in results} <= {SUCCESS, "<not"}
    accepted = {each.path for each in results if each.status == SUCCESS}
    assert {_SYNTAX + last for last in PROPOSED.values()} <= {files[path][0] for path in accepted}
    for path in accepted:
        syntax, name = files[path]
        stored_dataset = stored(service, syntax if UID(syntax).is_encapsulated else None, name)
        assert pixels(stored_dataset) == pixels(dcmread(path))


def pixels(dataset: Dataset) -> bytes:
    """Of native data the values: those of 16 bits may have been turned round on the way."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated or dataset.BitsAllocated == 8:
        return bytes(dataset.PixelData)
    order = ">" if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
    return np.frombuffer(dataset.PixelData, f"{order}u2").astype("<u2").tobytes()


# This DCMTK (3.6.7) is older than they are.
UNKNOWN_TO_DCMTK = {"1.2.840.10008.5.1.4.1.1.6.3", "1.2.840.10008.5.1.4.1.1.11.12"}


@pytest.mark.parametrize("sop_class", presentation_contexts.SOP_CLASSES)
def test_every_class_is_stored(service: Service, tmp_path: Path, sop_class: str) -> None:
    program = shutil.which("storescu")
    require(program is not None, "storescu (DCMTK)")
    assert program is not None
    name = f"C{hashlib.sha256(sop_class.encode()).hexdigest()[:8]}"
    dataset = encoded(_SYNTAX + ".1", name, sop_class)
    file = tmp_path / "sent.dcm"
    file.write_bytes(part10(dataset))
    if sop_class in UNKNOWN_TO_DCMTK:
        assert store(service.port, dataset) == [0x0000]
    else:
        # -R: storescu's default proposal has no room for all classes.
        how = ["-R", "-v", "-aec", "QCDAEMON"]
        sender = subprocess.run(
            [program, *how, "127.0.0.1", str(service.port), str(file)],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert sender.returncode == 0, sender.stdout + sender.stderr
    assert stored(service, None, name).SOPClassUID == sop_class
