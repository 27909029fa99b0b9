"""What tests need of the checkout and of the machine."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def require(present: bool, what: str) -> None:
    """Skip the test that lacks `what`, with the reason; in CI nothing may be lacking."""
    if present:
        return
    if os.environ.get("QC_REQUIRE_ALL"):
        pytest.fail(f"{what} is missing and QC_REQUIRE_ALL is set")
    pytest.skip(f"{what} is missing")
