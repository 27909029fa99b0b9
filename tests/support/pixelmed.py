"""PixelMed's DicomSRValidator (Debian: pixelmed-apps) over many reports in one Java process."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

JAR = Path("/usr/share/java/pixelmed.jar")
_PROGRAM = Path(__file__).parent / "Validate.java"
# Its rules are larger than Java's XSLT compiler allows by default.
_LIMITS = ("xpathExprGrpLimit", "xpathExprOpLimit", "xpathTotalOpLimit")
_PLACE = re.compile(r"(Error|Warning): (?:(.*?): )?1(?:\.\d+)*: ")


def present() -> bool:
    """Whether it can run: the validator, and the compiler that starts our loop over it."""
    return JAR.is_file() and shutil.which("javac") is not None


def validate(paths: Iterable[Path]) -> dict[str, list[str]]:
    """By file name the errors and warnings it prints, without the number of the content item."""
    names = [str(path) for path in paths]
    options = [f"-Djdk.xml.{name}=0" for name in _LIMITS]
    # A report of 160 kB needs more than 2 GB here.
    process = subprocess.run(
        ["java", "-Xmx4g", "-Xss8m", *options, "-cp", str(JAR), str(_PROGRAM)],
        input="\n".join(names),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[:2000]
    lines_by_file: dict[str, list[str]] = {}
    for part in process.stdout.split("== ")[1:]:
        name, _, text = part.partition("\n")
        assert "Root Template Validation Complete" in text, name
        assert "IOD validation complete" in text, name
        lines_by_file[Path(name).name] = [
            _PLACE.sub(r"\1: ", line)
            for line in text.splitlines()
            if line.startswith(("Error", "Warning"))
        ]
    assert len(lines_by_file) == len(names)
    return lines_by_file
