"""The report and overlays of a file scored without the service, written into folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from pydicom.dataset import Dataset

from detector.errors import ErrorCode, QCError
from detector.imaging.dicom_file import is_dicom
from model.finding import Finding
from qc_daemon.language.catalogues import ENGLISH
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.exam import FrameReader, ReportedFinding, best_per_view, under_source_uids
from qc_daemon.report.objects.overlay import build_overlay
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.source_file import read_header
from qc_daemon.report.sr.document import build_sr
from qc_daemon.spool import private_files

REVISION = 1
"""No earlier report of the file is stored, so that each one is the first."""


@dataclass(frozen=True, slots=True)
class ReportWriter:
    """Writes the SR of each file into the folder `sr` and its overlays into `overlay`.

    Files are named by the SOP Instance UID of the new object, which names no patient; the same file
    and models make the same names.
    """

    sr: Path | None = None
    overlay: Path | None = None
    language: str = ENGLISH
    clock: Clock = utc_now

    def __call__(self, path: Path, findings: Sequence[Finding], frames: FrameReader) -> None:
        """Write the objects of this file's findings.

        Raises QCError: REPORT_INVALID (also for a plain picture), UNREADABLE, STORAGE.
        """
        with path.open("rb") as file:
            if not is_dicom(file.read(132)):
                raise QCError(
                    ErrorCode.REPORT_INVALID,
                    "an SR or overlay needs a DICOM file; a picture names no patient and study",
                )
            file.seek(0)
            sha256 = file_digest(file, "sha256").hexdigest()
        # Not the bare hash: the service's first report of the file has other content and must have
        # another UID.
        source = SourceInstance.of(read_header(path), f"offline {sha256}")
        reported = [
            ReportedFinding(under_source_uids(finding, source), number, source, path)
            for number, finding in enumerate(findings)
        ]
        now = self.clock()
        if self.sr is not None:
            report_findings = [each.finding for each in reported]
            _write(self.sr, build_sr([source], report_findings, revision=REVISION, created=now))
        if self.overlay is not None:
            best = best_per_view(reported)
            numbers = sorted({each.finding.frame for each in best})
            pixels = {frame.number: frame.pixels for frame in frames(path, numbers)}
            for each in best:
                finding = each.finding
                _write(
                    self.overlay,
                    build_overlay(
                        source,
                        pixels[finding.frame],
                        finding,
                        revision=REVISION,
                        created=now,
                        language=self.language,
                    ),
                )


def _write(folder: Path, dataset: Dataset) -> None:
    try:
        private_files.make_folder(folder)
        private_files.write(folder / f"{dataset.SOPInstanceUID}.dcm", to_bytes(dataset))
    except OSError as error:
        raise QCError(ErrorCode.STORAGE, f"{folder} cannot be written: {error.strerror}") from error
