"""`qc-daemon summary`: a stored exam as a page, when someone asks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from model.finding import BundleId, Finding, Judgement
from qc_daemon.cli.app import app
from qc_daemon.spool.private_files import is_open_to_others
from tests.support import pdf
from tests.support.scored_exam import ScoredExam

STUDY = "1.2.826.0.1.3680043.10.1.2"
runner = CliRunner()


def picture() -> Dataset:
    """A grey still."""
    dataset = Dataset()
    elements = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1",
        "SOPInstanceUID": "1.2.826.0.1.3680043.10.1.1",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": "1.2.826.0.1.3680043.10.1.3",
        "PatientName": "Doe^Jane",
        "PatientID": "4711",
        "Modality": "US",
        "Rows": 120,
        "Columns": 160,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PixelData": np.full((120, 160), 90, np.uint8).tobytes(),
    }
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture
def scored_exam(tmp_path: Path) -> Iterator[ScoredExam]:
    scored = ScoredExam(tmp_path, ["sr"])
    header = picture()
    judgement = Judgement(
        region_index=0,
        region_bbox=(0.0, 0.0, 160.0, 120.0),
        view=View.HEAD,
        view_probability=0.9,
        quality="standard",
        probability=0.8,
        raw_probability=0.8,
        gates=(0.2, 0.3, 0.5),
        detections=(),
        description="",
        criteria=(),
        flags=(),
    )
    bundle = BundleId("default", "1.0", "ab" * 32)
    scored.receive(
        header,
        Finding(
            judgement=judgement,
            bundle=bundle,
            frame=1,
            revision=1,
            created="2026-03-04T05:06:07.000Z",
            study_instance_uid=STUDY,
            series_instance_uid=header.SeriesInstanceUID,
            sop_instance_uid=header.SOPInstanceUID,
        ),
    )
    (tmp_path / "qc.toml").write_text(
        f'[store]\nurl = "sqlite:///{tmp_path / "qc.db"}"\nspool = "."\n[report]\nlanguage = "de"\n'
    )
    yield scored
    scored.store.close()


def say(tmp_path: Path, out: str, *options: str) -> Result:
    config = ["--config", str(tmp_path / "qc.toml")]
    study = [] if "--study" in options else ["--study", STUDY]
    return runner.invoke(app, ["summary", *study, "--out", str(tmp_path / out), *options, *config])


@pytest.mark.usefixtures("scored_exam")
def test_pdf_in_the_language_of_the_settings(tmp_path: Path) -> None:
    assert say(tmp_path, "exam.pdf").exit_code == 0
    assert not is_open_to_others(tmp_path / "exam.pdf")
    page_text = pdf.text(tmp_path / "exam.pdf")
    assert "Kopf,Querschnitt" in page_text
    assert "Fehlt,nochaufzunehmen" in page_text
    (sheet,) = pdf.pages(tmp_path / "exam.pdf")
    assert len(sheet.pictures) == 1


@pytest.mark.usefixtures("scored_exam")
def test_the_page_is_in_the_chosen_language(tmp_path: Path) -> None:
    assert say(tmp_path, "exam.html", "--language", "zh").exit_code == 0
    assert not is_open_to_others(tmp_path / "exam.html")
    page = (tmp_path / "exam.html").read_text(encoding="utf-8")
    assert "头部横切面" in page
    assert page.count("data:image/png") == 1


@pytest.mark.usefixtures("scored_exam")
@pytest.mark.parametrize(
    ("out", "options", "error", "named"),
    [
        ("exam.doc", (), UsageError, ".html or .pdf"),
        ("exam.pdf", ("--language", "fr"), UsageError, "en, de, zh"),
        (
            "exam.pdf",
            ("--study", "1.2.3"),
            QCError,
            "there is no exam of study 1.2.3; see exam list",
        ),
        ("away/exam.pdf", (), QCError, "cannot be written"),
    ],
)
def test_an_impossible_summary_is_one_line_of_error(
    tmp_path: Path, out: str, options: tuple[str, ...], error: type[Exception], named: str
) -> None:
    result = say(tmp_path, out, *options)
    assert isinstance(result.exception, error)
    assert named in str(result.exception)
    assert not (tmp_path / out).exists()


def test_a_missing_original_is_named(scored_exam: ScoredExam, tmp_path: Path) -> None:
    for path in tmp_path.glob("*.dcm"):
        path.unlink()
    result: Any = say(tmp_path, "exam.pdf")
    assert isinstance(result.exception, QCError)
    assert result.exception.code is ErrorCode.SPOOL_MISSING
