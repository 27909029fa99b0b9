"""`qc-daemon export --teaching` and `--release`: images that name nobody, after a person's look."""

import contextlib
import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from detector.frame import Frame, Pixels
from detector.imaging.dicom_file import open_dicom_file
from detector.imaging.reader import pixel_sha256, read_frames
from qc_daemon.cli.app import app
from qc_daemon.deidentification.image_facts import ImageFacts, read_image_facts
from qc_daemon.deidentification.text_detector import PixelBox, TextDetector
from qc_daemon.operations import teaching_preparation, teaching_release
from qc_daemon.operations.reviews import Answer, accept, dispute, override
from qc_daemon.records.results import teaching_releases
from qc_daemon.records.store import Store
from qc_daemon.report.source import SourceInstance
from qc_daemon.score.decode import DecodeProcess
from qc_daemon.settings import ReviewSettings, ScoreSettings, Settings, StoreSettings
from qc_daemon.settings.observe import AuditLogSettings
from tests.support.burned_in import burn_in, speckle
from tests.support.report_objects import nuchal_finding, ultrasound_header
from tests.support.reviewed_exam import PATIENTS, REGION, ReviewedExam, picture

CANARIES = ("CANARYNAME", "CANARYID", "CANARYNEST", "CANARYPRIV", "19871231", "1.2.826")


class NoWords:
    """In place of the detector, which has tests of its own."""

    def find_words(self, _pixels: Pixels) -> list[PixelBox]:
        return []


class Decoder:
    """Decodes in this process: a child takes a second to start, and has tests of its own."""

    @classmethod
    def of(cls, _settings: ScoreSettings) -> "Decoder":
        return cls()

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def pixel_sha256(self, path: Path) -> str:
        return pixel_sha256(path)

    def frames(self, path: Path, sha256: str | None = None) -> Iterator[Frame]:
        return read_frames(path)

    def image_facts(self, path: Path, sha256: str | None = None) -> ImageFacts:
        with open_dicom_file(path) as source:
            return read_image_facts(source.dataset, str(source.transfer_syntax))


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words are looked for and files decoded as in service."""
    monkeypatch.setattr(teaching_preparation, "TextDetector", TextDetector)
    monkeypatch.setattr(teaching_preparation, "DecodeProcess", DecodeProcess)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching_preparation, "TextDetector", NoWords)
    monkeypatch.setattr(teaching_preparation, "DecodeProcess", Decoder)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with four pictures, to be copied: to make it anew takes most of a test's time."""
    folder = tmp_path_factory.mktemp("template")
    reviewed = ReviewedExam(folder, 4)
    reviewed.set_acquisition(1)
    reviewed.exam.store.close()
    return folder


class Site:
    """A copy of the store, its settings file, and the command on it."""

    def __init__(self, template: Path, folder: Path) -> None:
        shutil.copytree(template, folder)
        self.spool = folder
        self.settings = Settings(
            store=StoreSettings(url=f"sqlite:///{folder / 'qc.db'}", spool=folder),
            audit_log=AuditLogSettings(folder=folder / "audit-log"),
            review=ReviewSettings(first_share=0, share=0, risk_share=0),
        )
        self.paths = {
            int(str(dcmread(path).SOPInstanceUID).rpartition(".")[2]): path
            for path in folder.glob("*.dcm")
        }


@pytest.fixture
def reviewed(template: Path, tmp_path: Path) -> Site:
    return Site(template, tmp_path / "site")


def config_of(reviewed: Site | ReviewedExam) -> Path:
    store = reviewed.settings.store
    path = store.spool.parent / f"{store.spool.name}.toml"
    path.write_text(
        f'[store]\nurl = "{store.url}"\nspool = "{store.spool}"\n'
        "[review]\nfirst_share = 0.0\nshare = 0.0\nrisk_share = 0.0\n"
    )
    return path


def export(reviewed: Site | ReviewedExam, *arguments: object) -> Result:
    words = ["export", *map(str, arguments), "--config", str(config_of(reviewed))]
    return CliRunner().invoke(app, words)


def done(reviewed: Site | ReviewedExam, *arguments: object) -> str:
    result = export(reviewed, *arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


def refused(reviewed: Site | ReviewedExam, *arguments: object) -> str:
    """The one line that a user sees."""
    result = export(reviewed, *arguments)
    assert isinstance(result.exception, UsageError | QCError), result.output
    line = str(result.exception)
    assert "\n" not in line
    return line


def images(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "list.json").read_text())["images"]  # type: ignore[no-any-return]


def files(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}


def releases(reviewed: Site | ReviewedExam) -> list[dict[str, Any]]:
    return teaching_release.list_releases(reviewed.settings)


def test_a_person_releases_what_she_looked_at(
    reviewed: Site, tmp_path: Path, dciodvfy: Callable[[Path], list[str]]
) -> None:
    override(
        reviewed.settings,
        2,
        Answer("Dr Lee", reason="criterion", verdict="standard", criteria=("GAIN=met",)),
    )
    out = tmp_path / "out"
    said = done(reviewed, "--teaching", out)
    assert "4 images are to be looked at" in said
    assert f"--release {out} --by NAME" in said
    assert {each["state"] for each in images(out)} == {"to look at"}
    assert not (out / "released").exists()
    page = (out / "index.html").read_text()
    for each in images(out):
        assert each["previews"][0]["file"] in page
    said = done(reviewed, "--release", out, "--by", "Dr Lee", "--reject", 3)
    assert "3 images are released" in said
    assert "1 rejected, 0 still to be looked at" in said
    assert [each["state"] for each in images(out)] == ["released"] * 2 + ["rejected", "released"]
    names = {f"{number:04}.{kind}" for number in (1, 2, 4) for kind in ("dcm", "png")}
    assert files(out / "released") == names | {"sheet.json", "sheet.csv"}
    rows = list(csv.DictReader(io.StringIO((out / "released" / "sheet.csv").read_text())))
    assert [row["number"] for row in rows] == ["1", "2", "4"]
    assert [row["verdict_by"] for row in rows] == ["the models", "a person", "the models"]
    assert rows[1]["verdict"] == "standard"
    assert (rows[0]["met"], rows[0]["not_met"]) == ("CRIT-NT", "CRIT-GAIN")
    assert rows[0]["description"] == "nuchal translucency, 1"
    sheet = json.loads((out / "released" / "sheet.json").read_text())
    assert "finding_id" not in json.dumps(sheet)
    assert sheet["images"][0]["findings"][0]["criteria"][0]["meaning"] == "Gain adequate"
    for number in (1, 2, 4):
        path = out / "released" / f"{number:04}.dcm"
        assert dciodvfy(path) == []
        pixels = dcmread(path).pixel_array
        original = np.frombuffer(picture(number, PATIENTS[number % 3]).PixelData, np.uint8)
        expected = np.zeros((120, 160), np.uint8)
        # No header tells a region here, so the edge of the content is estimated.
        assert pixels.shape == expected.shape
        tissue = pixels != 0
        np.testing.assert_array_equal(pixels[tissue], original.reshape(120, 160)[tissue])


def test_the_database_keeps_who_released_which_findings(reviewed: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done(reviewed, "--teaching", out)
    done(reviewed, "--release", out, "--by", "Dr Lee", "--only", 1, "--reject", 2)
    done(reviewed, "--release", out, "--by", "Dr Ng")
    rows = releases(reviewed)
    assert [(r["by"], r["action"], r["number"], r["finding_ids"]) for r in rows] == [
        ("Dr Lee", "released", 1, [1]),
        ("Dr Lee", "rejected", 2, [2]),
        ("Dr Ng", "released", 3, [3]),
        ("Dr Ng", "released", 4, [4]),
    ]
    content = (out / "released" / "0001.dcm").read_bytes()
    assert rows[0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert rows[1]["sha256"] is None
    table = list(csv.DictReader(io.StringIO(done(reviewed, "releases"))))
    assert [row["by"] for row in table] == ["Dr Lee", "Dr Lee", "Dr Ng", "Dr Ng"]
    assert done(reviewed, "releases", "--until", "2020-01-01").count("\n") == 1
    assert "0 images are released" in done(reviewed, "--release", out, "--by", "Dr Ng")


def test_a_canary_patient_is_in_no_file_name_output_or_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QC_LOG", "debug")
    reviewed = ReviewedExam(tmp_path / "site", 0)
    nested = Dataset()
    nested.CodeMeaning, nested.CodeValue = "CANARYNEST", "CANARYNEST"
    nested.PersonName = "CANARYNAME"
    for number in (1, 2):
        header = picture(
            number,
            "",
            PatientName="CANARYNAME^ANNA",
            PatientBirthDate="19871231",
            AccessionNumber="CANARYID",
            OperatorsName="CANARYNAME",
            Manufacturer="CANARYNAME",
            SeriesDescription="CANARYNAME",
            ImageComments="CANARYNAME",
            TransducerType="CANARYNAME",
            RequestAttributesSequence=[nested],
            AnatomicRegionSequence=[nested],
            PerformedProcedureStepID="CANARYID",
        )
        header.PatientID = "CANARYID"
        block = header.private_block(0x7FE1, "CANARYPRIV", create=True)
        block.add_new(1, "LO", "CANARYPRIV")
        block.add_new(2, "SQ", [nested])
        source = SourceInstance.of(header, "")
        reviewed.exam.receive(header, nuchal_finding(source, region_bbox=REGION))
    out = tmp_path / "out"
    prepared = export(reviewed, "--teaching", out)
    done_ = export(reviewed, "--release", out, "--by", "Dr Lee", "--reject", 2)
    reviewed.exam.store.close()
    output = prepared.output + done_.output
    assert "1 image is released" in output
    for canary in CANARIES:
        assert canary not in output
        for path in out.rglob("*"):
            assert canary not in path.name
            if path.is_file():
                assert canary.encode() not in path.read_bytes(), (canary, path)
    for path in out.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
    for path in (out / "released").iterdir():
        if path.is_file():
            assert b"Dr Lee" not in path.read_bytes()


def test_the_same_exam_gets_the_same_uids_and_another_store_others(
    reviewed: Site, tmp_path: Path
) -> None:
    done(reviewed, "--teaching", tmp_path / "one")
    done(reviewed, "--teaching", tmp_path / "two", "--limit", 4)
    done(reviewed, "--teaching", tmp_path / "three", "--verdict", "standard")

    def headers(folder: str) -> list[Dataset]:
        return [dcmread(each) for each in sorted((tmp_path / folder / "images").glob("*.dcm"))]

    def uids(folder: str) -> list[tuple[str, ...]]:
        keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID")
        return [tuple(str(each[name].value) for name in keywords) for each in headers(folder)]

    one = uids("one")
    assert uids("two") == one
    assert uids("three") == [one[0], one[2]]
    studies, patients = [row[0] for row in one], [row[3] for row in one]
    # Pictures 1 and 4 are of one patient and study.
    assert (studies[0], patients[0]) == (studies[3], patients[3])
    assert len(set(studies)) == len(set(patients)) == 3
    assert len({row[2] for row in one}) == 4
    other = ReviewedExam(tmp_path / "other", 1)
    done(other, "--teaching", tmp_path / "four")
    other.exam.store.close()
    assert not set(uids("four")[0]) & set(one[0])


def whole_region(rows: int, columns: int) -> Dataset:
    region = Dataset()
    for keyword, value in {
        "RegionSpatialFormat": 1,
        "RegionDataType": 1,
        "RegionFlags": 0,
        "RegionLocationMinX0": 0,
        "RegionLocationMinY0": 0,
        "RegionLocationMaxX1": columns - 1,
        "RegionLocationMaxY1": rows - 1,
        "PhysicalUnitsXDirection": 3,
        "PhysicalUnitsYDirection": 3,
        "PhysicalDeltaX": 0.01,
        "PhysicalDeltaY": 0.01,
    }.items():
        setattr(region, keyword, value)
    return region


@pytest.mark.usefixtures("child")
def test_words_in_the_tissue_are_blanked_and_marked(tmp_path: Path) -> None:
    reviewed = ReviewedExam(tmp_path / "site", 0)
    burned = burn_in(speckle(160, 320), ("MUELLER ANNA", "12.03.1985"), 14)
    cine = np.stack([burned.pixels, speckle(160, 320, 1), burned.pixels])
    header = ultrasound_header(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1",
        Rows=160,
        Columns=320,
        NumberOfFrames=3,
        FrameTime=25,
        SequenceOfUltrasoundRegions=[whole_region(160, 320)],
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PixelData=cine.tobytes(),
    )
    source = SourceInstance.of(header, "")
    reviewed.exam.receive(header, nuchal_finding(source, frame=2))
    out = tmp_path / "out"
    done(reviewed, "--teaching", out)
    reviewed.exam.store.close()
    (entry,) = images(out)
    assert (entry["frames"], len(entry["previews"])) == (3, 3)
    assert entry["words_blanked"] >= 4
    assert entry["cautions"][0] == teaching_preparation.WHOLE_PICTURE
    dataset = dcmread(out / entry["file"])
    assert (dataset.FrameTime, dataset.PhotometricInterpretation) == (25, "MONOCHROME2")
    pixels = dataset.pixel_array
    for x0, y0, x1, y1 in burned.boxes:
        assert not pixels[:, y0:y1, x0:x1].any()
    with Image.open(out / entry["previews"][1]["file"]) as preview:
        x0, y0, x1, y1 = burned.boxes[0]
        assert preview.getpixel(((x0 + x1) // 2, (y0 + y1) // 2)) == (213, 94, 0)
    with Image.open(out / entry["picture"]) as clean:
        assert clean.info == {}
        np.testing.assert_array_equal(np.asarray(clean)[..., 0], pixels[1])


@pytest.mark.parametrize("name", ["images/0002.dcm", "images/0002.png", "previews/0002-00001.png"])
@pytest.mark.parametrize("is_removed", [False, True])
def test_a_file_that_was_changed_since_releases_nothing(
    reviewed: Site, tmp_path: Path, name: str, is_removed: bool
) -> None:
    out = tmp_path / "out"
    done(reviewed, "--teaching", out)
    if is_removed:
        (out / name).unlink()
    else:
        (out / name).write_bytes((out / name).read_bytes() + b"\0")
    line = refused(reviewed, "--release", out, "--by", "Dr Lee")
    assert line.startswith(f"image 2: {name} is not as it was prepared; nothing is released")
    assert releases(reviewed) == []
    assert not (out / "released").exists()
    assert not list(out.glob(".release-*"))
    done(reviewed, "--release", out, "--by", "Dr Lee", "--reject", 2)
    assert [row["action"] for row in releases(reviewed)].count("released") == 3


def test_a_list_that_was_changed_or_is_anothers_releases_nothing(
    reviewed: Site, template: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done(reviewed, "--teaching", out)
    path = out / "list.json"
    original = path.read_text()
    for changed in (
        original.replace('"finding_id": 2', '"finding_id": 3'),
        original.replace('"seal": "', '"seal": "0'),
        "{}",
        "[]",
        "no list",
    ):
        path.write_text(changed)
        assert "was changed" in refused(reviewed, "--release", out, "--by", "Dr Lee")
    path.write_text(original)
    other = Site(template, tmp_path / "other")
    assert "of another store" in refused(other, "--release", out, "--by", "Dr Lee")
    path.unlink()
    assert "there is no list.json" in refused(reviewed, "--release", out, "--by", "Dr Lee")
    assert releases(reviewed) == []


def test_numbers_and_names_that_are_wrong_release_nothing(reviewed: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done(reviewed, "--teaching", out)
    release = ("--release", out, "--by", "Dr Lee")
    assert "no image 9" in refused(reviewed, *release, "--reject", 9)
    assert "each number once" in refused(reviewed, *release, "--reject", 1, "--reject", 1)
    assert "both name image 1" in refused(reviewed, *release, "--reject", 1, "--only", 1)
    assert "--by" in refused(reviewed, "--release", out)
    assert "--by" in refused(reviewed, "--release", out, "--by", "7")
    assert "--by" in refused(reviewed, "--teaching", tmp_path / "new", "--by", "Dr Lee")
    assert "give --teaching" in refused(reviewed, "--limit", 3)
    assert "goes without" in refused(reviewed, "--release", out, "findings")
    assert releases(reviewed) == []
    done(reviewed, *release, "--only", 1)
    assert "released already" in refused(reviewed, *release, "--reject", 1)
    assert len(releases(reviewed)) == 1


def test_a_release_that_broke_off_is_completed_by_the_next(
    reviewed: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    done(reviewed, "--teaching", out)

    def breaks(_self: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(teaching_release._Files, "move", breaks)
        line = refused(reviewed, "--release", out, "--by", "Dr Lee", "--only", 1)
    assert "No space left on device" in line
    assert len(releases(reviewed)) == 1
    assert not (out / "released").exists()
    done(reviewed, "--release", out, "--by", "Dr Ng", "--only", 2)
    assert {"0001.dcm", "0001.png", "0002.dcm"} <= files(out / "released")
    assert [row["by"] for row in releases(reviewed)] == ["Dr Lee", "Dr Ng"]


def test_nothing_leaves_before_the_database_knows_of_it(
    reviewed: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    done(reviewed, "--teaching", out)

    def fails(*_arguments: object) -> None:
        raise QCError(teaching_release.ErrorCode.STORAGE, "the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(teaching_releases, "add", fails)
        assert "away" in refused(reviewed, "--release", out, "--by", "Dr Lee")
    assert not (out / "released").exists()
    assert {each["state"] for each in images(out)} == {"to look at"}


def test_a_full_disk_leaves_nothing_behind(reviewed: Site, small_disk: Path) -> None:
    line = refused(reviewed, "--teaching", small_disk)
    assert "No space left on device; nothing is left" in line
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_while_releasing_releases_nothing(
    reviewed: Site, tmp_path: Path, small_disk: Path
) -> None:
    done(reviewed, "--teaching", tmp_path / "out", "--limit", 1)
    shutil.copytree(tmp_path / "out", small_disk, dirs_exist_ok=True)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    line = refused(reviewed, "--release", small_disk, "--by", "Dr Lee")
    assert "No space left on device" in line
    assert releases(reviewed) == []
    assert not (small_disk / "released").exists()
    filler.unlink()
    assert "1 image is released" in done(reviewed, "--release", small_disk, "--by", "Dr Lee")


def test_files_that_are_gone_or_damaged_are_named_and_the_others_prepared(
    reviewed: Site, tmp_path: Path
) -> None:
    reviewed.paths[1].unlink()
    damaged = reviewed.paths[2].read_bytes()
    reviewed.paths[2].write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    out = tmp_path / "out"
    result = export(reviewed, "--teaching", out)
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert [line[:17] for line in lines] == ["error: finding 1:", "error: finding 2:"]
    assert [each["findings"][0]["finding_id"] for each in images(out)] == [3, 4]
    assert files(out / "images") == {"0001.dcm", "0001.png", "0002.dcm", "0002.png"}


def test_where_no_image_can_be_had_no_folder_is_left(reviewed: Site, tmp_path: Path) -> None:
    for path in reviewed.paths.values():
        path.unlink()
    result = export(reviewed, "--teaching", tmp_path / "out")
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_what_is_asked_for_is_prepared(reviewed: Site, tmp_path: Path) -> None:
    override(reviewed.settings, 2, Answer("Dr Lee", reason="criterion", verdict="standard"))

    def ids(*arguments: object) -> list[int]:
        folder = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        done(reviewed, "--teaching", folder, *arguments)
        return [finding["finding_id"] for each in images(folder) for finding in each["findings"]]

    assert ids("--verdict", "standard") == [1, 2, 3]
    assert ids("--view", "nt", "--limit", 2) == [1, 2]
    assert ids("--site", "st. anna") == [1]
    assert ids("--exam", 1) == [1, 3] or ids("--exam", 1) == [1, 4]
    assert "no finding matches" in refused(
        reviewed, "--teaching", tmp_path / "none", "--view", "CRL"
    )
    assert "--view X" in refused(reviewed, "--teaching", tmp_path / "none", "--view", "X")
    assert "there is no exam 99" in refused(
        reviewed, "--teaching", tmp_path / "none", "--exam", "99"
    )
    assert "there is no person" in refused(
        reviewed, "--teaching", tmp_path / "none", "--person", "p1"
    )
    assert not (tmp_path / "none").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "new or empty" in refused(reviewed, "--teaching", tmp_path / "full")
    assert files(tmp_path / "full") == {"mine.txt"}


def test_no_answer_is_given_away_before_a_blinded_reading(reviewed: Site, tmp_path: Path) -> None:
    accept(reviewed.settings, 1, Answer("Dr Lee"))
    dispute(reviewed.settings, 1, Answer("A. Berg", reason="criterion"))
    said = done(reviewed, "--teaching", tmp_path / "out")
    assert "waits for a blinded reading: 1 finding" in said
    ids = [each["findings"][0]["finding_id"] for each in images(tmp_path / "out")]
    assert ids == [2, 3, 4]


def test_what_persons_decided_is_only_added_to(reviewed: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done(reviewed, "--teaching", out)
    done(reviewed, "--release", out, "--by", "Dr Lee")
    for change in ("UPDATE teaching_release SET decided_by = 'x'", "DELETE FROM teaching_release"):
        with (
            pytest.raises((DatabaseError, QCError), match="only added to"),
            Store(reviewed.settings.store.url).begin() as session,
        ):
            session.execute(text(change))
    assert {row["by"] for row in releases(reviewed)} == {"Dr Lee"}
