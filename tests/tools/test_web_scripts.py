"""Scripts of others: exactly the files that were chosen, and where the pages look for them."""

from dataclasses import replace
from pathlib import Path

import pytest

from qc_daemon.web.static_files import HTMX
from tools import web_scripts
from tools.web_scripts import AXE, SCRIPTS, VENDOR, is_there, put


def test_the_build_step_has_put_them_there() -> None:
    assert web_scripts.main() == 0
    assert all(is_there(script) for script in SCRIPTS)
    assert SCRIPTS[0].target == HTMX
    # What tests run beside the pages is not among the files that are served.
    assert VENDOR not in AXE.target.parents


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = SCRIPTS[0].target.read_bytes()
    monkeypatch.setattr(web_scripts, "VENDOR", tmp_path)
    with pytest.raises(RuntimeError, match="another file"):
        put(SCRIPTS[0], content + b"\n")
    assert not is_there(SCRIPTS[0])
    put(SCRIPTS[0], content)
    assert is_there(SCRIPTS[0])
    assert not is_there(replace(SCRIPTS[0], sha256="0" * 64))


def test_without_npm_pages_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_scripts, "VENDOR", tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("QC_REQUIRE_ALL", raising=False)
    assert web_scripts.main() == 0
    monkeypatch.setenv("QC_REQUIRE_ALL", "1")
    assert web_scripts.main() == 1
