"""The commands on audits."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from qc_daemon.cli.options import Config, Format, Limit, first_page, load_settings
from qc_daemon.cli.output import parse_format, say, write_lines, write_list

audit = typer.Typer(
    no_args_is_help=True,
    help="Audits: what the findings of a lab say of persons, devices and sites, with their"
    " intervals, and what drifts.",
)
Day = Annotated[str, typer.Argument(metavar="DATE", help="Its local date, as in audit list.")]


@audit.command("run")
def audit_run(
    day: Annotated[
        str | None,
        typer.Option("--date", help="A day that is over; else the last one with images."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--from", help="First day that is judged; else by audit.window_days."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="Last day that is judged, in place of --date.")
    ] = None,
    config: Config = None,
) -> None:
    """Run the audit of a day, now and here; again where there is one.

    The service runs it each night (schedule.audit). The same date and the same data give the same
    answer; audit show shows it.

    Example: qc-daemon audit run --date 2026-10-31

    Example: qc-daemon audit run --from 2026-05-01 --to 2026-10-31
    """
    from qc_daemon.operations.audits import describe, run_audit

    settings = load_settings(config)
    columns = (TextColumn("{task.description}"), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Auditing", total=1.0)
        content = run_audit(
            settings,
            day,
            since,
            until,
            progress=lambda part: bar.update(task, completed=part),
        )
    for line in describe(content):
        say(line)
    say(f"audit show {content['date']} shows what it found")


@audit.command("list")
def audit_list(limit: Limit = None, config: Config = None, format: Format = "table") -> None:
    """List the audits, the newest date first, and how far they are.

    Example: qc-daemon audit list --format csv
    """
    from qc_daemon.operations.audits import LIST_COLUMNS, list_audits

    chosen = parse_format(format)
    rows = first_page(list_audits(load_settings(config)), limit, chosen)
    write_list("audits", rows, chosen, columns=LIST_COLUMNS)


@audit.command("show")
def audit_show(
    day: Annotated[
        str | None, typer.Argument(metavar="[DATE]", help="Its local date; else the newest one.")
    ] = None,
    config: Config = None,
    format: Format = "table",
) -> None:
    """Show what an audit found: a table of what it names, CSV of every measure, or all as JSON.

    Example: qc-daemon audit show 2026-10-31 --format json
    """
    from qc_daemon.operations.audits import (
        FLAG_COLUMNS,
        MEASURE_COLUMNS,
        describe,
        flag_rows,
        measure_rows,
        read_audit,
    )
    from qc_daemon.records.results.audits import encode

    chosen, settings = parse_format(format), load_settings(config)
    content = read_audit(settings, day)
    if chosen == "json":
        sys.stdout.write(f"{encode(content).decode()}\n")
    elif chosen == "csv":
        write_lines(measure_rows(content), "csv", MEASURE_COLUMNS)
    else:
        for line in describe(content):
            say(line)
        rows = flag_rows(content)
        if rows:
            write_list("names", rows, columns=FLAG_COLUMNS, heading="what it names")
        else:
            say("nobody and nothing stands out")


@audit.command("pause")
def audit_pause(day: Day, config: Config = None) -> None:
    """Stop an audit that waits or runs, until audit resume.

    Example: qc-daemon audit pause 2026-10-31
    """
    from qc_daemon.operations.audits import change_audit
    from qc_daemon.records.tables import AuditState

    say(change_audit(load_settings(config), day, AuditState.PAUSED))


@audit.command("resume")
def audit_resume(day: Day, config: Config = None) -> None:
    """Have the service go on with a paused audit; it begins anew.

    Example: qc-daemon audit resume 2026-10-31
    """
    from qc_daemon.operations.audits import change_audit
    from qc_daemon.records.tables import AuditState

    say(change_audit(load_settings(config), day, AuditState.WAITING))


@audit.command("cancel")
def audit_cancel(day: Day, config: Config = None) -> None:
    """Stop an audit for good; audit run runs it again.

    Example: qc-daemon audit cancel 2026-10-31
    """
    from qc_daemon.operations.audits import change_audit
    from qc_daemon.records.tables import AuditState

    say(change_audit(load_settings(config), day, AuditState.CANCELLED))
