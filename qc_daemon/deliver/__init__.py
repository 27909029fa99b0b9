"""Where it goes: C-STORE, STOW-RS or a folder, with retry; and storage commitment, both ways."""

from qc_daemon.deliver.worker import run

__all__ = ["run"]
