"""`qc-daemon review export --training`: reviewed pictures as samples that name nobody."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.cli.app import app
from qc_daemon.operations.review_training import TrainingExport, export_training
from qc_daemon.operations.reviews import Answer, dispute, read_blinded, resolve
from tests.support.reviewed_exam import PATIENTS, REGION, ReviewedExam, picture
from training.data.samples import Origin, read_samples


@pytest.fixture
def reviewed(tmp_path: Path) -> Iterator[ReviewedExam]:
    reviewed = ReviewedExam(tmp_path / "site", 4)
    yield reviewed
    reviewed.exam.store.close()


def export(reviewed: ReviewedExam, folder: Path, **options: Any) -> TrainingExport:
    return export_training(reviewed.settings, folder, **options)


def items(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "samples.json").read_text())  # type: ignore[no-any-return]


def test_samples_have_the_persons_label_and_the_region_of_the_picture(
    reviewed: ReviewedExam, tmp_path: Path
) -> None:
    reviewed.accept(1)
    reviewed.override(2, verdict="standard", criteria=("GAIN=met", "NASAL=cannot-tell"))
    reviewed.override(3, view="OTHER")
    out = tmp_path / "out"
    assert export(reviewed, out).outcome.count == 3
    first, second, third = read_samples(out / "samples.json")
    assert [each.standard for each in (first, second, third)] == [True, True, False]
    assert [str(each.view) for each in (first, second, third)] == ["NT", "NT", "OTHER"]
    assert {each.origin for each in (first, second, third)} == {Origin.REAL}
    assert second.criteria == {"CRIT-GAIN": True}
    assert first.description == "nuchal translucency, 1"
    with Image.open(first.image) as image:
        pixels = np.asarray(image)
    whole = np.frombuffer(picture(1, PATIENTS[1]).PixelData, np.uint8).reshape(120, 160)
    x0, y0, x1, y1 = 20, 10, 150, 110
    np.testing.assert_array_equal(pixels, np.repeat(whole[y0:y1, x0:x1, None], 3, axis=2))
    assert first.region == (0.0, 0.0, 130.0, 100.0)
    # Boxes are in pixels of the picture, and clipped to it; nobody drew them.
    written = items(out)[0]
    assert written["coordinates"][0]["bbox"] == [0.0, 10.5, 40.75, 30.0]
    assert written["boxes_by"] == "models"
    assert (first.boxes, first.annotated) == ((), frozenset())
    assert REGION[0] == x0


def test_samples_of_a_patient_share_a_pseudonym_and_no_file_names_anybody(
    reviewed: ReviewedExam, tmp_path: Path
) -> None:
    reviewed.set_acquisition(1)
    reviewed.accept(1, 2, 3, 4)
    for name in ("one", "two"):
        export(reviewed, tmp_path / name)
    samples = items(tmp_path / "one")
    groups = [sample["group"] for sample in samples]
    # Pictures 1 and 4 are of one patient; one without Patient ID is known by the study.
    assert groups[0] == groups[3]
    assert len(set(groups)) == 3
    assert [("hospital" in sample) for sample in samples] == [True, False, False, False]
    assert items(tmp_path / "two") == samples
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".png":
                # Nothing but pixels: a PNG can hold texts beside them.
                with Image.open(path) as image:
                    assert image.info == {}
            else:
                for word in (b"4711", b"Anna", b"Berta", b"M\xc3\xbcller", b"1.2.826", b"Lee"):
                    assert word not in content, (path, word)
            assert path.stat().st_mode & 0o077 == 0
    other = ReviewedExam(tmp_path / "other", 1)
    other.accept(1)
    export(other, tmp_path / "three")
    # Another store has another key.
    assert items(tmp_path / "three")[0]["group"] not in groups
    other.exam.store.close()


def test_no_blinded_second_reading_leaves_without_the_decision(
    reviewed: ReviewedExam, tmp_path: Path
) -> None:
    reviewed.settings.review.share = 1.0
    reviewed.accept(1, 2)
    read_blinded(reviewed.settings, 1, Answer("Ng", "NT", "non-standard"))
    with pytest.raises(QCError, match="waits for a second reading or a decision"):
        export(reviewed, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    resolve(reviewed.settings, 1, Answer("Dr Roth", "NT", "non-standard"))
    done = export(reviewed, tmp_path / "out")
    assert done.left_out == (("waits for a second reading or a decision", 1),)
    (sample,) = items(tmp_path / "out")
    assert (sample["class_label"], sample["review"]["readings"]) == ("non-standard", 2)


def test_of_a_dispute_the_outcome_that_stands_is_the_label(
    reviewed: ReviewedExam, tmp_path: Path
) -> None:
    reviewed.accept(1)
    dispute(reviewed.settings, 1, Answer("A. Berg", reason="criterion"))
    read_blinded(reviewed.settings, 1, Answer("Ng", "NT", "non-standard"))
    export(reviewed, tmp_path / "out")
    assert [each["class_label"] for each in items(tmp_path / "out")] == ["non-standard"]


def test_text_burned_into_a_picture_is_left_out_unless_asked_for_and_warned_of(
    reviewed: ReviewedExam, tmp_path: Path
) -> None:
    reviewed.set_acquisition(1, burned_in_annotation=True)
    reviewed.set_acquisition(2, burned_in_annotation=False)
    reviewed.accept(1, 2)
    done = export(reviewed, tmp_path / "out")
    assert done.outcome.count == 1
    ((reason, count),) = done.left_out
    assert "burned" in reason
    assert count == 1
    notes = (tmp_path / "out" / "README.txt").read_text()
    assert "were left out" in notes
    assert "Look at the pictures" in notes
    every = export(reviewed, tmp_path / "all", with_burned_in=True)
    assert every.outcome.count == 2
    assert "are among them" in (tmp_path / "all" / "README.txt").read_text()


def test_simulated_pictures_say_so(tmp_path: Path) -> None:
    reviewed = ReviewedExam(tmp_path / "site", 0)
    reviewed.receive(1, Manufacturer="qc-daemon phantom")
    reviewed.receive(2)
    reviewed.accept(1, 2)
    export(reviewed, tmp_path / "out")
    assert [each["origin"] for each in items(tmp_path / "out")] == ["simulated", "real"]
    reviewed.exam.store.close()


def test_a_file_that_is_gone_is_named_and_the_others_are_written(
    reviewed: ReviewedExam, tmp_path: Path
) -> None:
    reviewed.accept(1, 2)
    reviewed.paths[1].unlink()
    done = export(reviewed, tmp_path / "out")
    assert done.outcome.count == 1
    (problem,) = done.outcome.problems
    assert problem.startswith("finding 1: ")
    assert len(read_samples(tmp_path / "out" / "samples.json")) == 1


def test_the_command_writes_into_a_new_folder_only(reviewed: ReviewedExam, tmp_path: Path) -> None:
    config = tmp_path / "qc.toml"
    store = reviewed.settings.store
    config.write_text(f'[store]\nurl = "{store.url}"\nspool = "{store.spool}"\n')

    def run(*arguments: str) -> Any:
        words = ["review", "export", *arguments, "--config", str(config)]
        return CliRunner().invoke(app, words)

    empty = run("--training", str(tmp_path / "out"))
    assert isinstance(empty.exception, QCError)
    assert "no reviewed finding" in str(empty.exception)
    reviewed.accept(1)
    done = run("--training", str(tmp_path / "out"))
    assert done.exit_code == 0, done.exception
    assert "1 sample is written" in done.stdout
    assert "look at the pictures" in done.stdout
    again = run("--training", str(tmp_path / "out"))
    assert isinstance(again.exception, UsageError)
    both = run("--training", str(tmp_path / "new"), "--sheet")
    assert isinstance(both.exception, UsageError)
