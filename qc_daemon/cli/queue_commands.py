"""The commands on what waits: `queue`, and `commitment` for requests made to us."""

import sys
from typing import Annotated

import typer

from qc_daemon.cli.options import (
    Config,
    Format,
    Ids,
    Limit,
    Since,
    Until,
    load_settings,
    report_outcome,
    row_limit,
)
from qc_daemon.cli.output import parse_format, write_list

queue = typer.Typer(no_args_is_help=True, help="The job queue: list, retry, cancel.")
commitment = typer.Typer(no_args_is_help=True, help="Storage commitment asked of us.")


@queue.command("list")
def queue_list(
    config: Config = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help="ready, leased, sent, done, dead or quarantined; repeatable."),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="score, report or deliver; repeatable.")
    ] = None,
    destination: Annotated[
        list[str] | None, typer.Option(help="Of jobs that deliver; repeatable.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List jobs that are not done, or those in the given states, oldest first.

    Example: qc-daemon queue list --destination pacs --state dead --since 2026-11-01
    """
    from qc_daemon.operations.queue import (
        JOB_COLUMNS,
        JOB_TABLE,
        list_jobs,
        missing_worker,
        stopped_service,
    )
    from qc_daemon.operations.shared import open_store, parse_window

    output_format = parse_format(format)
    window = parse_window(since, until, row_limit(limit, output_format))
    settings = load_settings(config)
    rows = list_jobs(
        settings,
        state or [],
        kinds=kind or [],
        destinations=destination or [],
        window=window,
    )
    columns = JOB_TABLE if output_format == "table" else JOB_COLUMNS
    write_list("jobs", rows, output_format, columns=columns, is_filtered=True)
    # Beside the list, which may be piped on.
    store = open_store(settings)
    if problem := stopped_service(settings, store) or missing_worker(store):
        print(f"note: {problem}", file=sys.stderr)


@queue.command("retry")
def queue_retry(ids: Ids, config: Config = None) -> None:
    """Make dead or quarantined jobs ready again.

    Example: qc-daemon queue retry 12 13 --config qc-daemon.toml
    """
    from qc_daemon.operations.queue import retry_jobs

    outcome = retry_jobs(load_settings(config), ids)
    report_outcome(outcome, "job is ready again", "jobs are ready again")


@queue.command("cancel")
def queue_cancel(ids: Ids, config: Config = None) -> None:
    """Give jobs up: they become dead, and stay in the list.

    Example: qc-daemon queue cancel 12 --config qc-daemon.toml
    """
    from qc_daemon.operations.queue import cancel_jobs

    outcome = cancel_jobs(load_settings(config), ids)
    report_outcome(outcome, "job is cancelled", "jobs are cancelled")


@commitment.command("list")
def commitment_list(
    config: Config = None,
    state: Annotated[
        list[str] | None, typer.Option(help="waiting, ready, reported or dead; repeatable.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List requests for storage commitment that are not reported, or those in the given states.

    Example: qc-daemon commitment list --state dead --config qc-daemon.toml
    """
    from qc_daemon.operations.commitments import COMMITMENT_COLUMNS, list_commitments
    from qc_daemon.operations.shared import parse_window

    output_format = parse_format(format)
    window = parse_window(since, until, row_limit(limit, output_format))
    rows = list_commitments(load_settings(config), state or [], window)
    write_list(
        "commitment requests", rows, output_format, columns=COMMITMENT_COLUMNS, is_filtered=True
    )


@commitment.command("retry")
def commitment_retry(ids: Ids, config: Config = None) -> None:
    """Report requests that were given up again.

    Example: qc-daemon commitment retry 7 --config qc-daemon.toml
    """
    from qc_daemon.operations.commitments import retry_commitments

    outcome = retry_commitments(load_settings(config), ids)
    report_outcome(outcome, "report is due again", "reports are due again")
