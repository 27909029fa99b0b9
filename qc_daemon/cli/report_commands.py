"""The command `report`: an audit for people, by person, device, site or exam."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from detector.console import UsageError
from qc_daemon.cli.options import Config, load_settings
from qc_daemon.cli.output import say


def report(
    person: Annotated[
        str | None,
        typer.Option(
            "--person", "--sonographer", help="Id of a person, as in person list, or the name."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Id of a device, as in device list, or the name.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Institution, as the machines name it.")] = None,
    exam: Annotated[str | None, typer.Option(help="Exam id, as in exam list.")] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Bundle that audit run --bundle tried: a folder or shipped name."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="An audit of this day or later; ISO 8601.")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="An audit of this day or earlier; ISO 8601.")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="html, pdf or json; else as --out ends.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File to write; else to the output.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="en, de or zh; else what report.language says.")
    ] = None,
    config: Config = None,
) -> None:
    """Report what the newest audit in a period says of a person, a device, a site or a bundle that
    was tried in shadow, or what is known of an exam.

    The report of a person is private: own trend first, machines before people, others as a band
    without names. Reports of persons, devices and sites hold nothing of a patient but pictures of
    tissue. A file is written as a whole or not at all.

    Example: qc-daemon report --person p4k2m7x0a --out report.pdf --config qc-daemon.toml

    Example: qc-daemon report --bundle ./mine --out changes.html

    Example: qc-daemon report --device "Room 2" --from 2026-06-01 --to 2026-06-30 --format json
    """
    from qc_daemon.operations.audit_reports import (
        ReportPeriod,
        Target,
        choose_format,
        make_report,
        write_report,
    )

    target = Target.of(person=person, device=device, site=site, exam=exam, bundle=bundle)
    period, output_format = ReportPeriod.parse(start, end), choose_format(format, out)
    if target.kind == "exam" and (start or end):
        raise UsageError("--from and --to do not go with --exam: an exam has no period")
    if out is None and output_format == "pdf" and sys.stdout.isatty():
        raise UsageError("--format pdf: name the file to write with --out")
    content = make_report(load_settings(config), target, period, output_format, language)
    if out is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    write_report(out, content)
    say(f"{out}: written")
