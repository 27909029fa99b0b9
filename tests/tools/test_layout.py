"""The tests stand in the rooms of what they test, and what two folders use is in tests/support."""

import ast
from pathlib import Path

from tests.support.environment import ROOT

TESTS = ROOT / "tests"
NOT_A_ROOM = {"support", "interop", "faults", "deploy"}
"""Helpers, tests that need the whole service (between real peers, and under faults), and those of
deploy/, which is no Python."""
PACKAGES = {"detector", "model", "training", "tools"}
"""Packages of their own; every other folder of tests is one of qc_daemon."""


def room(folder: Path) -> Path:
    """The package that the tests of this folder are about."""
    parts = folder.relative_to(TESTS).parts
    return ROOT.joinpath(*([] if parts[0] in PACKAGES else ["qc_daemon"]), *parts)


def test_each_folder_of_tests_is_a_room_of_the_code() -> None:
    folders = {path.parent for path in TESTS.rglob("test_*.py")} - {TESTS}
    rooms = {each for each in folders if each.relative_to(TESTS).parts[0] not in NOT_A_ROOM}
    assert [str(each) for each in sorted(rooms) if not any(room(each).glob("*.py"))] == []


def test_tests_import_helpers_from_their_own_folder_or_from_support() -> None:
    wrong = []
    for path in sorted(TESTS.rglob("*.py")):
        own = ("tests", *path.relative_to(TESTS).parts[:-1])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
                source = tuple(str(node.module).split("."))
                if source[:2] != ("tests", "support") and source[:-1] != own:
                    wrong.append(f"{path.relative_to(ROOT)} imports {node.module}")
    assert wrong == []


def test_only_tests_and_fixtures_stand_beside_tests() -> None:
    others = [
        str(path.relative_to(ROOT))
        for path in sorted(TESTS.rglob("*.py"))
        if path.relative_to(TESTS).parts[0] != "support"
        and not path.name.startswith("test_")
        # Python loads it by this name, from the folder that it is told.
        and path.name not in ("conftest.py", "sitecustomize.py")
    ]
    assert others == []
