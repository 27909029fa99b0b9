"""Log in a person whom an OpenID provider, or the header of a proxy, vouches for."""

from collections.abc import Mapping
from typing import Any

from qc_daemon.observe import log
from qc_daemon.operations.logins.external_accounts import (
    ExternalPerson,
    LoginError,
    LoginProblem,
    account_of,
)
from qc_daemon.operations.logins.oidc_provider import values_of
from qc_daemon.operations.principals import begin_session, record_refused_login
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.tables import LoginMethod
from qc_daemon.settings import Settings
from qc_daemon.settings.login import OidcSettings

_MAX_SUBJECT_LETTERS = 255  # OpenID Connect Core 1.0, 2.


def log_in_by_claims(
    settings: Settings,
    claims: Mapping[str, Any],
    *,
    address: str,
    agent: str,
    ends: str | None = None,
    clock: Clock = utc_now,
) -> str:
    """Begin a session of who these claims of an ID token are of; returns what its cookie holds.
    Raises LoginError, which is recorded."""
    oidc = settings.web.oidc
    assert oidc is not None
    try:
        person = _person_of(claims, oidc)
        account = account_of(settings, oidc, person, LoginMethod.OIDC, clock)
    except LoginError as error:
        report_refused(settings, error, LoginMethod.OIDC, address, clock)
        raise
    return begin_session(
        settings,
        account,
        LoginMethod.OIDC,
        address=address,
        agent=agent,
        ends=ends,
        clock=clock,
    )


def log_in_by_header(
    settings: Settings,
    name: str,
    full_name: str | None,
    groups: str | None,
    *,
    address: str,
    agent: str,
    ends: str | None = None,
    clock: Clock = utc_now,
) -> str:
    """As `log_in_by_claims`, of whom a trusted proxy names."""
    login = settings.web.header_login
    assert login is not None
    values = tuple(each.strip() for each in (groups or "").split(","))
    person = ExternalPerson(name, full_name or name, values)
    try:
        account = account_of(settings, login, person, LoginMethod.HEADER, clock)
    except LoginError as error:
        report_refused(settings, error, LoginMethod.HEADER, address, clock)
        raise
    return begin_session(
        settings,
        account,
        LoginMethod.HEADER,
        address=address,
        agent=agent,
        ends=ends,
        clock=clock,
    )


def report_refused(
    settings: Settings, error: LoginError, method: LoginMethod, address: str, clock: Clock
) -> None:
    """Record and log that somebody was not let in, and why."""
    log.get(role="web").warning(
        "log-in refused", kind=method, code=error.problem, reason=error.detail or error.problem
    )
    record_refused_login(settings, error.account, address, clock)


def _person_of(claims: Mapping[str, Any], oidc: OidcSettings) -> ExternalPerson:
    """Raises LoginError for claims without a subject."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT_LETTERS:
        raise LoginError(LoginProblem.NOT_ACCEPTED, "ID token: sub")
    name = next(iter(values_of(claims, oidc.name_claim)), "") or subject
    email, is_verified = claims.get("email"), claims.get("email_verified") is True
    may_join = oidc.join_verified_email and is_verified and isinstance(email, str)
    return ExternalPerson(
        name=name,
        full_name=next(iter(values_of(claims, oidc.full_name_claim)), "") or name,
        groups=() if oidc.roles_claim is None else values_of(claims, oidc.roles_claim),
        issuer=oidc.issuer,
        subject=subject,
        verified_email=email if may_join else None,
    )
