"""The command line: a function for each command, which calls `operations` and prints the result.

Heavy modules are imported inside their command, so that `--help` starts fast.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console

from detector import console
from detector.plain_text import count_of
from detector.version_option import add_version
from qc_daemon.cli.acquisition_commands import acquisition, device, person
from qc_daemon.cli.audit_commands import audit
from qc_daemon.cli.audit_log_commands import audit_log
from qc_daemon.cli.backup_commands import backup
from qc_daemon.cli.bundle_commands import bundle
from qc_daemon.cli.database_commands import db, spool
from qc_daemon.cli.destination_commands import destination, rules
from qc_daemon.cli.digest_commands import digest
from qc_daemon.cli.exam_commands import exam
from qc_daemon.cli.export_commands import export
from qc_daemon.cli.options import (
    LARGEST_ID,
    AllFrames,
    Config,
    Format,
    Paths,
    load_settings,
    option_name,
)
from qc_daemon.cli.output import (
    parse_format,
    say,
    write_lines,
    write_list,
)
from qc_daemon.cli.patient_commands import erasure, patient
from qc_daemon.cli.peer_commands import peer
from qc_daemon.cli.quarantine_commands import quarantine
from qc_daemon.cli.queue_commands import commitment, queue
from qc_daemon.cli.rejection_commands import rejection
from qc_daemon.cli.report_commands import report
from qc_daemon.cli.result_commands import GATES_HELP, results
from qc_daemon.cli.review_commands import review
from qc_daemon.cli.site_commands import site as site_app
from qc_daemon.cli.upgrade_commands import upgrade
from qc_daemon.cli.user_commands import user
from qc_daemon.settings import ClientTLSSettings, load
from qc_daemon.spool import private_files

if TYPE_CHECKING:
    from qc_daemon.records.received.progress import Progress

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"token_normalize_func": option_name},
    pretty_exceptions_enable=False,
    help="Quality control of first-trimester fetal ultrasound, between modality and PACS. "
    "Not a medical device.",
)
add_version(app, "qc-daemon")
app.add_typer(queue, name="queue")
app.add_typer(quarantine, name="quarantine")
app.add_typer(bundle, name="bundle")
app.add_typer(peer, name="peer")
app.add_typer(rejection, name="rejection")
app.add_typer(review, name="review")
app.add_typer(rules, name="rules")
app.add_typer(results, name="results")
app.add_typer(site_app, name="site")
app.add_typer(spool, name="spool")
app.add_typer(destination, name="destination")
app.add_typer(exam, name="exam")
app.add_typer(digest, name="digest")
app.add_typer(export, name="export")
app.add_typer(commitment, name="commitment")
app.add_typer(person, name="person")
app.add_typer(device, name="device")
app.add_typer(acquisition, name="acquisition")
app.add_typer(audit, name="audit")
app.add_typer(audit_log, name="audit-log")
app.add_typer(db, name="db")
app.add_typer(backup, name="backup")
app.add_typer(upgrade, name="upgrade")
app.add_typer(user, name="user")
app.add_typer(patient, name="patient")
app.add_typer(erasure, name="erasure")
app.command()(report)


def main() -> None:
    # What a command writes holds patients' data: nobody else's to read. A bundle holds none, and
    # the service's user may be another one.
    if sys.argv[1:2] != ["bundle"]:
        private_files.set_umask()
    from qc_daemon.observe import log

    log.configure_command()
    sys.exit(console.run(app))


@app.command()
def demo(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the results, made if it is not there; if something is in it, they go"
            " into a new folder inside, named by day and time."
        ),
    ] = Path("demo-out"),
) -> None:
    """Run the main job on embedded defaults: store an exam, score it, return SRs.

    It asks no settings and touches no other folder, nor a service that runs.

    Example: qc-daemon demo --out demo-out
    """
    from qc_daemon.cli.demo import run_demo

    run_demo(out, Console())


@app.command()
def serve(
    config: Config = None,
    role: Annotated[
        list[str] | None,
        typer.Option(help="all, receive, work, deliver, schedule or web; repeatable."),
    ] = None,
) -> None:
    """Run the service until SIGTERM or SIGINT.

    Example: qc-daemon serve --config /etc/qc-daemon.toml
    """
    from qc_daemon.service import supervisor

    settings = load_settings(config)
    raise typer.Exit(supervisor.serve(settings, role or ["all"], config))


@app.command()
def send(
    paths: Paths,
    to: Annotated[str, typer.Option(help="AET@HOST:PORT of the receiver.")],
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "QCSEND",
    tls: Annotated[bool, typer.Option("--tls", help="Send over TLS.")] = False,
    ca: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Authority of its certificate (PEM)."),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The certificate we show (PEM)."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The key of --cert.")
    ] = None,
) -> None:
    """Store files or folders to a DICOM receiver.

    Example: qc-daemon send exam/ --to QCDAEMON@127.0.0.1:11112
    """
    from qc_daemon.cli.send import send_with_progress

    if not tls and (ca or cert or key):
        raise console.UsageError("--ca, --cert and --key are for TLS; add --tls")
    if bool(cert) != bool(key):
        raise console.UsageError("--cert and --key go together; give both or neither")
    secure = ClientTLSSettings(ca=ca, certificate=cert, key=key) if tls else None
    if not send_with_progress(paths, to, calling, Console(stderr=True), secure):
        raise typer.Exit(console.FAILED)


@app.command(epilog=GATES_HELP)
def score(
    paths: Paths,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help=r"Settings file (TOML), for \[score] and \[report]; none is needed.",
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(help="A shipped bundle's name or a folder; else what score.bundle says."),
    ] = None,
    format: Format = "table",
    all_frames: AllFrames = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or cuda:N; else what score.device says.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="auto, torch or openvino; else what score.runtime says.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="exact or fast; else what score.precision says.")
    ] = None,
    sr: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for an SR of each DICOM file.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for overlays of each DICOM file.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Of overlays: en, de or zh; else what report.language says.")
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(
            help="Calibration of the site that the files are from, by site fit. What names another"
            " institution is not calibrated by it (flag not-commissioned)."
        ),
    ] = None,
) -> None:
    """Score DICOM or picture files without a network or a database.

    A file that cannot be scored has an error in the place of findings, and the command ends with
    status 1 after all others. A cine of which some frames cannot be decoded is scored without them
    (flag unreadable-frames; JSON and tables list them): that is no failure.

    Example: qc-daemon score exam/*.dcm --format jsonl --sr reports > findings.jsonl

    Example: qc-daemon score exam/*.dcm --site site.json
    """
    from model.bundle.bundle import Bundle
    from model.runtime.precision import check_precision
    from model.site.record import read_record

    # Arguments are checked before the models' libraries load, which takes seconds.
    output_format = parse_format(format)
    settings = load(config)
    settings.score.bundle = bundle or settings.score.bundle
    settings.score.device = device or settings.score.device
    settings.score.runtime = runtime or settings.score.runtime
    if precision is not None:
        settings.score.precision = check_precision(precision)
    record = None if site is None else read_record(site)
    opened = Bundle.open(settings.score.bundle)
    from qc_daemon.operations.results import (
        FINDING_COLUMNS,
        SCORE_COLUMNS,
        finding_row,
        select_frames,
        table_row,
    )
    from qc_daemon.score.files import check_bundle, is_elsewhere, list_files, score_files

    if record is not None:
        check_bundle(record, opened.id)
        if record.makes_worse:
            from qc_daemon.operations.site_words import describe_worse

            typer.echo(f"calibration {record.id}: {describe_worse(record)}", err=True)

    if not list_files(paths):
        names = ", ".join(map(str, paths))
        raise console.UsageError(f"{names}: no files there; give DICOM or picture files")
    from qc_daemon.language.catalogues import check_language

    language = check_language(language or settings.report.language)
    write_report = None
    if sr is not None or overlay is not None:
        from qc_daemon.report.files import ReportWriter

        write_report = ReportWriter(sr, overlay, language)
    has_failed = False
    elsewhere: set[str] = set()

    def scored() -> Iterator[dict[str, Any]]:
        nonlocal has_failed
        for finding in score_files(paths, settings.score, write_report, record):
            if record is not None and is_elsewhere(finding, record):
                elsewhere.add(finding["source"])
            # A frame's error stands beside the findings of its file.
            has_failed = has_failed or ("error" in finding and "frame" not in finding)
            yield finding

    if output_format == "json" and all_frames is not False:
        write_lines(scored(), "json", ())
    elif output_format == "json":
        write_lines(select_frames(scored(), False), "json", ())
    else:
        rows = map(finding_row, select_frames(scored(), bool(all_frames)))
        columns = SCORE_COLUMNS if output_format == "csv" else FINDING_COLUMNS
        if output_format == "csv":
            write_lines(rows, "csv", columns)
        else:
            write_list("findings", [table_row(row) for row in rows], output_format, columns=columns)
    if elsewhere and record is not None:
        files = count_of(len(elsewhere), "file names", "files name")
        typer.echo(
            f"{files} another institution than {record.site}: not calibrated by {record.id}",
            err=True,
        )
    if has_failed:
        raise typer.Exit(console.FAILED)


@app.command()
def summary(
    out: Annotated[Path, typer.Option(help="File to write: .html or .pdf.")],
    study: Annotated[str | None, typer.Option(help="Study Instance UID, as in exam list.")] = None,
    exam: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_ID, help="Exam id, as in exam list.")
    ] = None,
    patient: Annotated[
        str | None, typer.Option(help="Patient ID, where several patients share the study.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="en, de or zh; else what report.language says.")
    ] = None,
    config: Config = None,
) -> None:
    """Write an exam's summary: a picture of each view, what is missing, how to fix it.

    Where several patients share the study, a terminal asks which; else give --exam or --patient.

    Example: qc-daemon summary --study 1.2.840.1 --out exam.pdf --language de
    """
    from qc_daemon.operations.exams import write_summary

    choose = _choose_exam if sys.stdin.isatty() and sys.stdout.isatty() else None
    write_summary(
        load_settings(config), study, out, language, exam=exam, patient=patient, choose=choose
    )
    say(f"{out}: written")


def _choose_exam(choices: "Sequence[Progress]") -> int:
    """Ask on the terminal which of the exams of one study is meant; returns its id."""
    say(f"{len(choices)} patients share this study:")
    for each in choices:
        opened = each.opened_at.isoformat(timespec="seconds")
        objects = count_of(each.objects, "object")
        say(f"{each.exam_id}: Patient ID {each.patient_id}, {objects}, since {opened}")
    numbers = click.Choice([str(each.exam_id) for each in choices])
    return int(typer.prompt("Exam", type=numbers))


@app.command()
def doctor(
    config: Config = None,
    format: Format = "table",
    check_name: Annotated[
        list[str] | None,
        typer.Option("--check", help="Only the check of this name; repeatable."),
    ] = None,
    support: Annotated[
        Path | None,
        typer.Option(
            help="Also write a .tar.gz for whoever helps: checks, settings without secrets,"
            " versions, counts. It has no patient data; look before you send it."
        ),
    ] = None,
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log", exists=True, dir_okay=False, help="Log lines for --support (JSON, of a file)."
        ),
    ] = None,
) -> None:
    """Check the installation and the service, and say what waits, failed or is damaged.

    Example: qc-daemon doctor --config qc-daemon.toml

    Example: qc-daemon doctor --support help.tar.gz
    """
    from qc_daemon.operations.doctor import examine

    output_format = parse_format(format)
    if log_file is not None and support is None:
        raise console.UsageError("--log is for --support; give that too")
    healthy, rows, results = True, [], []
    settings = load_settings(config)
    for check in examine(settings, check_name or ()):
        results.append(check)
        if output_format == "table":
            say(f"{check.word:4} {check.name}: {check.message}")
        rows.append({"check": check.name, "result": check.word, "message": check.message})
        healthy = healthy and check.is_healthy
    if output_format != "table":
        write_list("checks", rows, output_format)
    if support is not None:
        from qc_daemon.operations.support import write_support

        write_support(settings, support, results, log_file)
        typer.echo(f"{support}: written", err=True)
    if not healthy:
        raise typer.Exit(console.FAILED)
