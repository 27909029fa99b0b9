"""What the network tests share: small ultrasound objects, peers on loopback, bounded waits."""

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt

from qc_daemon.dicom.association import associate
from tests.support.ports import reserve_port

US = "1.2.840.10008.5.1.4.1.1.6.1"
US_RETIRED = "1.2.840.10008.5.1.4.1.1.6"
# A name, identifier and number that must turn up in no log.
CANARY = "CANARY^NAME"
CANARY_ID = "CANARYID4711"
CANARY_ACCESSION = "CANARYACC99"


def ultrasound(
    study: str = "1.2.3.4.5",
    sop_class: str = US,
    pixels: bytes = bytes(range(256)),
    syntax: str = ExplicitVRLittleEndian,
    **values: Any,
) -> Dataset:
    """A 16 x 16 monochrome still with a patient who is a canary."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName = CANARY
    dataset.PatientID = CANARY_ID
    dataset.AccessionNumber = CANARY_ACCESSION
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = study + ".1"
    dataset.Modality = "US"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 16, 16, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation, dataset.PhotometricInterpretation = 0, "MONOCHROME2"
    dataset.PixelData = pixels
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def part10(dataset: Dataset) -> bytes:
    """The object as a file."""
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def eventually(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of `what`; fails if none comes. A bound on waiting, not on speed."""
    until = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


@contextlib.contextmanager
def association(
    port: int,
    contexts: list[tuple[str, str]] | None = None,
    calling: str = "MODALITY",
    called: str = "QCDAEMON",
) -> Iterator[Any]:
    """A modality's association, established or not."""
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 60
    for sop_class, syntax in contexts or [(US, ExplicitVRLittleEndian)]:
        ae.add_requested_context(sop_class, syntax)
    made = associate(ae, "127.0.0.1", port, ae_title=called)
    try:
        yield made
    finally:
        if made.is_established:
            made.release()


def store(port: int, *datasets: Dataset) -> list[int]:
    """C-STORE them over one association; the statuses."""
    contexts = {(str(d.SOPClassUID), str(d.file_meta.TransferSyntaxUID)) for d in datasets}
    with association(port, sorted(contexts)) as made:
        assert made.is_established
        return [made.send_c_store(dataset).Status for dataset in datasets]


@dataclass
class Pacs:
    """A storage SCP standing for the PACS; `status` is what it answers."""

    port: int = field(default_factory=reserve_port)
    status: int = 0x0000
    syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    sop_classes: tuple[str, ...] = (US,)
    received: list[tuple[str, str, bytes]] = field(default_factory=list)
    associations: int = 0
    _server: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> "Pacs":
        ae = AE("PACS")
        for sop_class in self.sop_classes:
            ae.add_supported_context(sop_class, list(self.syntaxes))
        self._server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)],
        )
        return self

    def stop(self) -> None:
        if self._server is not None:
            for each in self._server.active_associations:
                each.abort()
            self._server.shutdown()
            self._server = None

    def uids(self) -> list[str]:
        with self._lock:
            return [uid for uid, _, _ in self.received]

    def _accepted(self, _event: Any) -> None:
        self.associations += 1

    def _store(self, event: Any) -> int:
        if self.status == 0:
            with self._lock:
                self.received.append(
                    (
                        str(event.request.AffectedSOPInstanceUID),
                        str(event.context.transfer_syntax),
                        event.encoded_dataset(include_meta=False),
                    )
                )
        return self.status


def write(folder: Path, *datasets: Dataset) -> list[Path]:
    """The objects as files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.dcm" for number, _ in enumerate(datasets)]
    for path, dataset in zip(paths, datasets, strict=True):
        path.write_bytes(part10(dataset))
    return paths
