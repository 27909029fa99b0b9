"""`bundle extend`: the same models, and parts beside them."""

import json
from pathlib import Path
from shutil import copytree

import pytest

from model.bundle.bundle import CARD, MANIFEST, Bundle, locate, verify, write_manifest
from model.bundle.extend import add_record, extend
from model.runtime.precision import PrecisionRecord
from tests.support.command_line import qc_daemon_here
from tests.support.parts import dual_branch_part


def test_a_bundle_with_a_part_is_the_same_beside_it(tmp_path: Path) -> None:
    part = dual_branch_part(tmp_path / "planes")
    done = qc_daemon_here(
        "bundle", "extend", "default", "--part", part.path, "--out", tmp_path / "mine"
    )
    assert done.returncode == 0, done.stderr
    default, mine = Bundle.open("default"), Bundle.open(tmp_path / "mine")
    assert (mine.id.name, mine.id.version) == ("default", f"{default.id.version}+planes")
    assert mine.model_id != default.model_id
    assert mine.manifest["calibration"] == default.manifest["calibration"]
    (stored,) = mine.parts()
    assert stored.id == part.id
    (listed,) = mine.manifest["parts"]
    assert listed["model_id"] == part.id.model_id
    card = (mine.path / "MODEL_CARD.md").read_text()
    assert card.startswith((default.path / "MODEL_CARD.md").read_text().rstrip())
    assert "### Part planes (dual-branch" in card
    assert "#### planes 1" in card
    assert not mine.is_for_clinical_use

    twice = qc_daemon_here(
        "bundle", "extend", mine.path, "--part", part.path, "--out", tmp_path / "two"
    )
    assert (twice.returncode, "has a part planes already" in twice.stderr) == (1, True)
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    ("stated", "with_part", "with_record"),
    [(None, None, None), (False, False, False), (True, False, True)],
)
def test_a_copy_states_of_clinical_use_no_more_than_its_base(
    stated: bool | None, with_part: bool | None, with_record: bool | None, tmp_path: Path
) -> None:
    """The card is silent, so that what is not stated would be clinical."""
    base = tmp_path / "base"
    copytree(locate("default"), base)
    (base / CARD).write_text("A card that is silent.")
    manifest = json.loads((base / MANIFEST).read_text())
    facts = {k: v for k, v in manifest.items() if k not in ("files", "format")}
    if stated is not None:
        facts["clinical_use"] = stated
    (base / MANIFEST).unlink()
    write_manifest(base, facts)

    part = dual_branch_part(tmp_path / "planes")
    record = PrecisionRecord(
        "openvino", "1.2", "bfloat16", ("detector",), "amx_bf16", 1, 0, 0.0, 0.0, 0, 0
    )
    extended = extend(base, [part.path], tmp_path / "extended", name=None, version=None)
    recorded = add_record(base, record, tmp_path / "recorded", name=None, version=None)
    assert extended.manifest.get("clinical_use") is with_part
    assert recorded.manifest.get("clinical_use") is with_record
    assert recorded.is_for_clinical_use is (stated is not False)


def test_verify_names_the_part_that_is_damaged(tmp_path: Path) -> None:
    part = dual_branch_part(tmp_path / "planes")
    command = ("bundle", "extend", "default", "--part", part.path, "--out", tmp_path / "mine")
    assert qc_daemon_here(*command).returncode == 0
    weights = tmp_path / "mine" / "parts" / "planes" / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    problems = verify(tmp_path / "mine")
    assert any("parts/planes/model/weights.safetensors has another hash" in p for p in problems)
    manifest = json.loads((tmp_path / "mine" / MANIFEST).read_text())
    assert "parts/planes/part.json" in manifest["files"]
