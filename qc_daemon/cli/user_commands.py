"""The commands on accounts: `user add`, `list`, `password`, `disable`, `enable`, `change`,
`link`, `unlink`, `sessions`, `log`, and `user token add`, `list`, `revoke`."""

import sys
from typing import Annotated

import typer

from qc_daemon.cli.options import (
    LARGEST_ID,
    Config,
    Format,
    Limit,
    Since,
    Until,
    first_page,
    load_settings,
)
from qc_daemon.cli.output import parse_format, say, write_list

user = typer.Typer(no_args_is_help=True, help="Accounts for the pages and the REST API.")
token = typer.Typer(no_args_is_help=True, help="Tokens of programs that use the REST API.")
user.add_typer(token, name="token")

Name = Annotated[str, typer.Argument(help="Name that one logs in by.")]
Role = Annotated[
    str,
    typer.Option(
        help="administrator, sonographer, lead, engineer, auditor, kiosk, or one of the settings."
    ),
]


def _ask_password() -> str:
    """The password: asked twice on a terminal, else a line of standard input."""
    if sys.stdin.isatty():
        password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    return sys.stdin.readline().rstrip("\r\n")


@user.command("add")
def user_add(
    name: Name,
    full_name: Annotated[
        str, typer.Option(help='Name of the person, the reader of reviews, as "Dr Lee".')
    ],
    role: Role,
    person: Annotated[
        str | None, typer.Option(help="Person whose images are its own, as in person list.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Of its pages: en, de or zh.")] = None,
    config: Config = None,
) -> None:
    """Add an account. The password is asked, or read as a line from standard input.

    Example: qc-daemon user add lee --full-name "Dr Lee" --role lead --config qc-daemon.toml
    """
    from qc_daemon.operations.accounts import add_account

    settings = load_settings(config)
    password = _ask_password()
    say(add_account(settings, name, full_name, role, password, person=person, language=language))


@user.command("list")
def user_list(config: Config = None, limit: Limit = None, format: Format = "table") -> None:
    """List accounts with their role, sessions and tokens.

    Example: qc-daemon user list --config qc-daemon.toml
    """
    from qc_daemon.operations.accounts import ACCOUNT_COLUMNS, list_accounts

    output_format = parse_format(format)
    rows = list_accounts(load_settings(config))
    write_list(
        "accounts", first_page(rows, limit, output_format), output_format, columns=ACCOUNT_COLUMNS
    )


@user.command("password")
def user_password(name: Name, config: Config = None) -> None:
    """Give an account another password, and end its sessions.

    Example: qc-daemon user password lee --config qc-daemon.toml
    """
    from qc_daemon.operations.accounts import set_password

    settings = load_settings(config)
    say(set_password(settings, name, _ask_password()))


@user.command("disable")
def user_disable(name: Name, config: Config = None) -> None:
    """Let an account in no more: its sessions end, its tokens do not count.

    Example: qc-daemon user disable lee --config qc-daemon.toml
    """
    from qc_daemon.operations.accounts import disable_account

    say(disable_account(load_settings(config), name))


@user.command("enable")
def user_enable(name: Name, config: Config = None) -> None:
    """Let a disabled account in again.

    Example: qc-daemon user enable lee --config qc-daemon.toml
    """
    from qc_daemon.operations.accounts import enable_account

    say(enable_account(load_settings(config), name))


@user.command("change")
def user_change(
    name: Name,
    role: Annotated[str | None, typer.Option(help="Its new role.")] = None,
    person: Annotated[
        str | None, typer.Option(help='Person whose images are its own; "" for none.')
    ] = None,
    config: Config = None,
) -> None:
    """Give an account another role or person; it counts at once.

    Example: qc-daemon user change lee --person p4k2m7x0a --config qc-daemon.toml
    """
    from qc_daemon.operations.accounts import change_account

    say(change_account(load_settings(config), name, role=role, person=person))


@user.command("link")
def user_link(
    name: Name,
    subject: Annotated[
        str, typer.Argument(help="What the provider calls the person: the claim sub.")
    ],
    config: Config = None,
) -> None:
    """Let a person of the OpenID provider of the settings log in as this account.

    Example: qc-daemon user link lee 8f14e45f-ceea-467f-a6ba-1b9d1f0f3a11 --config qc-daemon.toml
    """
    from qc_daemon.operations.accounts import link_account

    say(link_account(load_settings(config), name, subject))


@user.command("unlink")
def user_unlink(name: Name, config: Config = None) -> None:
    """Let no person of a provider log in as this account any more; its sessions end.

    Example: qc-daemon user unlink lee --config qc-daemon.toml
    """
    from qc_daemon.operations.accounts import unlink_account

    say(unlink_account(load_settings(config), name))


@user.command("sessions")
def user_sessions(
    name: Annotated[str | None, typer.Argument(help="Name of the account; else of all.")] = None,
    end: Annotated[bool, typer.Option("--end", help="End them instead of listing them.")] = False,
    session: Annotated[
        list[int] | None,
        typer.Option(min=1, max=LARGEST_ID, help="With --end only these; repeatable."),
    ] = None,
    config: Config = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List sessions, the last used first; or end those of an account.

    Example: qc-daemon user sessions lee --end --config qc-daemon.toml
    """
    from detector.console import UsageError
    from qc_daemon.operations.accounts import SESSION_COLUMNS, end_sessions, list_sessions

    output_format = parse_format(format)
    settings = load_settings(config)
    if not end:
        if session:
            raise UsageError("--session goes with --end")
        rows = list_sessions(settings, name)
        write_list(
            "sessions",
            first_page(rows, limit, output_format),
            output_format,
            columns=SESSION_COLUMNS,
        )
        return
    if name is None:
        raise UsageError("--end: name the account")
    say(end_sessions(settings, name, session or ()))


@user.command("log")
def user_log(
    account: Annotated[str | None, typer.Option(help="Of this account.")] = None,
    exam: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_ID, help="Who looked at this exam.")
    ] = None,
    since: Since = None,
    until: Until = None,
    config: Config = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List who logged in, and who looked at what, the last first.

    Example: qc-daemon user log --exam 12 --config qc-daemon.toml
    """
    from qc_daemon.cli.options import row_limit
    from qc_daemon.operations.access_log import ACCESS_COLUMNS, list_access, parse_access_filter

    output_format = parse_format(format)
    rows = list_access(
        load_settings(config),
        parse_access_filter(account, exam, since, until),
        row_limit(limit, output_format),
    )
    write_list(
        "entries",
        rows,
        output_format,
        columns=ACCESS_COLUMNS,
        is_filtered=any((account, exam, since, until)),
    )


@token.command("add")
def token_add(
    name: Name,
    token_name: Annotated[str, typer.Argument(help="Name of the token, as of its program.")],
    verb: Annotated[
        list[str],
        typer.Option(help="What it may do, of what the account may: as see-all; repeatable."),
    ],
    days: Annotated[int, typer.Option(help="After which it is over, 1 to 366.")],
    config: Config = None,
) -> None:
    """Make a token and print it, this once.

    Example: qc-daemon user token add lee dashboard --verb see-all --days 90
    """
    from qc_daemon.operations.accounts import add_token

    say(add_token(load_settings(config), name, token_name, verb, days))


@token.command("list")
def token_list(
    name: Annotated[str | None, typer.Argument(help="Name of the account; else of all.")] = None,
    config: Config = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List the tokens that accounts have or had.

    Example: qc-daemon user token list lee
    """
    from qc_daemon.operations.accounts import TOKEN_COLUMNS, list_tokens

    output_format = parse_format(format)
    rows = list_tokens(load_settings(config), name)
    write_list(
        "tokens", first_page(rows, limit, output_format), output_format, columns=TOKEN_COLUMNS
    )


@token.command("revoke")
def token_revoke(
    name: Name,
    token_name: Annotated[str, typer.Argument(help="Name of the token.")],
    config: Config = None,
) -> None:
    """Make a token count no more.

    Example: qc-daemon user token revoke lee dashboard
    """
    from qc_daemon.operations.accounts import revoke_token

    say(revoke_token(load_settings(config), name, token_name))
