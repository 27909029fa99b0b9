"""Delivery into a folder."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.codes import ErrorCode, QCError
from qc_daemon.deliver.folder import FolderCarrier, file_name
from qc_daemon.deliver.item import Item
from qc_daemon.settings import DestinationSettings


def carrier(folder: Path) -> FolderCarrier:
    return FolderCarrier(DestinationSettings(name="share", kind="folder", folder=folder))


def item(name: str = "1.2.3", payload: bytes | None = b"object", path: Path | None = None) -> Item:
    return Item("1.2", "1.2.3", "1.2.840.10008.1.2.1", name, path, payload)


def test_written_whole_under_its_uid(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "share"
    carrier(folder).send(item())
    assert [path.name for path in folder.iterdir()] == ["1.2.3.dcm"]
    assert (folder / "1.2.3.dcm").read_bytes() == b"object"


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o750, 0o640), (0o700, 0o600)])
def test_whom_the_folder_lets_in_may_read_it(tmp_path: Path, folder: int, file: int) -> None:
    tmp_path.chmod(folder)
    carrier(tmp_path).send(item())
    assert stat.S_IMODE((tmp_path / "1.2.3.dcm").stat().st_mode) == file


def test_a_folder_that_we_make_is_ours_only(tmp_path: Path) -> None:
    carrier(tmp_path / "new" / "share").send(item())
    for folder in (tmp_path / "new", tmp_path / "new" / "share"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_again_replaces_itself(tmp_path: Path) -> None:
    stored = tmp_path / "stored.dcm"
    stored.write_bytes(b"from the spool")
    made = carrier(tmp_path / "share")
    made.send(item(payload=None, path=stored))
    made.send(item(payload=None, path=stored))
    assert [path.read_bytes() for path in (tmp_path / "share").iterdir()] == [b"from the spool"]


@given(st.text())
def test_no_name_leaves_the_folder(name: str) -> None:
    made = file_name(name)
    assert Path(made).name == made
    assert made.endswith(".dcm")
    assert not made.startswith(".")


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", ".", "/x", "a\0b", "1.2/3", ""])
def test_a_name_that_is_no_uid_is_hashed(name: str) -> None:
    assert len(file_name(name)) == 64 + len(".dcm")


def test_two_revisions_have_two_names() -> None:
    assert file_name("1.2.3") != file_name("1.2.3-r2") == "1.2.3-r2.dcm"


def test_a_folder_that_cannot_be_is_tried_again_later(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(QCError, match="cannot be written") as caught:
        carrier(tmp_path / "file" / "share").send(item())
    assert caught.value.code is ErrorCode.DELIVERY_UNREACHABLE


def test_bytes_gone_from_the_spool_are_an_alarm(tmp_path: Path) -> None:
    with pytest.raises(QCError) as caught:
        carrier(tmp_path).send(item(payload=None, path=tmp_path / "gone"))
    assert caught.value.code is ErrorCode.SPOOL_MISSING
