"""Which code runs: two installations of one version number may differ."""

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path

# What a running service is made of; documents and trained models are none of it.
_PACKAGES = ("qc_daemon", "detector", "model", "migrations")
_LENGTH = 12


@cache
def code_digest() -> str:
    """The first 12 hexadecimal digits of the SHA-256 over names and bytes of our Python files, as
    they lie on the disk at the first call."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        folder = Path(str(files(package)))
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{package}/{file.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:_LENGTH]
