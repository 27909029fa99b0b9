"""A site for each test, with passwords that are hashed quickly."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qc_daemon.operations import passwords
from tests.support.accounts import QUICK_HASHER
from tests.support.web_site import WebSite, web_site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebSite]:
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
    with web_site(tmp_path) as site:
        yield site
