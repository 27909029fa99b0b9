"""What a digest says: that there is an audit of a day, and where it is read. No number, no name.

Mails pass through other people's machines: there is nothing of a patient in them, and nothing of
what an audit says of a person.
"""

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage

from qc_daemon.language.wording import Wording

MAIL, WEBHOOK = "mail", "webhook"
SIGNATURE_HEADER, TIMESTAMP_HEADER = "X-QC-Signature", "X-QC-Timestamp"


@dataclass(frozen=True, slots=True)
class Digest:
    """An audit for a recipient: `subject` is the person it is about (an id), None for the lab."""

    recipient: str
    audit: str
    day: str
    subject: str | None = None


def mail_message(digest: Digest, sender: str, link: str | None, w: Wording) -> EmailMessage:
    """The mail. Its Message-ID is the same each time, so that one that is sent twice, as after a
    crash between sending and remembering, is known again (RFC 5322, 3.6.4)."""
    message = EmailMessage()
    message["From"], message["To"] = sender, digest.recipient
    message["Subject"] = w.gettext("Image quality: audit of {day}").format(day=digest.day)
    key = f"{digest.recipient} {digest.audit} {digest.day} {digest.subject or ''}"
    name = hmac.digest(b"qc-daemon digest", key.encode(), "sha256").hex()[:32]
    message["Message-ID"] = f"<{name}@{sender.rpartition('@')[2]}>"
    # Out-of-office answers to a machine help nobody (RFC 3834).
    message["Auto-Submitted"] = "auto-generated"
    # Not every server takes letters of eight bits.
    text = "\n".join((*_lines(digest, link, w), ""))
    message.set_content(text, charset="utf-8", cte="quoted-printable")
    return message


def _lines(digest: Digest, link: str | None, w: Wording) -> list[str]:
    if digest.subject is None:
        first = w.gettext("The audit of {day} is there.")
        place, command = f"audits/{digest.day}", f"qc-daemon audit show {digest.day}"
    else:
        first = w.gettext("Your private report of the audit of {day} is there.")
        place = f"people/{digest.subject}?day={digest.day}"
        command = f"qc-daemon report --person {digest.subject} --to {digest.day}"
    where = f"{link}/{place}" if link is not None else command
    return [
        first.format(day=digest.day),
        "",
        where,
        "",
        w.gettext("It judges pictures, not people. This mail holds no numbers on purpose."),
    ]


def webhook_body(digest: Digest, data_sha256: str | None, link: str | None) -> bytes:
    """The JSON that a webhook is called with."""
    body = {
        "event": "audit",
        "audit": digest.audit,
        "date": digest.day,
        "data_sha256": data_sha256,
        "link": None if link is None else f"{link}/audits/{digest.day}",
    }
    return json.dumps(body, separators=(",", ":")).encode()


def signature_headers(body: bytes, secret: str, timestamp: int) -> Mapping[str, str]:
    """HMAC-SHA256 over the seconds since 1970, a full stop and the body: who knows the secret can
    tell that the call is ours, and by the time that it is no old one."""
    signed = str(timestamp).encode() + b"." + body
    digest = hmac.new(secret.encode(), signed, "sha256").hexdigest()
    return {TIMESTAMP_HEADER: str(timestamp), SIGNATURE_HEADER: f"sha256={digest}"}
