"""The commands on audits."""

import sys
from typing import Annotated, Any

import typer
from rich.progress import TaskProgressColumn, TextColumn, TimeElapsedColumn

from qc_daemon.cli.options import Config, Format, Limit, first_page, load_settings
from qc_daemon.cli.output import parse_format, progress_bar, say, write_lines, write_list

audit = typer.Typer(
    no_args_is_help=True,
    help="Audits: what the findings of a lab say of persons, devices and sites, with their"
    " intervals, and what drifts.",
)
Day = Annotated[str, typer.Argument(metavar="DATE", help="Its local date, as in audit list.")]
Name = Annotated[
    str | None,
    typer.Option(
        "--audit", metavar="NAME", help="Its name, as in audit list; else the nightly one."
    ),
]


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
    bundle: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Score the images again with this bundle (a folder or a shipped name), and"
            " compare; what is stored of them stays.",
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Run the audit of a day, now and here; again where there is one.

    The service runs it each night (schedule.audit). The same date and the same data give the same
    answer; audit show shows it. With --from it is an audit of its own beside the nightly one; with
    --bundle it tries another bundle in shadow, before bundle activate. One that is interrupted goes
    on where it was when it is run again. While images wait to be scored, reported or delivered,
    an audit waits for them.

    Example: qc-daemon audit run --date 2026-10-31

    Example: qc-daemon audit run --from 2026-05-01 --to 2026-10-31

    Example: qc-daemon audit run --bundle ./mine --from 2026-10-01
    """
    from qc_daemon.operations.audits import describe, run_audit
    from qc_daemon.records.results.audits import NIGHTLY

    settings = load_settings(config)
    columns = (TextColumn("{task.description}"), TaskProgressColumn(), TimeElapsedColumn())
    with progress_bar(*columns) as bar:
        task = bar.add_task("Auditing", total=1.0)
        content = run_audit(
            settings,
            day,
            since,
            until,
            bundle=bundle,
            progress=lambda part: bar.update(task, completed=part),
        )
    for line in describe(content):
        say(line)
    name = content["audit"]
    option = "" if name == NIGHTLY else f" --audit {name}"
    say(f"audit show {content['date']}{option} shows what it found")
    if bundle is not None:
        say(
            f"report --bundle {bundle} --out FILE.html writes it with the largest changes' pictures"
        )


@audit.command("list")
def audit_list(limit: Limit = None, config: Config = None, format: Format = "table") -> None:
    """List the audits, the newest date first, and how far they are.

    Example: qc-daemon audit list --format csv
    """
    from qc_daemon.operations.audits import LIST_COLUMNS, list_audits

    output_format = parse_format(format)
    rows = first_page(list_audits(load_settings(config)), limit, output_format)
    write_list("audits", rows, output_format, columns=LIST_COLUMNS)


@audit.command("show")
def audit_show(
    day: Annotated[
        str | None, typer.Argument(metavar="[DATE]", help="Its local date; else the newest one.")
    ] = None,
    name: Name = None,
    config: Config = None,
    format: Format = "table",
) -> None:
    """Show what an audit found: a table of what it names, CSV of every measure, or all as JSON.

    Of one that tried another bundle: tables of verdicts and agreement with the largest changes, CSV
    of every picture that is judged otherwise, or all as JSON.

    Example: qc-daemon audit show 2026-10-31 --format json

    Example: qc-daemon audit show 2026-10-31 --audit shadow-0123456789ab --format csv
    """
    from qc_daemon.operations.audits import (
        FLAG_COLUMNS,
        MEASURE_COLUMNS,
        describe,
        flag_rows,
        measure_rows,
        read_audit,
    )
    from qc_daemon.operations.shadow_audits import CHANGE_COLUMNS, KIND, change_rows
    from qc_daemon.records.results.audits import encode

    output_format, settings = parse_format(format), load_settings(config)
    content = read_audit(settings, day, name)
    is_comparison = content.get("kind") == KIND
    if output_format == "json":
        sys.stdout.write(f"{encode(content).decode()}\n")
    elif output_format == "csv" and is_comparison:
        write_lines(change_rows(content), "csv", CHANGE_COLUMNS)
    elif output_format == "csv":
        write_lines(measure_rows(content), "csv", MEASURE_COLUMNS)
    else:
        for line in describe(content):
            say(line)
        if is_comparison:
            _show_comparison(content)
            return
        rows = flag_rows(content)
        if rows:
            write_list("names", rows, columns=FLAG_COLUMNS, heading="what it names")
        else:
            say("nobody and nothing stands out")


def _show_comparison(content: dict[str, Any]) -> None:
    from qc_daemon.operations.shadow_audits import (
        GROUP_COLUMNS,
        SHORT_CHANGE_COLUMNS,
        group_rows,
        largest_rows,
        verdict_rows,
    )

    write_list("verdicts", verdict_rows(content), heading="verdicts: stored, and in shadow")
    rows = group_rows(content)
    write_list("groups", rows, columns=GROUP_COLUMNS, heading="by view and device")
    largest = largest_rows(content)
    if largest:
        heading = "largest changes of the probability"
        write_list("changes", largest, columns=SHORT_CHANGE_COLUMNS, heading=heading)


@audit.command("pause")
def audit_pause(day: Day, name: Name = None, config: Config = None) -> None:
    """Stop an audit that waits or runs, until audit resume.

    Example: qc-daemon audit pause 2026-10-31
    """
    from qc_daemon.operations.audits import change_audit
    from qc_daemon.records.tables import AuditState

    say(change_audit(load_settings(config), day, AuditState.PAUSED, name))


@audit.command("resume")
def audit_resume(day: Day, name: Name = None, config: Config = None) -> None:
    """Have the service go on with a paused audit; it begins anew. One that scores goes
    on where it was.

    Example: qc-daemon audit resume 2026-10-31
    """
    from qc_daemon.operations.audits import change_audit
    from qc_daemon.records.tables import AuditState

    say(change_audit(load_settings(config), day, AuditState.WAITING, name))


@audit.command("cancel")
def audit_cancel(day: Day, name: Name = None, config: Config = None) -> None:
    """Stop an audit for good; audit run runs it again.

    Example: qc-daemon audit cancel 2026-10-31
    """
    from qc_daemon.operations.audits import change_audit
    from qc_daemon.records.tables import AuditState

    say(change_audit(load_settings(config), day, AuditState.CANCELLED, name))
