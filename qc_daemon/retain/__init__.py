"""What stays: dropping originals whose time has passed, fetching them back, files against rows."""

from qc_daemon.retain.originals import Originals
from qc_daemon.retain.retention import Retention
from qc_daemon.retain.scrub import Scrub

__all__ = ["Originals", "Retention", "Scrub"]
