"""Labelled pictures of any data set, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.console import UsageError
from detector.errors import QCError
from training.data.labelled import list_pictures, read_first_frame, read_labelled


def write(folder: Path, rows: str, pictures: str = "a b c") -> Path:
    for name in pictures.split():
        Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(folder / f"{name}.png")
    path = folder / "labels.csv"
    path.write_text(rows)
    return path


def test_rows_are_read_and_classes_renamed(tmp_path: Path) -> None:
    path = write(tmp_path, "file,patient,plane\na.png,1,thorax\nb.png,2,brain\n")
    pictures = read_labelled(path, rename={"thorax": "heart"})
    assert [(each.path.name, each.label, each.group) for each in pictures] == [
        ("a.png", "heart", "1"),
        ("b.png", "brain", "2"),
    ]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("file,patient,view\na.png,1,brain\n", "row 1: plane is missing"),
        ("file,patient,plane\na.png,1,brain\nz.png,1,brain\n", "row 2: z.png is no file there"),
        (
            "file,patient,plane\na.png,1,brain\na.png,1,femur\n",
            "row 2: the picture of labels.csv: row 1 again",
        ),
        ("file,patient,plane\n", "has no rows"),
        (
            "file,patient,plane,split\na.png,010,brain,train\nb.png,3,brain,test\n"
            "c.png,10,brain,test\n",
            "labels.csv: row 3 (test) and labels.csv: row 1 (train) are of one patient",
        ),
    ],
)
def test_wrong_tables_give_one_line(rows: str, words: str, tmp_path: Path) -> None:
    """The last one is upstream's leak: pool ids have leading zeros, test ids have none."""
    path = write(tmp_path, rows)
    with pytest.raises(UsageError) as caught:
        read_labelled(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_to_rename_has_to_be_there(tmp_path: Path) -> None:
    path = write(tmp_path, "file,patient,plane\na.png,1,brain\n")
    with pytest.raises(UsageError, match="no class 'thorax' to rename"):
        read_labelled(path, rename={"thorax": "heart"})


def test_folders_give_pictures_only(tmp_path: Path) -> None:
    write(tmp_path, "file\n")
    assert [each.name for each in list_pictures([tmp_path])] == ["a.png", "b.png", "c.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no pictures there"):
        list_pictures([tmp_path / "empty"])


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(QCError, match=r"a\.png: "):
        read_first_frame(tmp_path / "a.png")
