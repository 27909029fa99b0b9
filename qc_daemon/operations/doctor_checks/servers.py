"""Servers that are told something: mail, and audit record repositories."""

import socket

from detector.plain_text import count_of
from qc_daemon.audit_trail.chain import FormError, read_head
from qc_daemon.audit_trail.forwarding import read_state
from qc_daemon.audit_trail.recorder import chain_folder
from qc_daemon.digest.sending import greet_mail_server
from qc_daemon.operations.doctor_checks.check_result import NoticeError
from qc_daemon.settings import Settings
from qc_daemon.worklist.query import open_worklist

MANY_WAITING = 1000
_CONNECT_SECONDS = 5.0


def check_mail(settings: Settings) -> str:
    """Greet the mail server and log in; no mail is sent. Raises QCError."""
    mail = settings.mail
    if mail.host is None:
        return "no digest goes by mail (mail.host names no server)"
    greet_mail_server(mail)
    return f"{mail.host}:{mail.port} takes us; no mail was sent"


def check_worklist(settings: Settings) -> str:
    """Open an association with the worklist; nobody is asked for. Raises QCError."""
    worklist = settings.worklist
    if worklist.host is None:
        return "none is asked (worklist.host names none)"
    with open_worklist(worklist, settings.receive.ae_title):
        return f"{worklist.ae_title}@{worklist.host}:{worklist.port} takes queries"


def check_audit_log(settings: Settings) -> str:
    """The log can be written, and its servers get it. Raises OSError."""
    folder = chain_folder(settings)
    try:
        head = read_head(folder)
    except FormError as error:
        raise OSError(0, f"{folder}: {error}; see qc-daemon audit-log verify") from error
    words = "no record yet" if head is None else f"{count_of(head.sequence, 'record')}"
    late = []
    for server in settings.audit_log.server:
        state = read_state(folder, server.name)
        waiting = 0 if state is None else state.waiting
        if server.protocol == "tls":
            try:
                socket.create_connection((server.host, server.port), _CONNECT_SECONDS).close()
            except OSError as error:
                raise OSError(
                    0,
                    f"server {server.name} does not answer on {server.host}:{server.port}"
                    f" ({(error.strerror or 'no answer').lower()}); {waiting} messages wait in the"
                    " audit log",
                ) from error
        if waiting > MANY_WAITING:
            late.append(f"{waiting} messages wait for {server.name}")
    if late:
        raise NoticeError(f"{'; '.join(late)}: see the event audit messages not sent")
    return words
