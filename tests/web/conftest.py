"""Sites for tests, with passwords that are hashed quickly."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qc_daemon.operations import passwords
from tests.support.accounts import QUICK_HASHER
from tests.support.web_site import WebSite, web_site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebSite]:
    """A site for one test."""
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
    with web_site(tmp_path) as site:
        yield site


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebSite]:
    """A site for the tests of a module, none of which minds what the others changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
        with web_site(tmp_path_factory.mktemp("site")) as site:
            yield site
