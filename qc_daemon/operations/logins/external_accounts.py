"""Which account a person is whom a provider or a proxy vouches for, and the first log-in."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from sqlalchemy.orm import Session

from detector.console import UsageError
from qc_daemon.audit_trail.event import Actor, ActorKind, AuditKind
from qc_daemon.audit_trail.recorder import enqueue
from qc_daemon.observe import log
from qc_daemon.operations.accounts import parse_account_name
from qc_daemon.operations.passwords import hash_password, new_token
from qc_daemon.operations.reviews import parse_reader
from qc_daemon.operations.shared import open_store
from qc_daemon.records.accounts import accounts, login_identities
from qc_daemon.records.accounts.accounts import Account
from qc_daemon.records.clock import Clock
from qc_daemon.records.tables import LoginMethod
from qc_daemon.settings import Settings
from qc_daemon.settings.login import ExternalLoginSettings


class LoginProblem(StrEnum):
    """Why somebody is not let in, or cannot be."""

    UNAVAILABLE = "unavailable"
    DENIED = "denied"
    OUTDATED = "outdated"
    NOT_ACCEPTED = "not-accepted"
    UNKNOWN = "unknown"
    NO_ROLE = "no-role"
    NAME_TAKEN = "name-taken"
    BAD_NAME = "bad-name"
    WAITING = "waiting"


class LoginError(Exception):
    """Somebody is not let in; `detail` is for the log, without anything of a person."""

    def __init__(
        self, problem: LoginProblem, detail: str = "", account: Account | None = None
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.detail = detail
        self.account = account


@dataclass(frozen=True, slots=True)
class ExternalPerson:
    """What the provider or the proxy says of a person; `groups` are values that `mapping` is of.

    `issuer` and `subject` are set for a provider's person, `verified_email` where it says so.
    """

    name: str
    full_name: str
    groups: tuple[str, ...] = ()
    issuer: str | None = None
    subject: str | None = None
    verified_email: str | None = None


def account_of(
    settings: Settings,
    login: ExternalLoginSettings,
    person: ExternalPerson,
    method: LoginMethod,
    clock: Clock,
) -> Account:
    """The account of the person, made at the first log-in if the settings say so, with the role
    that the groups give now. Raises LoginError."""
    changes: list[str] = []
    with open_store(settings).begin() as session:
        account = _find(session, person, changes, clock)
        role = login.role_of(person.groups) or login.default_role
        if account is None:
            account = _add(session, login, person, role, changes, clock)
        elif login.mapping and role is None:
            raise LoginError(LoginProblem.NO_ROLE, account=account)
        elif login.mapping and role is not None and role != account.role:
            accounts.set_role(session, account.id, role)
            account = replace(account, role=role)
            changes.append("role changed")
    actor = Actor(ActorKind.SERVICE, f"log-in by {method}")
    for what in changes:
        objects = {"account": account.name, "role": account.role}
        enqueue(
            settings, AuditKind.ACCOUNT_CHANGED, actor=actor, objects=objects, detail={"what": what}
        )
        log.get(role="web").info("account by log-in", kind=method, state=what)
    if not account.is_enabled:
        raise LoginError(LoginProblem.WAITING, account=account)
    return account


def _find(
    session: Session, person: ExternalPerson, changes: list[str], clock: Clock
) -> Account | None:
    if person.issuer is None or person.subject is None:
        return accounts.by_name(session, _account_name(person.name))
    account = login_identities.find(session, person.issuer, person.subject)
    if account is None and person.verified_email is not None:
        account = accounts.by_name(session, person.verified_email.casefold())
        if account is not None and login_identities.subjects(session, account.id):
            # It is another person of the provider, or was.
            raise LoginError(LoginProblem.NAME_TAKEN, account=account)
        if account is not None:
            login_identities.insert(session, account.id, person.issuer, person.subject, clock())
            changes.append("joined by verified address")
    return account


def _add(
    session: Session,
    login: ExternalLoginSettings,
    person: ExternalPerson,
    role: str | None,
    changes: list[str],
    clock: Clock,
) -> Account:
    if login.first_login == "refuse":
        raise LoginError(LoginProblem.UNKNOWN)
    if role is None:
        raise LoginError(LoginProblem.NO_ROLE)
    # Of a provider's person the subject counts, and the name is only a name here.
    is_subject = person.issuer is not None
    name = _account_name(_simplified(person.name) if is_subject else person.name)
    taken = accounts.by_name(session, name)
    if taken is not None:
        raise LoginError(LoginProblem.NAME_TAKEN, account=taken)
    full_name = _full_name(session, person.full_name, name)
    now = clock()
    account_id = accounts.insert(session, name, full_name, role, hash_password(new_token()), now)
    if person.issuer is not None and person.subject is not None:
        login_identities.insert(session, account_id, person.issuer, person.subject, now)
    if login.first_login == "approve":
        accounts.set_enabled(session, account_id, now, enabled=False)
    changes.append("added, waits" if login.first_login == "approve" else "added")
    account = accounts.by_name(session, name)
    assert account is not None
    return account


def _full_name(session: Session, full_name: str, name: str) -> str:
    """A reader's name that no other account has."""
    try:
        reader = parse_reader(full_name)
    except UsageError:
        reader = name
    return f"{reader} ({name})" if accounts.by_full_name(session, reader) is not None else reader


def _account_name(value: str) -> str:
    try:
        return parse_account_name(value)
    except UsageError:
        raise LoginError(LoginProblem.BAD_NAME) from None


def _simplified(name: str) -> str:
    """The name with - for each letter that an account's name has not."""
    return re.sub(r"[^a-z0-9._@-]", "-", name.strip().casefold())[:64]
