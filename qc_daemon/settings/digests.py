"""Who is told that an audit is done (`[mail]`, `[[webhook]]`)."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from qc_daemon.settings.section import MailAddress, Name, Port, Secret, Section, WebAddress


class MailRecipient(Section):
    """Who gets a digest of each audit by mail (`[[mail.recipient]]`)."""

    address: MailAddress = Field(description="mail address")
    person: str | None = Field(
        default=None,
        description="id of the person whose private report it points to, as in `person list`;"
        " without it the digest is the lab's",
    )
    language: Literal["en", "de", "zh"] | None = Field(
        default=None, description="of the mail; else report.language"
    )


class MailSettings(Section):
    """Digests of audits by SMTP; off unless a host is named. A mail has links, and no numbers."""

    host: str | None = Field(default=None, description="mail server (SMTP)")
    port: Port = Field(default=587, description="its port")
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="how the connection is made secret"
    )
    ca: Path | None = Field(
        default=None, description="authority of the server's certificate (PEM); else the system's"
    )
    user: str | None = Field(default=None, min_length=1, description="user name, with `password`")
    password: Secret | None = Field(
        default=None, description="`env:NAME` or `file:PATH` of the password"
    )
    sender: MailAddress | None = Field(default=None, description="address that mails are from")
    link: WebAddress | None = Field(
        default=None,
        description="where reports are read, as https://qc.example.org; without it a mail names the"
        " command",
    )
    per_minute: int = Field(
        default=30, ge=1, le=6000, description="at most so many digests a minute"
    )
    recipient: list[MailRecipient] = Field(default=[], description="see below")


class WebhookSettings(Section):
    """What is called when an audit is done (`[[webhook]]`): a POST of JSON, signed by HMAC-SHA256
    over the header X-QC-Timestamp, a full stop and the body."""

    name: Name = Field(description="its name in lists")
    url: WebAddress = Field(description="called by POST")
    secret: Secret = Field(description="`env:NAME` or `file:PATH` of the key of the signature")
    ca: Path | None = Field(
        default=None, description="authority of the server's certificate (PEM); else the usual"
    )
