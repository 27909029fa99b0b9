"""The commands on senders: `peer list`, `add`, `approve`, `remove`."""

from typing import Annotated

import typer

from detector.plain_text import count_of
from qc_daemon.cli.options import Config, Format, Limit, first_page, load_settings
from qc_daemon.cli.output import parse_format, say, write_list

peer = typer.Typer(no_args_is_help=True, help="Who may store to us; callers that were refused.")


@peer.command("list")
def peer_list(
    config: Config = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help="settings, reports only, approved or refused; repeatable."),
    ] = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List peers of the settings file, approved peers, and callers that were refused.

    Example: qc-daemon peer list --state refused --config qc-daemon.toml
    """
    from qc_daemon.operations.peers import list_peers

    output_format = parse_format(format)
    rows = list_peers(load_settings(config), state or [])
    write_list(
        "peers", first_page(rows, limit, output_format), output_format, is_filtered=bool(state)
    )


@peer.command("add")
def peer_add(
    ae_title: Annotated[str, typer.Argument(help="AE title that it calls by.")],
    address: Annotated[str, typer.Option(help="Address or network it calls from.")],
    certificate: Annotated[
        str | None, typer.Option(help="SHA-256 of the certificate it must show over TLS.")
    ] = None,
    config: Config = None,
) -> None:
    """Let a sender store to us.

    Example: qc-daemon peer add VOLUSON1 --address 10.1.0.0/16 --config qc-daemon.toml
    """
    from qc_daemon.operations.peers import add_peer

    say(add_peer(load_settings(config), ae_title, address, certificate))


@peer.command("approve")
def peer_approve(
    ae_title: Annotated[str, typer.Argument(help="AE title that it called by; see peer list.")],
    address: Annotated[
        str | None, typer.Option(help="Its address, where several called by this title.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Let it call from all of a network, not one address.")
    ] = None,
    config: Config = None,
) -> None:
    """Let a caller that was refused store to us, with the certificate it showed.

    Example: qc-daemon peer approve VOLUSON1 --config qc-daemon.toml
    """
    from qc_daemon.operations.peers import approve_caller

    say(approve_caller(load_settings(config), ae_title, address, network))


@peer.command("remove")
def peer_remove(
    ae_title: Annotated[str, typer.Argument(help="AE title of an approved peer; see peer list.")],
    address: Annotated[
        str | None, typer.Option(help="Only the approval of this address or network.")
    ] = None,
    config: Config = None,
) -> None:
    """Take an approval back.

    Example: qc-daemon peer remove VOLUSON1 --config qc-daemon.toml
    """
    from qc_daemon.operations.peers import remove_peer

    count = remove_peer(load_settings(config), ae_title, address)
    say(f"{count_of(count, 'approval is', 'approvals are')} taken back")
