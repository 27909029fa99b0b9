"""What arrives: association policy, C-STORE, spool."""

from qc_daemon.receive.scp import Receiver, listen
from qc_daemon.receive.spool import Spool

__all__ = ["Receiver", "Spool", "listen"]
