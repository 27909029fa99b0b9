"""Database and spool saved together, and brought back.

A backup is a folder: `manifest.json`, the database (`qc.db`, or `tables/*.copy` of PostgreSQL), and
`spool/` as the service keeps it. The manifest is written last: a folder without one is no backup.
"""

from qc_daemon.backup.decision import Comparison, Decision, DecisionKind
from qc_daemon.backup.manifest import Manifest
from qc_daemon.backup.restore import LaterObject, Restoration, restore
from qc_daemon.backup.save import save

__all__ = [
    "Comparison",
    "Decision",
    "DecisionKind",
    "LaterObject",
    "Manifest",
    "Restoration",
    "restore",
    "save",
]
