"""Originals in the spool: dropped once destinations have them, fetched back, and verified."""

from qc_daemon.retain.originals import Originals
from qc_daemon.retain.retention import Retention
from qc_daemon.retain.scrub import Scrub

__all__ = ["Originals", "Retention", "Scrub"]
