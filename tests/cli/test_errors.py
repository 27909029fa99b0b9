"""Everything that can be wrong from outside: one clear line, the right exit status, no traceback.

What goes wrong on the network is a DICOM status: receive/test_receiver.py. A port in use:
service/test_supervisor.py. A destination that is down: interop/test_destination_down.py.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.valuerep import validate_value

from detector import console
from detector.errors import ErrorCode
from model.bundle.bundle import locate
from tests.support.command_line import Completed, qc_daemon, qc_daemon_here
from tests.support.dicom_objects import CANARY, CANARY_ID, part10, ultrasound

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
SIDE = 96
WEIGHTS = "spatialclip/weights.safetensors"


def picture(side: int = SIDE, **values: Any) -> Dataset:
    pixels = np.random.default_rng(5).integers(0, 256, side * side, dtype=np.uint8).tobytes()
    return ultrasound(pixels=pixels + b"\0" * (len(pixels) % 2), Rows=side, Columns=side, **values)


def report() -> Dataset:
    dataset = ultrasound(sop_class=COMPREHENSIVE_SR, Modality="SR")
    del dataset.PixelData
    return dataset


def truncated() -> bytes:
    whole = part10(picture())
    return whole[: len(whole) - SIDE * SIDE // 2]


def misdeclared(content: Dataset, transfer_syntax: str) -> bytes:
    """The file with another transfer syntax in its meta group, of the same length."""
    stated = str(content.file_meta.TransferSyntaxUID)
    assert len(stated) == len(transfer_syntax)
    return part10(content).replace(stated.encode(), transfer_syntax.encode(), 1)


BAD: dict[str, tuple[Callable[[], bytes], ErrorCode]] = {
    "empty.dcm": (lambda: b"", ErrorCode.UNREADABLE),
    "garbage.dcm": (lambda: b"\0" * 128 + b"DICM" + b"\xff" * 500, ErrorCode.UNREADABLE),
    "text.txt": (lambda: b"not an image\n" * 20, ErrorCode.NOT_AN_IMAGE),
    "report.dcm": (lambda: part10(report()), ErrorCode.NOT_AN_IMAGE),
    "syntax.dcm": (
        lambda: misdeclared(picture(), "1.2.840.10008.9.9.9"),
        ErrorCode.UNSUPPORTED_SYNTAX,
    ),
    "truncated.dcm": (truncated, ErrorCode.TRUNCATED),
    "frames.dcm": (lambda: part10(picture(PixelData=b"")), ErrorCode.NO_FRAMES),
    "one.dcm": (lambda: part10(picture(side=1)), ErrorCode.TOO_SMALL),
}
"""File name, content, and the code it must end with."""


@pytest.fixture(scope="module")
def bundle() -> Path:
    return locate("default")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Completed, dict[str, list[Any]]]:
    """Every bad file, a missing one, and three sound ones, in one go; what was said by name."""
    folder = tmp_path_factory.mktemp("files")
    for name, (content, _) in BAD.items():
        (folder / name).write_bytes(content())
    (folder / "charset.dcm").write_bytes(part10(picture(SpecificCharacterSet="ISO_IR 999")))
    (folder / "sound.dcm").write_bytes(part10(picture()))
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(folder / "sound.png")
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(folder / "one.png")
    paths = [*sorted(folder.iterdir()), folder / "missing.dcm"]
    process = qc_daemon("score", *paths, "--format", "jsonl", "--device", "cpu")
    objects: dict[str, list[Any]] = {path.name: [] for path in paths}
    for line in process.stdout.splitlines():
        each = json.loads(line)
        objects[Path(each["source"]).name].append(each)
    return process, objects


def test_all_other_files_are_scored_and_the_status_is_1(
    scored: tuple[Completed, dict[str, list[Any]]],
) -> None:
    process, objects = scored
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert [name for name, of_file in objects.items() if len(of_file) != 1] == []
    for name in ("sound.dcm", "sound.png"):
        assert "error" not in objects[name][0]


@pytest.mark.parametrize(
    ("name", "code"),
    [(name, code) for name, (_, code) in BAD.items()]
    + [("one.png", ErrorCode.TOO_SMALL), ("missing.dcm", ErrorCode.UNREADABLE)],
)
def test_a_bad_file_is_one_line(
    scored: tuple[Completed, dict[str, list[Any]]], name: str, code: ErrorCode
) -> None:
    (of_file,) = scored[1][name]
    assert set(of_file) == {"source", "error"}
    assert of_file["error"]["code"] == code
    assert of_file["error"]["message"]
    assert "\n" not in of_file["error"]["message"]


def test_unknown_character_set_is_scored(
    scored: tuple[Completed, dict[str, list[Any]]],
) -> None:
    (of_file,) = scored[1]["charset.dcm"]
    assert of_file["quality"]["label"]


def test_no_patient_is_named(scored: tuple[Completed, dict[str, list[Any]]]) -> None:
    process, _ = scored
    for canary in (CANARY, CANARY_ID):
        assert canary not in process.stdout + process.stderr


def test_wrong_hash_stops_scoring(bundle: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "bundle")
    weights = bytearray((damaged / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (damaged / WEIGHTS).write_bytes(weights)
    line = refused(1, "score", tmp_path, "--bundle", damaged)
    assert WEIGHTS in line
    assert "hash" in line


def test_missing_weights_stop_scoring(bundle: Path, tmp_path: Path) -> None:
    partial = shutil.copytree(bundle, tmp_path / "bundle")
    (partial / WEIGHTS).unlink()
    line = refused(1, "score", tmp_path, "--bundle", partial)
    assert f"{WEIGHTS} is missing" in line


def test_no_such_bundle(tmp_path: Path) -> None:
    assert "bundle" in refused(1, "score", tmp_path, "--bundle", tmp_path / "none")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("[receive]\nprot = 1\n", ["receive.prot", "unknown"]),
        ('[receive]\nport = "eleven"\n', ["receive.port"]),
        ("[receive\n", ["not valid TOML"]),
        (None, ["does not exist"]),
    ],
    ids=["unknown key", "bad type", "no TOML", "no file"],
)
def test_bad_setting_is_wrong_usage(tmp_path: Path, settings: str | None, words: list[str]) -> None:
    config = tmp_path / "qc.toml"
    if settings is not None:
        config.write_text(settings)
    # One of them as a process: the status and the one line are all that it leaves.
    run = qc_daemon if settings is None else qc_daemon_here
    line = refused(2, "serve", "--config", config, run=run)
    for word in words:
        assert word in line


def test_spool_that_cannot_be_written(tmp_path: Path) -> None:
    """Permissions do not bind root; a folder below a file cannot be made by anyone."""
    (tmp_path / "file").write_text("")
    config = tmp_path / "qc.toml"
    config.write_text('[store]\nurl = "sqlite:///qc.db"\nspool = "file/spool"\n')
    line = refused(1, "serve", "--config", config, run=qc_daemon)
    assert "spool" in line
    assert "cannot be written" in line


def test_unknown_format_is_wrong_usage(tmp_path: Path) -> None:
    assert "--format xml" in refused(2, "score", tmp_path, "--format", "xml")


@pytest.mark.parametrize("arguments", [("frobnicate",), ("serve", "--frobnicate"), ("send",)])
def test_wrong_words_are_wrong_usage(arguments: tuple[str, ...]) -> None:
    process = qc_daemon(*arguments)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert process.stdout == ""


def refused(
    status: int, *arguments: str | Path, run: Callable[..., Completed] = qc_daemon_here
) -> str:
    """Run a command that must fail; the one line it says, log lines apart."""
    process = run(*arguments)
    assert process.returncode == status, process.stderr
    assert process.stdout == ""
    lines = [line for line in process.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, process.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_library_quotes_no_header_to_the_terminal(recwarn: pytest.WarningsRecorder) -> None:
    def read() -> None:
        validate_value("DA", CANARY, config.WARN)

    read()
    assert any(CANARY in str(warning.message) for warning in recwarn)
    recwarn.clear()
    assert console.run(read) == console.DONE
    assert not list(recwarn)
