"""docs/models-tutorial.md does what it says, command by command, in the repository's folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models-tutorial.md"


def commands() -> list[str]:
    """The commands of the page's indented blocks, each on one line."""
    blocks = re.findall(r"(?:^    .+\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [" ".join(line.split()) for line in lines]


def test_its_commands_are_read() -> None:
    lines = commands()
    assert lines[0].startswith("export PATH")
    assert {line.split()[0] for line in lines[1:]} == {"qc-model", "qc-daemon", "echo", "printf"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_each_command_does_what_it_says(tmp_path: Path, shared_data: Path) -> None:
    # The folder of the repository, but for what is written.
    for name in ("model", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {
        "QC_SHARED_DATA": str(shared_data),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    output = {}
    for line in commands()[1:]:
        answer = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert answer.returncode == 0, f"{line}\n{answer.stderr[-2000:]}"
        output[" ".join(line.split()[:3])] = answer.stdout
    tutorial = tmp_path / "tutorial"
    curve = json.loads((tutorial / "few-shot.json").read_text())[0]["curve"]
    assert [point["patients"] for point in curve] == [1, 4, 16]
    assert curve[-1]["macro F1"] > curve[0]["macro F1"]
    adapted = json.loads(output["qc-model nextgen-uia evaluate"])
    assert adapted["macro F1"]["value"] > 0.8
    (opinion,) = json.loads(output["qc-daemon score --config"])["opinions"]
    assert opinion["part"]["name"] == "heads"
    assert "0.8342" in output["qc-model fetalclip figures"]
