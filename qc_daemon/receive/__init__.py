"""What arrives: association policy, C-STORE, spool."""

from qc_daemon.receive.receiver import Receiver, listen
from qc_daemon.receive.slots import AssociationSlots
from qc_daemon.receive.tls import Handshake, check_tls
from qc_daemon.spool.spool import Spool

__all__ = ["AssociationSlots", "Handshake", "Receiver", "Spool", "check_tls", "listen"]
