"""The systemd units, as systemd reads them."""

import re
import subprocess
from pathlib import Path

import pytest

from qc_daemon.service.roles import DRAIN_SECONDS, ROLES
from qc_daemon.service.supervisor import STOP_SECONDS
from tests.support.environment import ROOT

SYSTEMD = ROOT / "deploy" / "systemd"
ALL_ROLES, ONE_ROLE = SYSTEMD / "qc-daemon.service", SYSTEMD / "qc-daemon@.service"
GPU = SYSTEMD / "qc-daemon-gpu.conf"
UNITS = [ALL_ROLES, ONE_ROLE]
# 0 is a service that may do nothing, 10 one that may do all.
HIGHEST_EXPOSURE = 2.5
SANDBOX = re.compile(r"^(?:Protect|Restrict|Private|SystemCall).*\n", re.MULTILINE)
# What `systemd-analyze` cannot know: the program stands there once it is installed.
NOT_INSTALLED = re.compile(r".*: Command /opt/qc-daemon/\S+ is not executable: .*")


def analyze(*arguments: str | Path) -> str:
    """Standard output and error of `systemd-analyze`."""
    process = subprocess.run(
        ["systemd-analyze", "--no-pager", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return process.stdout


def exposure(unit: Path) -> float:
    """Overall exposure level by `systemd-analyze security`."""
    level = re.search(
        r"Overall exposure level for \S+: ([0-9.]+)", analyze("security", "--offline=true", unit)
    )
    assert level is not None
    return float(level[1])


def assignments(unit: Path) -> list[str]:
    """Lines of a unit without comments."""
    return [
        line for line in unit.read_text().splitlines() if line and not line.startswith(("#", "["))
    ]


def values(unit: Path, key: str) -> list[str]:
    return [line.partition("=")[2] for line in assignments(unit) if line.startswith(f"{key}=")]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_finds_no_fault(unit: Path) -> None:
    lines = analyze("verify", unit).splitlines()
    assert [line for line in lines if not NOT_INSTALLED.fullmatch(line)] == []


def test_a_fault_would_be_found(tmp_path: Path) -> None:
    unit = tmp_path / "qc-daemon.service"
    unit.write_text(ALL_ROLES.read_text().replace("RestartSec=", "RestartSeconds="))
    faults = [line for line in analyze("verify", unit).splitlines() if "RestartSeconds" in line]
    assert len(faults) == 1


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_it_may_do_little(unit: Path) -> None:
    assert exposure(unit) <= HIGHEST_EXPOSURE


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_it_may_do_little_on_a_gpu(unit: Path, tmp_path: Path) -> None:
    drop_in = GPU.read_text().partition("[Service]\n")[2]
    with_gpu = tmp_path / unit.name
    with_gpu.write_text(unit.read_text().replace("[Install]", f"{drop_in}\n[Install]"))
    assert "PrivateDevices=no" in assignments(with_gpu)
    assert exposure(with_gpu) <= HIGHEST_EXPOSURE


def test_without_its_sandbox_it_may_do_more(tmp_path: Path) -> None:
    unit = tmp_path / "qc-daemon.service"
    unit.write_text(re.sub(SANDBOX, "", ALL_ROLES.read_text()))
    assert exposure(unit) > HIGHEST_EXPOSURE


def test_both_units_differ_in_their_roles_only() -> None:
    own = ("Description", "Conflicts", "ExecStart", "EnvironmentFile")
    rest = [
        [line for line in assignments(unit) if line.partition("=")[0] not in own] for unit in UNITS
    ]
    assert rest[0] == rest[1]
    assert values(ONE_ROLE, "ExecStart") == [f"{values(ALL_ROLES, 'ExecStart')[0]} --role %i"]


def test_all_roles_and_one_role_exclude_each_other() -> None:
    (conflicts,) = values(ALL_ROLES, "Conflicts")
    assert conflicts.split() == [f"qc-daemon@{role}.service" for role in ROLES]
    assert values(ONE_ROLE, "Conflicts") == ["qc-daemon.service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_stop_is_given_its_time_and_a_reload_is_the_service_s_own(unit: Path) -> None:
    (stop,) = values(unit, "TimeoutStopSec")
    assert float(stop) > STOP_SECONDS > DRAIN_SECONDS
    assert values(unit, "ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert values(unit, "Type") == ["notify"]
    # One signal to the supervisor, which stops its processes in their order.
    assert values(unit, "KillMode") == ["mixed"]
