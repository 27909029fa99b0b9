"""The default bundle's findings on fixed phantoms are those of the golden file."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.bundle.bundle import Bundle
from model.judge import Judge
from tools.golden_findings import phantom_findings

GOLDEN = Path(__file__).with_name("golden_findings.jsonl")
# Other processors round differently in the last places of single precision.
TOLERANCE = 1e-4


def test_the_default_bundle_gives_the_findings_of_the_golden_file() -> None:
    golden = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    judge = Judge.open(Bundle.open("default"), device="cpu")
    findings = list(phantom_findings(judge))
    assert len(findings) == len(golden) == 24
    for finding, expected in zip(findings, golden, strict=True):
        assert_same(finding, expected, expected["source"])


def assert_same(value: Any, expected: Any, path: str) -> None:
    """Equal but for numbers that are not whole, which may differ by the tolerance."""
    assert type(value) is type(expected), path
    if isinstance(expected, dict):
        assert value.keys() == expected.keys(), path
        for key in expected:
            assert_same(value[key], expected[key], f"{path} / {key}")
    elif isinstance(expected, list):
        assert len(value) == len(expected), path
        for number, (item, expected_item) in enumerate(zip(value, expected, strict=True)):
            assert_same(item, expected_item, f"{path} / {number}")
    elif isinstance(expected, float):
        assert value == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE), path
    else:
        assert value == expected, path
