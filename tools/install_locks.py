"""Writes the locks that a host is installed from: `python -m tools.install_locks`.

`requirements.lock` has what developers need, too. `deploy/requirements/service.lock` has what every
host needs, `models.lock` beside it what scoring needs in addition; every entry of them is one of
`requirements.lock`, with its hashes. With `--cpu-index URL`, the index of PyTorch's builds without
CUDA, `models-cpu.lock` is written: the same pair of versions from there, without NVIDIA's packages.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from detector.console import UsageError

ROOT = Path(__file__).parent.parent
MODELS = (
    "torch",
    "torchvision",
    "ultralytics",
    "transformers",
    "timm",
    "tokenizers",
    "openvino",
    "tensorboard",
)
"""What the networks run on; nothing but the role `work` loads any of it."""
# A matched pair: a torchvision loads with the very torch that it was built for.
PAIR = ("torch", "torchvision")
# Our own package is built with it on the host, where nothing else may be fetched.
BUILD = "setuptools"
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)")
_SECONDS = 600


def read_lock(text: str) -> dict[str, str]:
    """The entries of a lock by name, each with its hashes as it stands there."""
    entries: dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        match = _ENTRY.match(line)
        if match:
            name = match[1]
            entries[name] = line
        elif name:
            entries[name] += line
    return entries


def requirements(project: Mapping[str, object]) -> list[str]:
    """What the product needs to run: its dependencies, teaching's text detector, setuptools."""
    dependencies: list[str] = project["dependencies"]  # type: ignore[assignment]
    extras: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    return [*dependencies, *extras["teaching"], BUILD]


def without_models(needed: Iterable[str]) -> list[str]:
    """The requirements of a host that does not score."""
    return [each for each in needed if _name(each) not in MODELS]


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return match[0].lower()


def version_of(entry: str) -> str:
    match = _ENTRY.match(entry)
    assert match is not None
    return match[2]


def resolve(needed: Sequence[str], versions: Mapping[str, str], *options: str) -> str:
    """The lock of the requirements and what they need, at these versions. Raises UsageError."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, bounds = Path(folder) / "requirements.in", Path(folder) / "constraints.txt"
        wanted.write_text("".join(f"{each}\n" for each in needed))
        bounds.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
        process = subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", str(wanted), "-c", str(bounds)),
                *("--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--quiet"),
                *("--no-annotate", "--no-header", "--python-version", "3.11", *options),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    if process.returncode != 0:
        raise UsageError(f"uv finds no set of packages: {process.stderr.strip()}")
    return process.stdout


def choose(names: Iterable[str], entries: Mapping[str, str]) -> str:
    """The entries of these names, in order. Raises UsageError for one that there is not."""
    chosen = sorted(names)
    missing = [name for name in chosen if name not in entries]
    if missing:
        raise UsageError(f"requirements.lock lacks {', '.join(missing)}; run make lock first")
    return "".join(entries[name] for name in chosen)


def write_locks(folder: Path) -> None:
    """Write `service.lock` and `models.lock`. Raises UsageError."""
    entries = read_lock((ROOT / "requirements.lock").read_text())
    versions = {name: version_of(entry) for name, entry in entries.items()}
    needed = requirements(_project())
    service = set(read_lock(resolve(without_models(needed), versions)))
    everything = set(read_lock(resolve(needed, versions)))
    (folder / "service.lock").write_text(choose(service, entries))
    (folder / "models.lock").write_text(choose(everything - service, entries))


def write_cpu_lock(folder: Path, index: str) -> None:
    """Write `models-cpu.lock` from an index of PyTorch's builds without CUDA. Raises UsageError."""
    entries = read_lock((ROOT / "requirements.lock").read_text())
    versions = {name: version_of(entry) for name, entry in entries.items()}
    versions |= {name: f"{versions[name]}+cpu" for name in PAIR}
    needed = requirements(_project())
    resolved = read_lock(
        resolve(needed, versions, "--index", index, "--index-strategy", "unsafe-best-match")
    )
    service = read_lock((folder / "service.lock").read_text())
    pair = {name: resolved[name] for name in PAIR}
    lock = choose(set(resolved) - set(service), entries | pair)
    (folder / "models-cpu.lock").write_text(f"--extra-index-url {index}\n{lock}")


def _project() -> Mapping[str, object]:
    project: Mapping[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def main() -> int:
    """Write the locks; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cpu-index", metavar="URL")
    arguments = parser.parse_args()
    folder = ROOT / "deploy" / "requirements"
    folder.mkdir(exist_ok=True)
    try:
        if arguments.cpu_index:
            write_cpu_lock(folder, arguments.cpu_index)
        else:
            write_locks(folder)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
