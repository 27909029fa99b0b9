"""The commands on digests of audits: `digest list`, `digest send`, `digest retry`."""

import typer

from qc_daemon.cli.options import (
    Config,
    Format,
    Ids,
    Limit,
    first_page,
    load_settings,
    report_outcome,
)
from qc_daemon.cli.output import parse_format, say, write_list

digest = typer.Typer(
    no_args_is_help=True, help="Mails and webhook calls that say that an audit is there."
)


@digest.command("list")
def digest_list(config: Config = None, limit: Limit = None, format: Format = "table") -> None:
    """List digests, the newest first: to whom, of which audit, sent or not and why.

    Example: qc-daemon digest list --config qc-daemon.toml
    """
    from qc_daemon.operations.digests import COLUMNS, list_digests

    output_format = parse_format(format)
    rows = list_digests(load_settings(config))
    write_list("digests", first_page(rows, limit, output_format), output_format, columns=COLUMNS)


@digest.command("send")
def digest_send(config: Config = None) -> None:
    """Send now what is due, as the service does after each audit: to each recipient of the settings
    once for the newest audit.

    Example: qc-daemon digest send --config qc-daemon.toml
    """
    from qc_daemon.operations.digests import send_now

    say(send_now(load_settings(config)))


@digest.command("retry")
def digest_retry(ids: Ids, config: Config = None) -> None:
    """Have digests sent again that were given up.

    Example: qc-daemon digest retry 12 --config qc-daemon.toml
    """
    from qc_daemon.operations.digests import retry_digests

    report_outcome(retry_digests(load_settings(config), ids), "digest is due", "digests are due")
