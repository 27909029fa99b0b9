"""Where it goes: C-STORE or a folder, with retry."""

from qc_daemon.deliver.worker import run

__all__ = ["run"]
