"""What the audit log of some settings has."""

from pathlib import Path
from typing import Any

from qc_daemon.audit_trail.recorder import chain_folder
from qc_daemon.audit_trail.verification import read_records, verify
from qc_daemon.settings import Settings


def records(of: Settings | Path) -> list[dict[str, Any]]:
    """The records of this machine's chain, which is sound, or of a chain's folder."""
    folder = of if isinstance(of, Path) else chain_folder(of)
    assert verify(folder).problems == []
    return [dict(body) for _, body in read_records(folder)]


def kinds(of: Settings | Path) -> list[str]:
    """Their kinds, in order."""
    return [each["kind"] for each in records(of)]


def content(settings: Settings) -> str:
    """All that stands in the folder."""
    folder = chain_folder(settings)
    return "\n".join(path.read_text() for path in sorted(folder.iterdir()))
