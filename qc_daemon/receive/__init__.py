"""What arrives: association policy, C-STORE, spool."""

from qc_daemon.receive.receiver import Receiver, listen
from qc_daemon.receive.slots import Places
from qc_daemon.receive.tls import Handshake, check_tls
from qc_daemon.spool.spool import Spool

__all__ = ["Handshake", "Places", "Receiver", "Spool", "check_tls", "listen"]
