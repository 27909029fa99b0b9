"""Who asks pages and API, by session or token; what that account may do and see."""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from qc_daemon.audit_trail import recorder
from qc_daemon.audit_trail.event import Actor, ActorKind, AuditKind
from qc_daemon.operations.accounts import verbs_of
from qc_daemon.operations.passwords import is_password, new_token, token_sha256
from qc_daemon.operations.shared import open_store
from qc_daemon.records.accounts import access_log, accounts, api_tokens, web_sessions
from qc_daemon.records.accounts.accounts import Account
from qc_daemon.records.acquisition import identities
from qc_daemon.records.acquisition.acquisitions import ANY_ACQUISITION, AcquisitionFilter
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received import exams
from qc_daemon.records.tables import AccessAction, IdentityKind, LoginMethod
from qc_daemon.settings import Settings
from qc_daemon.verbs import Verb


@dataclass(frozen=True, slots=True)
class Principal:
    """The account that asks, with the verbs that its role (and its token) allow, and from where.

    `session_id` is set for a person's session, `token_id` for a program's token; `csrf_token` is
    what a form of that session must carry, and `login_method` says how it began.
    """

    account: Account
    verbs: frozenset[Verb]
    address: str
    session_id: int | None = None
    token_id: int | None = None
    csrf_token: str = ""
    login_method: LoginMethod | None = None

    def may(self, verb: Verb) -> bool:
        """Whether it may do this."""
        return verb in self.verbs

    @property
    def may_see_findings(self) -> bool:
        """Whether there are findings that it may see."""
        return self.may(Verb.SEE_ALL) or self.may(Verb.SEE_OWN)


def scope_of(session: Session, principal: Principal) -> AcquisitionFilter:
    """The images that the account may see: all, those of its person (with everyone who was merged
    into it or it into), or none."""
    if principal.may(Verb.SEE_ALL):
        return ANY_ACQUISITION
    person = principal.account.person_id
    if person is None or not principal.may(Verb.SEE_OWN):
        return AcquisitionFilter(persons=frozenset())
    members = identities.members(session, IdentityKind.PERSON, person) or ()
    return AcquisitionFilter(persons=frozenset(members))


def log_in(
    settings: Settings,
    name: str,
    password: str,
    *,
    address: str,
    agent: str,
    ends: str | None = None,
    clock: Clock = utc_now,
) -> tuple[str, Account] | None:
    """Begin a session: its cookie's token and the account; None for a wrong name or password.

    `ends` is the token of a session that the browser had, which ends. Both outcomes are recorded.
    """
    store = open_store(settings)
    name = name.strip().casefold()
    with store.read() as session:
        account = accounts.by_name(session, name)
        password_hash = None if account is None else accounts.password_hash(session, account.id)
    is_right = is_password(password, password_hash)
    if account is None or not is_right or not account.is_enabled:
        record_refused_login(settings, account, address, clock)
        return None
    token = begin_session(
        settings,
        account,
        LoginMethod.PASSWORD,
        address=address,
        agent=agent,
        ends=ends,
        clock=clock,
    )
    return token, account


def begin_session(
    settings: Settings,
    account: Account,
    method: LoginMethod,
    *,
    address: str,
    agent: str,
    ends: str | None = None,
    clock: Clock = utc_now,
) -> str:
    """Begin a session of an account whose person was recognised, and record it; returns what its
    cookie holds. `ends` is the token of a session that the browser had, which ends."""
    token, now = new_token(), clock()
    with open_store(settings).begin() as session:
        if ends is not None:
            _end(session, settings, ends, clock)
        web_sessions.insert(
            session,
            account.id,
            token_sha256(token),
            now,
            timedelta(hours=settings.web.session_hours),
            address=address,
            agent=agent,
            method=method,
        )
        access_log.append(session, AccessAction.LOGIN, now, account_id=account.id, address=address)
    actor = Actor(ActorKind.ACCOUNT, account.name, address)
    recorder.enqueue(settings, AuditKind.LOGIN, actor=actor, detail={"by": method})
    return token


def record_refused_login(
    settings: Settings, account: Account | None, address: str, clock: Clock = utc_now
) -> None:
    """Record that somebody was not let in; `account` is None where there is none."""
    with open_store(settings).begin() as session:
        access_log.append(
            session,
            AccessAction.LOGIN_REFUSED,
            clock(),
            account_id=None if account is None else account.id,
            address=address,
        )
    # What was typed in the place of a name may be a password.
    claimed = Actor(ActorKind.ACCOUNT, "unknown" if account is None else account.name, address)
    recorder.enqueue(settings, AuditKind.LOGIN, is_success=False, actor=claimed)


def _end(session: Session, settings: Settings, token: str, clock: Clock) -> None:
    idle = timedelta(minutes=settings.web.idle_minutes)
    old = web_sessions.find(session, token_sha256(token), clock(), idle)
    if old is not None:
        web_sessions.end(session, clock(), ids=[old.id])


def log_out(settings: Settings, principal: Principal, clock: Clock = utc_now) -> None:
    """End the session."""
    now = clock()
    with open_store(settings).begin() as session:
        if principal.session_id is not None:
            web_sessions.end(session, now, ids=[principal.session_id])
        access_log.append(
            session,
            AccessAction.LOGOUT,
            now,
            account_id=principal.account.id,
            address=principal.address,
        )
    recorder.enqueue(settings, AuditKind.LOGOUT, actor=actor_of(principal))


def actor_of(principal: Principal) -> Actor:
    """Whom the audit log names."""
    return Actor(ActorKind.ACCOUNT, principal.account.name, principal.address or None)


_AUDITED = {
    AccessAction.EXAM: AuditKind.VIEWED,
    AccessAction.PICTURE: AuditKind.VIEWED,
    AccessAction.REPORT: AuditKind.VIEWED,
    AccessAction.EXPORT: AuditKind.EXPORTED,
    AccessAction.ACCESS_LOG: AuditKind.LOG_USED,
}
"""What of it the audit log has from here; reviews and changes are recorded where they are made."""


def principal_of_session(
    settings: Settings, token: str, address: str, clock: Clock = utc_now
) -> Principal | None:
    """Who has the session of this cookie; None if it does not count."""
    store, now = open_store(settings), clock()
    idle = timedelta(minutes=settings.web.idle_minutes)
    with store.read() as session:
        web_session = web_sessions.find(session, token_sha256(token), now, idle)
    if web_session is None:
        return None
    if web_sessions.is_use_due(web_session, now):
        with store.begin() as session:
            web_sessions.record_use(session, web_session.id, now)
    return Principal(
        web_session.account,
        verbs_of(settings.web, web_session.account),
        address,
        session_id=web_session.id,
        csrf_token=csrf_token(token),
        login_method=web_session.method,
    )


def csrf_token(session_token: str) -> str:
    """What forms of the session carry: only who has the cookie can make it, and it does not tell
    what the cookie holds."""
    return hmac.new(session_token.encode(), b"form", hashlib.sha256).hexdigest()


def principal_of_token(
    settings: Settings, token: str, address: str, clock: Clock = utc_now
) -> Principal | None:
    """Whose program has this token; None if it does not count."""
    store, now = open_store(settings), clock()
    with store.read() as session:
        api_token = api_tokens.find(session, token_sha256(token), now)
    if api_token is None:
        return None
    if api_tokens.is_use_due(api_token, now):
        with store.begin() as session:
            api_tokens.record_use(session, api_token.id, now)
    verbs = verbs_of(settings.web, api_token.account)
    return Principal(
        api_token.account,
        verbs & {verb for verb in Verb if verb in api_token.verbs},
        address,
        token_id=api_token.id,
    )


def record_access(
    settings: Settings,
    principal: Principal,
    action: AccessAction,
    *,
    exam_id: int | None = None,
    finding_id: int | None = None,
    subject: str | None = None,
    clock: Clock = utc_now,
) -> None:
    """Record that the account did or saw this; `subject` is what it changed, or the id of the
    person whose report it read."""
    with open_store(settings).begin() as session:
        access_log.append(
            session,
            action,
            clock(),
            account_id=principal.account.id,
            address=principal.address,
            token_id=principal.token_id,
            exam_id=exam_id,
            finding_id=finding_id,
            subject=subject,
        )
        study, patient_id = (None, None)
        if exam_id is not None:
            study, patient_id = exams.identifiers(session, exam_id)
    if action in _AUDITED:
        recorder.enqueue(
            settings,
            _AUDITED[action],
            actor=actor_of(principal),
            study=study,
            patient_id=patient_id,
            objects={"exam": exam_id, "finding": finding_id, "person": subject},
            detail={"what": action},
        )
