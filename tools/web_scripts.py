"""Puts the scripts of others, which pages load, beside ours: `python -m tools.web_scripts`.

None is committed. Each is of a package of the npm registry, fetched by its client (`npm pack`), and
what is not exactly the file whose SHA-256 stands here is refused. Pages work without them.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parent.parent
VENDOR = _ROOT / "qc_daemon" / "web" / "static" / "vendor"
TEST_SCRIPTS = _ROOT / "build" / "test-scripts"
_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Script:
    """A file of a package, by its path there, and what it has to be; `is_for_tests`: no page loads
    it."""

    package: str
    path: str
    sha256: str
    is_for_tests: bool = False

    @property
    def target(self) -> Path:
        """Where pages, or tests, load it from."""
        return (TEST_SCRIPTS if self.is_for_tests else VENDOR) / Path(self.path).name


SCRIPTS = (
    # 0BSD: no notice has to go with it.
    Script(
        "htmx.org@4.0.1",
        "package/dist/htmx.min.js",
        "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130",
    ),
)

AXE = Script(
    # MPL-2.0: run by tests in their browser, part of nothing that we give away.
    "axe-core@4.14.1",
    "package/axe.min.js",
    "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c",
    is_for_tests=True,
)


def is_there(script: Script) -> bool:
    """Whether the script stands where pages load it from, and is what it has to be."""
    return script.target.is_file() and _sha256(script.target.read_bytes()) == script.sha256


def fetch(script: Script) -> None:
    """Fetch the script. Raises RuntimeError if that fails or it is another file."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.run(
            ["npm", "pack", script.package, "--silent", "--pack-destination", folder],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        archives = list(Path(folder).glob("*.tgz"))
        if process.returncode != 0 or len(archives) != 1:
            raise RuntimeError(f"{script.package} cannot be fetched with npm pack")
        with tarfile.open(archives[0]) as archive:
            member = archive.extractfile(script.path)
            content = b"" if member is None else member.read()
    put(script, content)


def put(script: Script, content: bytes) -> None:
    """Put the content where pages load it from. Raises RuntimeError for another file's."""
    if _sha256(content) != script.sha256:
        raise RuntimeError(f"{script.path} of {script.package} is another file than it was")
    script.target.parent.mkdir(parents=True, exist_ok=True)
    script.target.write_bytes(content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> int:
    """Fetch what is missing; without npm say so, which fails only under QC_REQUIRE_ALL."""
    missing = [script for script in SCRIPTS if not is_there(script)]
    if missing and shutil.which("npm") is None:
        print("npm is missing: pages do without htmx", file=sys.stderr)
        return 1 if os.environ.get("QC_REQUIRE_ALL") else 0
    for script in missing:
        try:
            fetch(script)
        except (RuntimeError, OSError, subprocess.TimeoutExpired, tarfile.TarError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
