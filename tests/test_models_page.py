"""docs/models.md names tests that there are, for each fault of the published code."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "models.md"


def test_each_fault_has_a_test_that_there_is() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Faults of the published code")[2]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| ")]
    faults = [row for row in rows if row[1].strip() != "test"]
    assert len(faults) > 60
    for fault, tests in faults:
        quoted = re.findall(r"`([^`]+)`", tests)
        named = [each for each in quoted if each.endswith(".py")]
        assert named or tests.strip().startswith("none"), fault
        file = ""
        for each in quoted:
            if each.endswith(".py"):
                assert (TESTS.parent / each).is_file(), f"{fault}: {each}"
                file = (TESTS.parent / each).read_text(encoding="utf-8")
            elif each.startswith("test_"):
                assert f"def {each}(" in file, f"{fault}: {each}"
