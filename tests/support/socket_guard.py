"""Run processes under the socket guard, and read what it saw."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SocketGuard:
    """`environment` puts a process and all its Python children under the guard."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        # A copy beside the files that it writes to: a process that gives its children no other
        # variable still gives them its path.
        shutil.copy(Path(__file__).parent / "offline_guard" / "sitecustomize.py", self.folder)
        root = Path(__file__).parents[2]
        paths = [str(self.folder), str(root), os.environ.get("PYTHONPATH", "")]
        return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def outside(self) -> list[str]:
        """What was tried: one line for each address that is not loopback."""
        return _lines(self.folder / "outside.log")

    def processes(self) -> list[str]:
        """The command line of each guarded process."""
        return _lines(self.folder / "processes.log")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
