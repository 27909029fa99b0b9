"""Who was let in or out after a backup: a restored database lets in whom it let in before."""

import shlex
from collections.abc import Iterator

from qc_daemon.backup.decision import Decision, DecisionKind
from qc_daemon.backup.rows import Row, Tables, arguments, is_same, iso, option


def account_decisions(restored: Tables, old: Tables) -> Iterator[Decision]:
    """Accounts that were added, changed, disabled or enabled, or got another password.

    One that its person's first log-in made is among them: without its row a person who was let out
    since would be let in anew.
    """
    columns = (
        *("name", "full_name", "role", "person_id"),
        *("created_at", "password_at", "disabled_at"),
    )
    before = {row["name"]: row for row in restored.rows("account", columns)}
    for row in old.rows("account", columns):
        name, earlier = row["name"], before.get(row["name"])
        if earlier is None:
            options = ["--full-name", row["full_name"], "--role", row["role"]]
            options += option("--person", row["person_id"])
            yield Decision(
                DecisionKind.ACCOUNT_ADDED,
                name,
                iso(row["created_at"]),
                "user add",
                arguments(name, options),
            )
            earlier = {**row, "disabled_at": None}
        if not is_same(earlier, row, "role", "person_id"):
            options = ["--role", row["role"], "--person", row["person_id"] or ""]
            yield Decision(
                DecisionKind.ACCOUNT_CHANGED, name, None, "user change", arguments(name, options)
            )
        if iso(earlier["password_at"]) != iso(row["password_at"]):
            at = iso(row["password_at"])
            yield Decision(DecisionKind.PASSWORD_SET, name, at, "user password", arguments(name))
        if (earlier["disabled_at"] is None) != (row["disabled_at"] is None):
            is_enabled = row["disabled_at"] is None
            yield Decision(
                DecisionKind.ACCOUNT_ENABLED if is_enabled else DecisionKind.ACCOUNT_DISABLED,
                name,
                iso(row["disabled_at"]),
                "user enable" if is_enabled else "user disable",
                arguments(name),
            )


def unlinked_and_linked(restored: Tables, old: Tables) -> Iterator[Decision]:
    """Which persons of OpenID providers are no longer an account, and which are one since."""
    before, after = _identities(restored), _identities(old)
    for account in sorted({account for account, *_ in before.keys() - after.keys()}):
        yield Decision(
            DecisionKind.ACCOUNT_UNLINKED, account, None, "user unlink", arguments(account)
        )
        # The command takes away all that the account is.
        before = {key: at for key, at in before.items() if key[0] != account}
    for account, issuer, subject in sorted(after.keys() - before.keys()):
        yield Decision(
            DecisionKind.ACCOUNT_LINKED,
            f"{account} is {subject} of {issuer}",
            iso(after[account, issuer, subject]["created_at"]),
            "user link",
            shlex.join(["--", account, subject]),
        )


def _identities(tables: Tables) -> dict[tuple[str, str, str], Row]:
    """Persons of providers by account, issuer and subject."""
    rows = tables.rows("login_identity", ("account_id", "issuer", "subject", "created_at"))
    accounts = tables.by_id("account", ("id", "name"), rows, "account_id")
    return {
        (accounts[row["account_id"]]["name"], row["issuer"], row["subject"]): row
        for row in rows
        if row["account_id"] in accounts
    }


def revoked_tokens(restored: Tables, old: Tables) -> Iterator[Decision]:
    """Tokens that count in the restored database, and were revoked."""
    columns = ("id", "account_id", "name", "token_sha256", "revoked_at")
    valid = {
        row["token_sha256"]
        for row in restored.rows("api_token", columns)
        if row["revoked_at"] is None
    }
    rows = [row for row in old.rows("api_token", columns) if row["revoked_at"] is not None]
    accounts = old.by_id("account", ("id", "name"), rows, "account_id")
    for row in rows:
        if row["token_sha256"] in valid and row["account_id"] in accounts:
            account = accounts[row["account_id"]]["name"]
            yield Decision(
                DecisionKind.TOKEN_REVOKED,
                f"{row['name']} of {account}",
                iso(row["revoked_at"]),
                "user token revoke",
                shlex.join([account, row["name"]]),
            )
