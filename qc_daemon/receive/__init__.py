"""What arrives: association policy, C-STORE, spool."""

from qc_daemon.receive.places import Places
from qc_daemon.receive.scp import Receiver, listen
from qc_daemon.receive.spool import Spool
from qc_daemon.receive.tls import Handshake, check_tls

__all__ = ["Handshake", "Places", "Receiver", "Spool", "check_tls", "listen"]
