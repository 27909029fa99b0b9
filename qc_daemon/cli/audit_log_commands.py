"""The commands on the audit log: `audit-log`."""

from typing import Annotated

import typer

from detector import console
from detector.console import UsageError
from qc_daemon.cli.options import Config, Format, Since, Until, load_settings
from qc_daemon.cli.output import parse_format, say, write_list

audit_log = typer.Typer(
    no_args_is_help=True, help="The audit log: who did what to which object, in a chain of hashes."
)
Chain = Annotated[
    str | None, typer.Option("--chain", help="Of this machine, where several share the folder.")
]
_FORMATS = ("text", "json", "jsonl", "xml")


@audit_log.command("verify")
def audit_log_verify(
    config: Config = None,
    chain: Chain = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option(help="NUMBER:DIGEST that was noted before and must be there; repeatable."),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(help="NUMBER:DIGEST of the last record that was moved away with its files."),
    ] = None,
    format: Format = "table",
) -> None:
    """Check that no record was changed, removed, added or moved, and say where the log ends.

    Note what it prints elsewhere: with --anchor a later check finds also who rewrote all of it.

    Example: qc-daemon audit-log verify --config qc-daemon.toml
    """
    from qc_daemon.operations.audit_log import CHECK_COLUMNS, describe_check, verify_chains

    output_format = parse_format(format)
    rows = list(verify_chains(load_settings(config), chain, anchors=anchor or (), after=after))
    if output_format == "table":
        for row in rows:
            for line in describe_check(row):
                say(line)
        if not rows:
            say("there is no audit log yet")
    else:
        write_list("chains", rows, output_format, columns=CHECK_COLUMNS)
    if any(row["problems"] for row in rows):
        raise typer.Exit(console.FAILED)


@audit_log.command("export")
def audit_log_export(
    config: Config = None,
    chain: Chain = None,
    since: Since = None,
    until: Until = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only records of this kind; repeatable.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format",
            help="text, jsonl (records as they are), or xml (a DICOM audit message a line).",
        ),
    ] = "text",
) -> None:
    """Print the records. They have Patient IDs and study UIDs, no names; that you read them is
    recorded too.

    Example: qc-daemon audit-log export --since 2026-11-01 --format xml > audit.xml
    """
    from qc_daemon.operations.audit_log import export_records, record_line

    if format not in _FORMATS:
        raise UsageError(f"--format {format}: give one of text, jsonl, xml")
    settings = load_settings(config)
    records = export_records(settings, chain, since=since, until=until, kinds=kind or ())
    if format == "text":
        for body in records:
            say(record_line(body))
    elif format == "xml":
        from qc_daemon.operations.audit_log import record_message

        for body in records:
            say(record_message(settings, body))
    else:
        from qc_daemon.cli.output import write_lines

        write_lines(records, "json", ())
