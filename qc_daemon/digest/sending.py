"""Sends digests: a mail by SMTP (RFC 5321), a call over HTTP; failures are errors with a code."""

import os
import smtplib
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from pathlib import Path

import requests

from detector.errors import ErrorCode, QCError
from qc_daemon.settings import MailSettings, WebhookSettings

TIMEOUT_SECONDS = 30.0


def greet_mail_server(settings: MailSettings) -> None:
    """Connect and log in as for a mail, and send none. Raises QCError as `send_mail`."""
    _translate(None, settings)


def send_mail(message: EmailMessage, settings: MailSettings) -> None:
    """Hand the mail to the server of the settings.

    Raises QCError: DELIVERY_REFUSED where it will never be taken (5yz), DELIVERY_FAILED where it
    may be later (4yz), DELIVERY_FORBIDDEN for TLS and who we are, DELIVERY_UNREACHABLE else.
    """
    _translate(message, settings)


def _translate(message: EmailMessage | None, settings: MailSettings) -> None:
    """`_send` with its errors as QCError."""
    try:
        _send(message, settings)
    except smtplib.SMTPAuthenticationError as error:
        raise _error(ErrorCode.DELIVERY_FORBIDDEN, "refused user or password", error) from error
    except smtplib.SMTPNotSupportedError as error:
        what = "offers no STARTTLS or no login that we can"
        raise _error(ErrorCode.DELIVERY_FORBIDDEN, what, error) from error
    except smtplib.SMTPRecipientsRefused as error:
        code = max(status for status, _ in error.recipients.values())
        raise _refusal(code) from error
    except smtplib.SMTPResponseException as error:
        raise _refusal(error.smtp_code) from error
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", None) or error.reason or "TLS"
        raise _error(ErrorCode.DELIVERY_FORBIDDEN, f"cannot be trusted: {reason}", error) from error
    except (OSError, smtplib.SMTPException) as error:
        raise _error(ErrorCode.DELIVERY_UNREACHABLE, "cannot be reached", error) from error


def _send(message: EmailMessage | None, settings: MailSettings) -> None:
    context = ssl.create_default_context(cafile=settings.ca and str(settings.ca))
    host = settings.host or ""
    if settings.security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            host, settings.port, timeout=TIMEOUT_SECONDS, context=context
        )
    else:
        server = smtplib.SMTP(host, settings.port, timeout=TIMEOUT_SECONDS)
    with server:
        if settings.security == "starttls":
            server.starttls(context=context)
        if settings.user is not None and settings.password is not None:
            server.login(settings.user, read_secret(settings.password, "mail.password"))
        if message is not None:
            server.send_message(message)


def _refusal(code: int) -> QCError:
    if code >= 500:
        return QCError(ErrorCode.DELIVERY_REFUSED, f"the mail server refused it ({code})")
    return QCError(ErrorCode.DELIVERY_FAILED, f"the mail server put it off ({code})")


def _error(code: ErrorCode, what: str, error: Exception) -> QCError:
    # A server's words may quote addresses: only the kind of error is told.
    return QCError(code, f"the mail server {what} ({type(error).__name__})")


def call_webhook(settings: WebhookSettings, body: bytes, headers: Mapping[str, str]) -> None:
    """POST the body. Raises QCError as `send_mail`: 4xx but for 408 and 429 are never taken."""
    name = f"webhook {settings.name}"
    try:
        answer = requests.post(
            settings.url,
            data=body,
            headers={"Content-Type": "application/json", **headers},
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
            verify=True if settings.ca is None else str(settings.ca),
        )
    except requests.exceptions.SSLError as error:
        raise QCError(ErrorCode.DELIVERY_FORBIDDEN, f"{name} cannot be trusted (TLS)") from error
    except requests.RequestException as error:
        kind = type(error).__name__
        raise QCError(
            ErrorCode.DELIVERY_UNREACHABLE, f"{name} cannot be reached ({kind})"
        ) from error
    status = answer.status_code
    if 200 <= status < 300:
        return
    if status in (401, 403):
        raise QCError(ErrorCode.DELIVERY_FORBIDDEN, f"{name} does not accept us ({status})")
    if 300 <= status < 500 and status not in (408, 429):
        raise QCError(ErrorCode.DELIVERY_REFUSED, f"{name} refused it ({status})")
    raise QCError(ErrorCode.DELIVERY_FAILED, f"{name} failed ({status})")


def read_secret(source: str, setting: str) -> str:
    """The secret at `env:NAME` or `file:PATH`. Raises QCError DELIVERY_FORBIDDEN."""
    kind, _, place = source.partition(":")
    try:
        secret = os.environ[place] if kind == "env" else Path(place).read_text(encoding="utf-8")
    except (KeyError, OSError, UnicodeDecodeError):
        secret = ""
    if not secret.strip() or not secret.strip().isprintable():
        where = f"the environment variable {place}" if kind == "env" else f"the file {place}"
        raise QCError(ErrorCode.DELIVERY_FORBIDDEN, f"{setting} is not in {where}")
    return secret.strip()
