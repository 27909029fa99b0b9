"""The bill of materials names what a host gets, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT
from tools.install_locks import read_lock, version_of

pytestmark = pytest.mark.slow


def test_every_package_of_a_host_with_its_version_and_hashes(tmp_path: Path) -> None:
    subprocess.run(
        ["sh", str(ROOT / "deploy" / "make_sbom.sh"), str(tmp_path), sys.executable],
        check=True,
        timeout=280,
    )
    bill = json.loads((tmp_path / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "qc-daemon")
    locks = ROOT / "deploy" / "requirements"
    entries = {
        name: entry
        for lock in ("service.lock", "models.lock")
        for name, entry in read_lock((locks / lock).read_text()).items()
    }
    listed = {each["name"]: each for each in bill["components"]}
    versions = {name: each["version"] for name, each in listed.items()}
    assert versions == {name: version_of(entry) for name, entry in entries.items()}
    for name, each in listed.items():
        (source,) = each["externalReferences"]
        assert {hash_["content"] for hash_ in source["hashes"]} == {
            line.rpartition("sha256:")[2].split()[0] for line in entries[name].split("--hash=")[1:]
        }
