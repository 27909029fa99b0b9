"""The SCP: who may connect, and what is stored, committed to and noted as performed."""

from qc_daemon.receive.receiver import Receiver, listen
from qc_daemon.receive.slots import AssociationSlots
from qc_daemon.receive.tls import Handshake, check_tls
from qc_daemon.spool.spool import Spool

__all__ = ["AssociationSlots", "Handshake", "Receiver", "Spool", "check_tls", "listen"]
