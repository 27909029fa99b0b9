"""Whether every package that a host gets may be combined with ours: `make licences`.

The licences are those that the installed packages state (pip-licenses). The product is
AGPL-3.0-or-later; what is not allowed by name has its reason below, or fails.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from detector import console
from detector.console import UsageError
from tools.install_locks import read_lock

NOTICE = Path(__file__).parent.parent / "NOTICE"
LOCKS = Path(__file__).parent.parent / "deploy" / "requirements"
ALLOWED = frozenset(
    {
        "0BSD", "3-Clause BSD License", "Apache 2.0 License", "Apache Software License",
        "Apache-2.0", "BSD", "BSD License", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0",
        "CNRI-Python", "ISC License (ISCL)", "MIT", "MIT License", "MIT-0", "MIT-CMU",
        "Mozilla Public License 2.0 (MPL 2.0)", "MPL-2.0", "PSF-2.0",
        "Python Software Foundation License", "Zlib",
        "AGPL-3.0-only", "AGPL-3.0-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later",
        "GNU Affero General Public License v3 or later (AGPLv3+)",
    }
)  # fmt: skip
"""As packages write them: permissive ones, and copyleft that AGPL-3.0 may be combined with."""

_NVIDIA = (
    "CUDA's libraries are fetched from the package index by whoever installs for a GPU, and are no"
    " part of what we hand out; who hands out an image with them needs NVIDIA's agreement. The"
    " variants without CUDA have none of them."
)
REASONS: Mapping[str, str] = {
    "pylibjpeg-libjpeg": (
        "GPL-3.0, which section 13 of the AGPL lets be combined; its classifier 'Other' is that of"
        " the bundled libjpeg (GPL-3.0)."
    ),
    "cuda-toolkit": f"names no licence; an empty package that asks for others. {_NVIDIA}",
    "nvidia-*": _NVIDIA,
}
"""Packages whose licence is not allowed by name: why they may be there all the same."""


def normalise(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parts(licence: str) -> list[str]:
    """The licences of an SPDX expression, or of several classifiers."""
    names = [each.strip() for each in re.split(r"; | AND | OR ", licence)]
    # A bracket of the expression, not of a name.
    return [each if each.count("(") == each.count(")") else each.strip("()") for each in names]


def is_allowed(licence: str) -> bool:
    """Whether all of the licences are allowed, of alternatives one."""
    each_allowed = [each in ALLOWED for each in parts(licence)]
    is_alternative = " OR " in licence and " AND " not in licence
    return any(each_allowed) if is_alternative else all(each_allowed)


def reason_for(name: str) -> str | None:
    """The reason for a package, by its name or the beginning of it."""
    for pattern, reason in REASONS.items():
        if re.fullmatch(pattern.replace("*", ".*"), name):
            return reason
    return None


def problems(locked: Iterable[str], licences: Mapping[str, str]) -> Iterator[str]:
    """A line for each locked package that may not be there, and for each reason of none."""
    names = sorted(map(normalise, locked))
    for name in names:
        licence = licences.get(name)
        if licence is None:
            yield f"{name}: is not installed here, so its licence is not known"
        elif not is_allowed(licence) and reason_for(name) is None:
            yield f"{name}: {licence} is not allowed; see tools/licences.py"
    for pattern in REASONS:
        if not any(re.fullmatch(pattern.replace("*", ".*"), name) for name in names):
            yield f"{pattern}: has a reason, and no lock has it"


_NOTICE_LINE = re.compile(r"  (\S.*?) {2,}(\S.*)")
# Names of projects whose packages are called otherwise.
_PACKAGES = {"pyav": "av", "pytorch": "torch", "opencv": "opencv-python-headless"}
# What packages write, as NOTICE has it (SPDX); a short "BSD" may be either.
_SPDX: Mapping[str, tuple[str, ...]] = {
    "3-Clause BSD License": ("BSD-3-Clause",),
    "Apache 2.0 License": ("Apache-2.0",),
    "Apache Software License": ("Apache-2.0",),
    "BSD": ("BSD-2-Clause", "BSD-3-Clause"),
    "BSD License": ("BSD-2-Clause", "BSD-3-Clause"),
    "GNU Affero General Public License v3 or later (AGPLv3+)": ("AGPL-3.0",),
    "GNU General Public License v3 (GPLv3)": ("GPL-3.0",),
    "MIT License": ("MIT",),
}


def noticed(notice: str) -> Iterator[tuple[str, str]]:
    """Each package that NOTICE names with a licence, by its normalised name."""
    table = notice.partition("under its own licence):\n")[2].partition("\n\n")[0]
    for line in table.splitlines():
        match = _NOTICE_LINE.fullmatch(line)
        if match is None:
            continue
        for name in match[1].split(", "):
            normalised = normalise(name)
            yield _PACKAGES.get(normalised, normalised), match[2]


def notice_problems(notice: str, licences: Mapping[str, str]) -> Iterator[str]:
    """A line for each package whose licence NOTICE has otherwise than the package itself."""
    for name, written in noticed(notice):
        stated = licences.get(name)
        if stated is None:
            yield f"NOTICE: {name} is not installed here, so its licence is not known"
            continue
        families = [{_family(spdx) for spdx in _SPDX.get(each, (each,))} for each in parts(stated)]
        words = {_family(each) for each in re.findall(r"[A-Za-z0-9.-]+", written)}
        if not any(family & words for family in families):
            yield f"NOTICE: {name} is under {stated}, and not under {written}"


def _family(licence: str) -> str:
    """A licence without which later versions may be taken: GPL-3.0-only is GPL-3.0."""
    return re.sub(r"-(only|or-later)$", "", licence).lower()


def locked_packages() -> set[str]:
    """The packages of a host that scores."""
    return {
        name
        for lock in ("service.lock", "models.lock")
        for name in read_lock((LOCKS / lock).read_text(encoding="utf-8"))
    }


def installed_licences() -> dict[str, str]:
    """The licence of each installed package by its normalised name. Raises UsageError."""
    process = subprocess.run(
        [sys.executable, "-m", "piplicenses", "--format=json", "--from=mixed", "--with-system"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if process.returncode:
        raise UsageError(f"pip-licenses: {process.stderr.strip().splitlines()[-1:]}")
    return {normalise(each["Name"]): each["License"] for each in json.loads(process.stdout)}


def main() -> None:
    sys.exit(console.run(_check))


def _check() -> None:
    locked, licences = locked_packages(), installed_licences()
    lines = list(problems(locked, licences))
    lines += notice_problems(NOTICE.read_text(encoding="utf-8"), licences)
    for line in lines:
        print(line)
    for name in sorted(map(normalise, locked)):
        if not is_allowed(licences.get(name, "")):
            print(f"{name}: {licences.get(name)}; {reason_for(name)}")
    if lines:
        sys.exit(console.FAILED)
    print(f"{len(locked)} packages may be combined with AGPL-3.0-or-later")


if __name__ == "__main__":
    main()
