"""docs/requirements.md names tests that there are."""

import ast
import re

import pytest

from tests.support.environment import ROOT

TEXT = (ROOT / "docs" / "requirements.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", TEXT)))


def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}


@pytest.mark.parametrize("name", NAMES)
def test_a_named_test_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert function in functions(path)


def test_each_requirement_has_a_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| requirement")]
    assert len(rows) > 35
    assert [row for row in rows if "tests/" not in row] == []
