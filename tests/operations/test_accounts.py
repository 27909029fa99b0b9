"""`qc-daemon user`: accounts, their sessions and tokens, and who looked at what."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.cli.app import app
from qc_daemon.dicom.acquisition import Operator
from qc_daemon.operations import accounts, identities, passwords, principals
from qc_daemon.operations.passwords import is_password
from qc_daemon.operations.principals import Principal
from qc_daemon.records.acquisition.acquisitions import ANY_ACQUISITION
from qc_daemon.records.acquisition.identities import identify_persons
from qc_daemon.records.store import Store
from qc_daemon.records.tables import AccessAction, IdentityKind
from qc_daemon.settings import Settings, StoreSettings, load
from qc_daemon.settings.observe import AuditLogSettings
from qc_daemon.settings.web import AccountRoleSettings
from qc_daemon.verbs import DEFAULT_ROLES, VERB_WORDS, Verb
from tests.support.accounts import PASSWORD, QUICK_HASHER, add_account
from tests.support.databases import migrate

NOW = datetime(2026, 3, 4, 8, tzinfo=UTC)
Say = Callable[..., Result]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(
        store=StoreSettings(url=f"sqlite:///{tmp_path / 'qc.db'}", spool=tmp_path),
        audit_log=AuditLogSettings(folder=tmp_path / "audit-log"),
    )
    migrate(settings.store.url)
    return settings


@pytest.fixture
def say(settings: Settings, tmp_path: Path) -> Say:
    """Types a `user` command; what it needs to read comes from `typed`."""
    config = tmp_path / "qc.toml"
    config.write_text(f'[store]\nurl = "{settings.store.url}"\nspool = "{tmp_path}"\n')

    def run(*arguments: str, typed: str = "") -> Result:
        line = ["user", *arguments, "--config", str(config)]
        return CliRunner().invoke(app, line, input=typed)

    return run


def log_in(settings: Settings, name: str, password: str = PASSWORD, at: datetime = NOW) -> str:
    begun = principals.log_in(
        settings, name, password, address="10.0.0.9", agent="test", clock=lambda: at
    )
    assert begun is not None
    return begun[0]


def principal(settings: Settings, token: str, at: datetime = NOW) -> Principal | None:
    return principals.principal_of_session(settings, token, "10.0.0.9", lambda: at)


def test_the_first_administrator_is_made_by_command(settings: Settings, say: Say) -> None:
    made = say("add", "Root", "--full-name", "Dr Root", "--role", "administrator", typed=PASSWORD)
    assert made.stdout == "account root: administrator, added\n", made.exception
    assert PASSWORD not in say("list", "--format", "json").stdout
    token = log_in(settings, "root")
    answer = principal(settings, token)
    assert answer is not None
    assert answer.verbs == DEFAULT_ROLES["administrator"]
    with Store(settings.store.url).read() as session:
        stored = session.execute(
            text(
                "SELECT password_hash, token_sha256 FROM account"
                " JOIN web_session ON account_id = account.id"
            )
        ).one()
    assert PASSWORD not in stored.password_hash
    assert stored.password_hash.startswith("$argon2id$")
    assert token not in stored.token_sha256


@pytest.mark.parametrize(
    ("arguments", "typed", "words"),
    [
        (("add", "lee", "--full-name", "Dr Lee", "--role", "lead"), "short", "12 to"),
        (("add", "lee", "--full-name", "Dr Lee", "--role", "lead"), "a" * 20, "different"),
        (("add", "lee", "--full-name", "Dr Lee", "--role", "lead"), "1 Lee 2 Lee 3 4", "the name"),
        (("add", "lee", "--full-name", "Dr Lee", "--role", "owner"), PASSWORD, "sonographer"),
        (("add", "l e", "--full-name", "Dr Lee", "--role", "lead"), PASSWORD, "2 to 64"),
        (("add", "lee", "--full-name", "Lee=Ng", "--role", "lead"), PASSWORD, "without"),
        (("token", "add", "ng", "x1", "--verb", "dance", "--days", "3"), "", "see-all"),
        (("token", "add", "ng", "x1", "--verb", "see-all", "--days", "400"), "", "1 to 366"),
        (("sessions", "--end"), "", "name the account"),
        (("change", "ng"), "", "--role"),
    ],
)
def test_wrong_words_are_named(
    settings: Settings, say: Say, arguments: tuple[str, ...], typed: str, words: str
) -> None:
    add_account(settings, "ng", "lead")
    result = say(*arguments, typed=typed)
    assert isinstance(result.exception, UsageError), result.output
    assert words in str(result.exception)
    assert [row["name"] for row in accounts.list_accounts(settings)] == ["ng"]


def test_names_are_of_one_account_each(settings: Settings, say: Say) -> None:
    add_account(settings, "ng", "lead")
    for name, full in (("NG", "Dr Other"), ("other", "Dr Ng")):
        with pytest.raises(QCError, match=r"there is an account|reviews would not say"):
            accounts.add_account(settings, name, full, "lead", PASSWORD)
    for command in ("disable", "enable", "password"):
        result = say(command, "nobody", typed=PASSWORD)
        assert "no account nobody" in str(result.exception)
    result = say(
        "add",
        "lee",
        "--full-name",
        "Dr Lee",
        "--role",
        "lead",
        "--person",
        "pzzzzzzzz",
        typed=PASSWORD,
    )
    assert "no person" in str(result.exception)


def test_a_wrong_password_a_wrong_name_and_a_disabled_account_are_refused(
    settings: Settings, say: Say
) -> None:
    add_account(settings, "ng", "lead")
    token = log_in(settings, " NG ")
    assert say("disable", "ng").stdout == "account ng: disabled, 0 sessions ended\n"
    for name, password in (("ng", PASSWORD), ("nobody", PASSWORD), ("ng", "x" * 5000), ("ng", "")):
        assert (
            principals.log_in(
                settings, name, password, address="10.0.0.9", agent="", clock=lambda: NOW
            )
            is None
        )
    assert principal(settings, token) is None
    assert say("enable", "ng").exit_code == 0
    assert not is_password(PASSWORD, None)
    assert not is_password(PASSWORD, "no hash")
    log_in(settings, "ng")
    actions = [row["action"] for row in _log(say)]
    assert actions == ["login", *["login-refused"] * 4, "login"]


def _log(say: Say, *arguments: str) -> list[dict[str, str]]:
    lines = say("log", *arguments, "--format", "jsonl").stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_a_session_ends_by_itself_and_by_a_person(settings: Settings, say: Say) -> None:
    add_account(settings, "ng", "lead")
    token = log_in(settings, "ng")
    idle, whole = timedelta(minutes=60), timedelta(hours=10)
    assert principal(settings, token, NOW + idle - timedelta(seconds=1)) is not None
    # It was used then, and counts from there.
    assert principal(settings, token, NOW + idle + timedelta(minutes=30)) is not None
    assert principal(settings, token, NOW + 3 * idle) is None
    used = NOW
    while used < NOW + whole - idle:
        used += idle / 2
        assert principal(settings, token, used) is not None
    assert principal(settings, token, NOW + whole) is None
    # A clock that was set back ends nothing.
    assert principal(settings, token, NOW - timedelta(days=1)) is not None

    first, second = log_in(settings, "ng"), log_in(settings, "ng")
    add_account(settings, "lee", "lead")
    other = log_in(settings, "lee")
    rows = accounts.list_sessions(settings, "ng", lambda: NOW)
    mine = max(row["session"] for row in rows)
    assert "1 session ended" in accounts.end_sessions(settings, "ng", [mine], lambda: NOW)
    assert principal(settings, second) is None
    assert principal(settings, first) is not None
    # A session of somebody else is none of this account.
    (theirs,) = accounts.list_sessions(settings, "lee", lambda: NOW)
    with pytest.raises(QCError, match="no such session"):
        accounts.end_sessions(settings, "ng", [theirs["session"]], lambda: NOW)
    accounts.set_password(settings, "ng", f"{PASSWORD} 2", lambda: NOW)
    assert principal(settings, first) is None
    assert principal(settings, other) is not None
    assert say("sessions", "lee", "--end").exit_code == 0


def test_a_log_in_ends_the_session_that_the_browser_had(settings: Settings) -> None:
    add_account(settings, "ng", "lead")
    before = log_in(settings, "ng")
    begun = principals.log_in(
        settings, "ng", PASSWORD, address="a", agent="", ends=before, clock=lambda: NOW
    )
    assert begun is not None
    assert begun[0] != before
    assert principal(settings, before) is None
    answer = principal(settings, begun[0])
    assert answer is not None
    assert answer.csrf_token == principals.csrf_token(begun[0])
    principals.log_out(settings, answer, lambda: NOW)
    assert principal(settings, begun[0]) is None


def test_a_token_does_what_it_and_its_account_may(settings: Settings, say: Say) -> None:
    add_account(settings, "ng", "lead")
    made = say(
        "token", "add", "ng", "board", "--verb", "see-all", "--verb", "review", "--days", "2"
    )
    token = made.stdout.strip()
    assert token.startswith("qcd_")
    assert token not in say("token", "list", "ng").stdout

    def asks(days: float = 0) -> Principal | None:
        at = datetime.now(UTC) + timedelta(days=days)
        return principals.principal_of_token(settings, token, "10.0.0.9", lambda: at)

    answer = asks()
    assert answer is not None
    assert answer.verbs == {Verb.SEE_ALL, Verb.REVIEW}
    assert asks(2.01) is None
    accounts.change_account(settings, "ng", role="auditor")
    answer = asks()
    assert answer is not None
    assert answer.verbs == {Verb.SEE_ALL}
    accounts.disable_account(settings, "ng")
    assert asks() is None
    accounts.enable_account(settings, "ng")
    assert "has no review" in str(
        say("token", "add", "ng", "other", "--verb", "review", "--days", "2").exception
    )
    assert "has or had" in str(
        say("token", "add", "ng", "board", "--verb", "see-all", "--days", "2").exception
    )
    assert say("token", "revoke", "ng", "board").exit_code == 0
    assert asks() is None
    assert "no token" in str(say("token", "revoke", "ng", "board").exception)


def test_an_account_sees_the_images_of_its_person(settings: Settings) -> None:
    with Store(settings.store.url).begin() as session:
        one, alias, other = (
            identify_persons(session, [Operator(name)], NOW)[0]
            for name in ("Doe^Jane", "Doe^J", "Ng^Ada")
        )
    identities.merge(settings, IdentityKind.PERSON, [alias], one, "Dr Lee")
    add_account(settings, "jane", "sonographer", alias)
    add_account(settings, "ada", "sonographer")
    add_account(settings, "lee", "lead")
    add_account(settings, "eng", "engineer")

    def persons(name: str) -> frozenset[str] | None:
        answer = principal(settings, log_in(settings, name))
        assert answer is not None
        with Store(settings.store.url).read() as session:
            return principals.scope_of(session, answer).persons

    assert persons("jane") == {one, alias}
    assert persons("ada") == frozenset()
    assert persons("eng") == frozenset()
    assert persons("lee") == ANY_ACQUISITION.persons
    accounts.change_account(settings, "ada", person=other)
    assert persons("ada") == {other}
    accounts.change_account(settings, "ada", person="")
    assert persons("ada") == frozenset()


def test_roles_are_sets_of_verbs_in_the_settings(settings: Settings, tmp_path: Path) -> None:
    assert set(VERB_WORDS) == set(Verb)
    settings.web.role = [AccountRoleSettings(name="reader", verbs=[Verb.SEE_ALL])]
    add_account(settings, "ng", "reader")
    answer = principal(settings, log_in(settings, "ng"))
    assert answer is not None
    assert answer.verbs == {Verb.SEE_ALL}
    # A role that is taken out of the settings allows nothing.
    settings.web.role = []
    answer = principal(settings, log_in(settings, "ng"))
    assert answer is not None
    assert answer.verbs == set()
    (row,) = accounts.list_accounts(settings)
    assert row["role"] == "reader (unknown)"
    file = tmp_path / "roles.toml"
    file.write_text('[[web.role]]\nname = "reader"\nverbs = ["see-everything"]\n')
    with pytest.raises(UsageError, match="see-all"):
        load(file)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('host = "0.0.0.0"\nport = 8080', "in clear"),
        ('certificate = "a.pem"', "go together"),
        ('viewer = "https://v.example.org/"', "study"),
        ('viewer = "javascript:{study}"', "https://"),
        ('viewer = "https://v/{study}{secret}"', "no other braces"),
        ('[[web.role]]\nname = "a"\nverbs = []\n[[web.role]]\nname = "a"\nverbs = []', "rename"),
    ],
)
def test_settings_of_pages_that_cannot_be_are_refused(
    tmp_path: Path, lines: str, words: str
) -> None:
    file = tmp_path / "qc.toml"
    file.write_text(f"[web]\n{lines}\n")
    with pytest.raises(UsageError, match=words):
        load(file)


def test_the_access_log_is_only_added_to(settings: Settings, say: Say) -> None:
    add_account(settings, "ng", "lead")
    answer = principal(settings, log_in(settings, "ng"))
    assert answer is not None
    for _ in range(3):
        principals.record_access(settings, answer, AccessAction.ACCESS_LOG, clock=lambda: NOW)
    assert [row["account"] for row in _log(say, "--account", "ng", "--limit", "2")] == ["ng", "ng"]
    assert _log(say, "--until", "2026-03-03") == []
    assert _log(say, "--exam", "7") == []
    for statement in ("UPDATE access_log SET action = 'login'", "DELETE FROM access_log"):
        with (
            pytest.raises((DatabaseError, QCError), match="access_log is only added to"),
            Store(settings.store.url).begin() as session,
        ):
            session.execute(text(statement))
