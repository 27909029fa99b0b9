"""Accounts for an operator: who may use pages and API, their sessions and tokens."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import count_of
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.language.catalogues import check_language
from qc_daemon.operations.passwords import (
    TOKEN_PREFIX,
    hash_password,
    new_token,
    parse_password,
    token_sha256,
)
from qc_daemon.operations.reviews import parse_reader
from qc_daemon.operations.shared import open_store, parse_choices
from qc_daemon.records.accounts import accounts, api_tokens, login_identities, web_sessions
from qc_daemon.records.accounts.accounts import Account
from qc_daemon.records.acquisition import identities
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.tables import IdentityKind
from qc_daemon.settings import Settings
from qc_daemon.settings.web import WebSettings
from qc_daemon.verbs import Verb

MAX_TOKEN_DAYS = 366
ACCOUNT_COLUMNS = (
    "name",
    "full_name",
    "role",
    "person",
    "language",
    "state",
    "created",
    "sessions",
    "tokens",
    "subject",
)
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{1,63}")


def parse_account_name(value: str) -> str:
    """The name that one logs in by, in small letters. Raises UsageError."""
    name = value.strip().casefold()
    if not _NAME.fullmatch(name):
        raise UsageError(f"{value}: a name has 2 to 64 letters a-z, digits and . _ @ -")
    return name


def add_account(
    settings: Settings,
    name: str,
    full_name: str,
    role: str,
    password: str,
    *,
    person: str | None = None,
    language: str | None = None,
    clock: Clock = utc_now,
) -> str:
    """Make an account; `full_name` is the reader of its reviews, `person` the operator whose images
    are its own. Returns a line that says so. Raises UsageError, QCError."""
    name, full_name = parse_account_name(name), parse_reader(full_name)
    _require_role(settings.web, role)
    hashed = hash_password(parse_password(password, name))
    if language is not None:
        check_language(language)
    with open_store(settings).begin() as session:
        if accounts.by_name(session, name) is not None:
            raise QCError(ErrorCode.STORAGE, f"there is an account {name}; see user list")
        if accounts.by_full_name(session, full_name) is not None:
            raise QCError(
                ErrorCode.STORAGE,
                f"an account has the full name {full_name}: reviews would not say which of the two",
            )
        _require_person(session, person)
        accounts.insert(
            session,
            name,
            full_name,
            role,
            hashed,
            clock(),
            person_id=person,
            language=language,
        )
    _record(settings, name, "added", role=role)
    return f"account {name}: {role}, added"


def list_accounts(settings: Settings, clock: Clock = utc_now) -> list[dict[str, Any]]:
    """A row of ACCOUNT_COLUMNS for each account."""
    now, idle = clock(), timedelta(minutes=settings.web.idle_minutes)
    with open_store(settings).read() as session:
        every = accounts.listing(session)
        subjects = {each.id: login_identities.subjects(session, each.id) for each in every}
        in_use = [each.account.id for each in web_sessions.listing(session, now, idle)]
        tokens = {
            each.id: [
                token.name
                for token in api_tokens.listing(session, each.id)
                if token.revoked_at is None and token.expires_at > now
            ]
            for each in every
        }
    return [
        {
            "name": each.name,
            "full_name": each.full_name,
            "role": each.role if each.role in settings.web.roles else f"{each.role} (unknown)",
            "person": each.person_id,
            "language": each.language,
            "state": "enabled" if each.is_enabled else "disabled",
            "created": each.created_at.isoformat(timespec="seconds"),
            "sessions": in_use.count(each.id),
            "tokens": tokens[each.id],
            "subject": subjects[each.id],
        }
        for each in every
    ]


def set_password(settings: Settings, name: str, password: str, clock: Clock = utc_now) -> str:
    """Give the account another password, and end its sessions. Raises UsageError, QCError."""
    hashed = hash_password(parse_password(password, parse_account_name(name)))
    with open_store(settings).begin() as session:
        account, now = require_account(session, name), clock()
        accounts.set_password(session, account.id, hashed, now)
        ended = web_sessions.end(session, now, account_id=account.id)
    _record(settings, account.name, "password changed")
    return f"account {account.name}: new password, {count_of(ended, 'session')} ended"


def disable_account(settings: Settings, name: str, clock: Clock = utc_now) -> str:
    """Let the account in no more: its sessions end, its tokens do not count."""
    with open_store(settings).begin() as session:
        account, now = require_account(session, name), clock()
        if not account.is_enabled:
            return f"account {account.name} was disabled already"
        accounts.set_enabled(session, account.id, now, enabled=False)
        ended = web_sessions.end(session, now, account_id=account.id)
    _record(settings, account.name, "disabled")
    return f"account {account.name}: disabled, {count_of(ended, 'session')} ended"


def enable_account(settings: Settings, name: str, clock: Clock = utc_now) -> str:
    """Let the account in again."""
    with open_store(settings).begin() as session:
        account = require_account(session, name)
        if account.is_enabled:
            return f"account {account.name} is enabled already"
        accounts.set_enabled(session, account.id, clock(), enabled=True)
    _record(settings, account.name, "enabled")
    return f"account {account.name}: enabled"


def change_account(
    settings: Settings, name: str, *, role: str | None = None, person: str | None = None
) -> str:
    """Give the account another role or person (empty: none). Raises UsageError, QCError."""
    if role is None and person is None:
        raise UsageError("give --role or --person")
    if role is not None:
        _require_role(settings.web, role)
    with open_store(settings).begin() as session:
        account = require_account(session, name)
        if role is not None:
            accounts.set_role(session, account.id, role)
        if person is not None:
            _require_person(session, person or None)
            accounts.set_person(session, account.id, person or None)
        account = require_account(session, name)
    whose = "" if account.person_id is None else f", person {account.person_id}"
    _record(settings, account.name, "changed", role=account.role, person=account.person_id)
    return f"account {account.name}: {account.role}{whose}"


def link_account(settings: Settings, name: str, subject: str, clock: Clock = utc_now) -> str:
    """Let whom the OpenID provider of the settings calls `subject` log in as the account. Raises
    UsageError, QCError."""
    if settings.web.oidc is None:
        raise UsageError("the settings name no provider; see [web.oidc]")
    if not subject.strip() or not subject.isprintable():
        raise UsageError("subject: give the claim sub of the person, as the provider shows it")
    issuer = settings.web.oidc.issuer
    with open_store(settings).begin() as session:
        account = require_account(session, name)
        other = login_identities.find(session, issuer, subject)
        if other is not None:
            raise QCError(ErrorCode.STORAGE, f"that person is the account {other.name} already")
        if login_identities.subjects(session, account.id):
            raise QCError(
                ErrorCode.STORAGE,
                f"account {account.name} is another person of a provider; see user unlink",
            )
        login_identities.insert(session, account.id, issuer, subject, clock())
    _record(settings, account.name, "linked")
    return f"account {account.name}: is {subject} of {issuer}"


def unlink_account(settings: Settings, name: str, clock: Clock = utc_now) -> str:
    """Let no provider's person log in as the account any more; its sessions end. Raises QCError."""
    with open_store(settings).begin() as session:
        account = require_account(session, name)
        if not login_identities.remove(session, account.id):
            raise QCError(ErrorCode.STORAGE, f"account {account.name} is no provider's person")
        ended = web_sessions.end(session, clock(), account_id=account.id)
    _record(settings, account.name, "unlinked")
    return f"account {account.name}: unlinked, {count_of(ended, 'session')} ended"


def _record(settings: Settings, name: str, what: str, **objects: str | None) -> None:
    """Write the change of an account to the audit log."""
    record(
        settings,
        AuditKind.ACCOUNT_CHANGED,
        objects={"account": name, **objects},
        detail={"what": what},
    )


SESSION_COLUMNS = ("session", "account", "address", "agent", "by", "begun", "used", "until")


def list_sessions(
    settings: Settings, name: str | None = None, clock: Clock = utc_now
) -> list[dict[str, Any]]:
    """A row of SESSION_COLUMNS for each session that counts now, the last used first."""
    with open_store(settings).read() as session:
        account = None if name is None else require_account(session, name)
        every = web_sessions.listing(
            session,
            clock(),
            timedelta(minutes=settings.web.idle_minutes),
            None if account is None else account.id,
        )
    return [
        {
            "session": each.id,
            "account": each.account.name,
            "address": each.address,
            "agent": each.agent,
            "by": each.method,
            "begun": each.created_at.isoformat(timespec="seconds"),
            "used": each.used_at.isoformat(timespec="seconds"),
            "until": each.expires_at.isoformat(timespec="seconds"),
        }
        for each in every
    ]


def end_sessions(
    settings: Settings, name: str, ids: Sequence[int] = (), clock: Clock = utc_now
) -> str:
    """End these sessions of the account, or all. Raises QCError."""
    with open_store(settings).begin() as session:
        account = require_account(session, name)
        ended = web_sessions.end(session, clock(), ids=ids or None, account_id=account.id)
    if ids and not ended:
        raise QCError(
            ErrorCode.STORAGE, f"account {account.name} has no such session; see user sessions"
        )
    _record(settings, account.name, "sessions ended")
    return f"account {account.name}: {count_of(ended, 'session')} ended"


TOKEN_COLUMNS = ("account", "name", "verbs", "state", "created", "used", "until")


def add_token(
    settings: Settings,
    name: str,
    token_name: str,
    verbs: Sequence[str],
    days: int,
    clock: Clock = utc_now,
) -> str:
    """A new token of the account, which is shown this once. Raises UsageError, QCError."""
    token_verbs = parse_choices(Verb, verbs, "--verb")
    if not token_verbs:
        raise UsageError(f"--verb: give at least one of {', '.join(Verb)}")
    if not 1 <= days <= MAX_TOKEN_DAYS:
        raise UsageError(f"--days {days}: give 1 to {MAX_TOKEN_DAYS}")
    if not _NAME.fullmatch(token_name):
        raise UsageError(
            f"{token_name}: a token's name has 2 to 64 letters a-z, digits and . _ @ -"
        )
    token = TOKEN_PREFIX + new_token()
    with open_store(settings).begin() as session:
        account, now = require_account(session, name), clock()
        missing = [verb for verb in token_verbs if verb not in verbs_of(settings.web, account)]
        if missing:
            raise QCError(
                ErrorCode.STORAGE,
                f"the role {account.role} of {account.name} has no {', '.join(missing)}",
            )
        try:
            api_tokens.insert(
                session,
                account.id,
                token_name,
                token_sha256(token),
                [str(verb) for verb in dict.fromkeys(token_verbs)],
                now,
                now + timedelta(days=days),
            )
        except IntegrityError:
            raise QCError(
                ErrorCode.STORAGE, f"account {account.name} has or had a token {token_name}"
            ) from None
    _record(settings, account.name, "token added", token=token_name)
    return token


def list_tokens(
    settings: Settings, name: str | None = None, clock: Clock = utc_now
) -> list[dict[str, Any]]:
    """A row of TOKEN_COLUMNS for each token that the account, or any, has or had."""
    now = clock()
    with open_store(settings).read() as session:
        account_id = None if name is None else require_account(session, name).id
        every = api_tokens.listing(session, account_id)
    return [
        {
            "account": each.account.name,
            "name": each.name,
            "verbs": list(each.verbs),
            "state": "revoked"
            if each.revoked_at is not None
            else "valid"
            if each.expires_at > now
            else "over",
            "created": each.created_at.isoformat(timespec="seconds"),
            "used": None if each.used_at is None else each.used_at.isoformat(timespec="seconds"),
            "until": each.expires_at.isoformat(timespec="seconds"),
        }
        for each in every
    ]


def revoke_token(settings: Settings, name: str, token_name: str, clock: Clock = utc_now) -> str:
    """Make the account's token count no more. Raises QCError."""
    with open_store(settings).begin() as session:
        account = require_account(session, name)
        if not api_tokens.revoke(session, account.id, token_name, clock()):
            raise QCError(
                ErrorCode.STORAGE, f"account {account.name} has no token {token_name} that counts"
            )
    _record(settings, account.name, "token revoked", token=token_name)
    return f"account {account.name}: token {token_name} revoked"


def require_account(session: Session, name: str) -> Account:
    """The account. Raises UsageError, QCError."""
    account = accounts.by_name(session, parse_account_name(name))
    if account is None:
        raise QCError(ErrorCode.STORAGE, f"there is no account {name}; see user list")
    return account


def verbs_of(web: WebSettings, account: Account) -> frozenset[Verb]:
    """What the account's role allows; nothing where the settings have no such role any more."""
    roles: Mapping[str, frozenset[Verb]] = web.roles
    return roles.get(account.role, frozenset())


def _require_role(web: WebSettings, role: str) -> None:
    if role not in web.roles:
        raise UsageError(f"--role {role}: give one of {', '.join(web.roles)}")


def _require_person(session: Session, person: str | None) -> None:
    if person is not None and identities.members(session, IdentityKind.PERSON, person) is None:
        raise QCError(ErrorCode.STORAGE, f"there is no person {person}; see person list")
