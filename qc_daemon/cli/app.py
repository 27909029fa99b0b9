"""The command line: one verb, one function; what it does stands in the module it calls.

Heavy modules are imported inside their verb, so that `--help` and the receiver stay light.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console

from detector import console
from detector.plain_text import visible
from detector.version_option import add_version
from qc_daemon.cli.output import (
    FORMAT_HELP,
    TABLE_LIMIT,
    parse_format,
    say,
    write_lines,
    write_list,
    write_record,
)
from qc_daemon.settings import ClientTLSSettings, load
from qc_daemon.spool import private_files

if TYPE_CHECKING:
    from qc_daemon.operations.store import Listing, Outcome
    from qc_daemon.records.listings import ExamFilter
    from qc_daemon.records.received.progress import Progress

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Quality control of first-trimester fetal ultrasound, between modality and PACS. "
    "Not a medical device.",
)
add_version(app, "qc-daemon")
queue = typer.Typer(no_args_is_help=True, help="The job queue: list, retry, cancel.")
quarantine = typer.Typer(no_args_is_help=True, help="Objects that could not be scored, and why.")
bundle = typer.Typer(no_args_is_help=True, help="Models: list, verify, build, activate.")
peer = typer.Typer(no_args_is_help=True, help="Who may store to us; callers that were refused.")
rejection = typer.Typer(no_args_is_help=True, help="Images that a person rejects for quality.")
rules = typer.Typer(no_args_is_help=True, help="Routing rules: which objects go where.")
spool = typer.Typer(no_args_is_help=True, help="Received files that the database does not know.")
destination = typer.Typer(no_args_is_help=True, help="Where objects go, and what waits for it.")
exam = typer.Typer(no_args_is_help=True, help="Examinations: list, find, close one now.")
commitment = typer.Typer(no_args_is_help=True, help="Storage commitment asked of us.")
db = typer.Typer(no_args_is_help=True, help="The database: migrate, check, back up.")
app.add_typer(queue, name="queue")
app.add_typer(quarantine, name="quarantine")
app.add_typer(bundle, name="bundle")
app.add_typer(peer, name="peer")
app.add_typer(rejection, name="rejection")
app.add_typer(rules, name="rules")
app.add_typer(spool, name="spool")
app.add_typer(destination, name="destination")
app.add_typer(exam, name="exam")
app.add_typer(commitment, name="commitment")
app.add_typer(db, name="db")

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file (TOML); see the README.")
]
Paths = Annotated[list[Path], typer.Argument(help="Files or folders.")]
Format = Annotated[str, typer.Option("--format", help=FORMAT_HELP)]
Limit = Annotated[
    int | None,
    typer.Option(help=f"At most so many, 0: all. A table has {TABLE_LIMIT} unless told otherwise."),
]
_LARGEST_ID = 2**63 - 1
Ids = Annotated[list[int], typer.Argument(min=1, max=_LARGEST_ID, help="As listed.")]
Since = Annotated[
    str | None, typer.Option(help="From this day or moment on: ISO 8601, UTC unless it says.")
]
Until = Annotated[
    str | None, typer.Option(help="Up to this day, which counts whole, or before this moment.")
]


GATES_HELP = (
    "Probability: that the view is a standard one. Gates (in CSV and JSON): how much the picture,"
    " its description and the layout of its structures (image, text, spatial) weighed in that; they"
    " sum to 1."
)


def main() -> None:
    # What a command writes holds patients' data: nobody else's to read. A bundle holds none, and
    # the service's user may be another one.
    if sys.argv[1:2] != ["bundle"]:
        private_files.set_umask()
    sys.exit(console.run(app))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where results go.")] = Path("demo-out"),
) -> None:
    """Run the main job on embedded defaults: store an exam, score it, return SRs.

    Example: qc-daemon demo --out demo-out
    """
    from qc_daemon.cli.demo import run_demo

    run_demo(out, Console())


@app.command()
def serve(
    config: Config = None,
    role: Annotated[
        list[str] | None,
        typer.Option(help="all, receive, work, deliver or schedule; repeatable."),
    ] = None,
) -> None:
    """Run the service until SIGTERM or SIGINT.

    Example: qc-daemon serve --config /etc/qc-daemon.toml
    """
    from qc_daemon.service import supervisor

    settings = load(config)
    if config is None:
        folder = visible(str(settings.store.spool.parent))
        typer.echo(f"no settings file (--config): defaults, files in {folder}", err=True)
    raise typer.Exit(supervisor.serve(settings, role or ["all"], config))


@app.command()
def send(
    paths: Paths,
    to: Annotated[str, typer.Option(help="AET@HOST:PORT of the receiver.")],
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "QCSEND",
    tls: Annotated[bool, typer.Option("--tls", help="Send over TLS.")] = False,
    ca: Annotated[Path | None, typer.Option(help="Authority of its certificate (PEM).")] = None,
    cert: Annotated[Path | None, typer.Option(help="The certificate we show (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="The key of --cert.")] = None,
) -> None:
    """Store files or folders to a DICOM receiver.

    Example: qc-daemon send exam/ --to QCDAEMON@127.0.0.1:11112
    """
    from qc_daemon.operations.send import send_with_progress

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
    bundle: Annotated[str, typer.Option(help="A shipped bundle's name or a folder.")] = "default",
    format: Format = "table",
    all_frames: Annotated[
        bool | None,
        typer.Option(
            "--all-frames/--best-frames",
            help="Of a cine every frame scored, or the best of each view: a table or CSV has the"
            " best, JSON all, unless told otherwise.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    sr: Annotated[Path | None, typer.Option(help="Folder for an SR of each DICOM file.")] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Folder for overlays of each DICOM file.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Of overlays: en, de or zh; else QC_DAEMON_REPORT__LANGUAGE.")
    ] = None,
) -> None:
    """Score DICOM or picture files without a network or a database.

    Example: qc-daemon score exam/*.dcm --format jsonl --sr reports > findings.jsonl
    """
    from model.bundle.bundle import Bundle

    # What is wrong with the wish is said before the models' libraries load, which takes seconds.
    chosen = parse_format(format)
    Bundle.open(bundle)
    from qc_daemon.operations.results import FINDING_COLUMNS, SCORE_COLUMNS, flat, shown
    from qc_daemon.score.files import files_under, score_files

    if not files_under(paths):
        names = ", ".join(map(str, paths))
        raise console.UsageError(f"{names}: no files there; give DICOM or picture files")
    settings = load()
    settings.score.bundle, settings.score.device = bundle, device
    tell = None
    if sr is not None or overlay is not None:
        from qc_daemon.report.files import Writer
        from qc_daemon.report.summary.language import check_language

        tell = Writer(sr, overlay, check_language(language or settings.report.language))
    has_failed = False

    def scored() -> Iterator[dict[str, Any]]:
        nonlocal has_failed
        for finding in score_files(paths, settings.score, tell):
            has_failed = has_failed or "error" in finding
            yield finding

    if chosen == "json" and all_frames is not False:
        write_lines(scored(), "json", ())
    elif chosen == "json":
        write_lines(shown(scored(), False), "json", ())
    else:
        rows = map(flat, shown(scored(), bool(all_frames)))
        columns = SCORE_COLUMNS if chosen == "csv" else FINDING_COLUMNS
        if chosen == "csv":
            write_lines(rows, "csv", columns)
        else:
            write_list("findings", list(rows), chosen, columns=columns)
    if has_failed:
        raise typer.Exit(console.FAILED)


@app.command(epilog=GATES_HELP)
def results(
    config: Config = None,
    study: Annotated[str | None, typer.Option(help="Study Instance UID.")] = None,
    exam: Annotated[
        int | None, typer.Option(min=1, max=_LARGEST_ID, help="Exam id, as in exam list.")
    ] = None,
    patient: Annotated[str | None, typer.Option(help="Patient ID, or words of the name.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Received from this day or moment on: ISO 8601, UTC.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Received up to this day, or before this moment.")
    ] = None,
    all_frames: Annotated[
        bool | None,
        typer.Option(
            "--all-frames/--best-frames",
            help="Of a cine every frame scored, or the best of each view: a table or CSV has the"
            " best, JSON all, unless told otherwise.",
        ),
    ] = None,
    all_revisions: Annotated[
        bool | None,
        typer.Option(
            "--all-revisions/--current",
            help="Also what a later content of the same image has superseded, marked so: in JSON"
            " always, unless told otherwise.",
        ),
    ] = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """Show stored findings and recorded reasons; of an exam, as a table, its state before them.

    CSV has one value a column, and the patient ID: keep it where patient data may be.

    Example: qc-daemon results --since 2026-11-01 --until 2026-11-30 --format csv
    """
    from qc_daemon.operations.exams import state_lines
    from qc_daemon.operations.results import CSV_COLUMNS, TABLE_COLUMNS, stored_rows
    from qc_daemon.operations.store import Listing, parse_window
    from qc_daemon.records.listings import ExamFilter

    settings, chosen = load(config), parse_format(format)
    exam_filter = ExamFilter(exam_id=exam, study=study, patient=patient)
    window = parse_window(since, until, _limit(limit, chosen))
    rows = stored_rows(
        settings,
        exam_filter,
        # One row more tells whether there are more.
        replace(window, limit=window.limit and window.limit + 1),
        "finding" if chosen == "json" else "row",
        all_frames=chosen == "json" if all_frames is None else all_frames,
        all_revisions=chosen == "json" if all_revisions is None else all_revisions,
        best_first=chosen == "table",
    )
    if chosen == "table":
        if study is not None or exam is not None:
            for line in state_lines(settings, study, exam):
                say(line)
        rows_shown = list(rows)
        is_cut = window.limit is not None and len(rows_shown) > window.limit
        page = Listing(rows_shown[: window.limit], None if is_cut else len(rows_shown))
        write_list("findings", page, columns=TABLE_COLUMNS, is_filtered=True)
    else:
        write_lines(islice(rows, window.limit), chosen, CSV_COLUMNS)


Patient = Annotated[
    str | None, typer.Option(help="Whole patient ID, or words of the name in any order.")
]
ExamStates = Annotated[list[str] | None, typer.Option(help="open or closed; repeatable.")]


@exam.command("list")
def exam_list(
    config: Config = None,
    patient: Patient = None,
    accession: Annotated[str | None, typer.Option(help="Accession number.")] = None,
    day: Annotated[
        str | None,
        typer.Option(help="Study date, as 2026-11-28; where it has none, the day it came (UTC)."),
    ] = None,
    state: ExamStates = None,
    since: Annotated[
        str | None, typer.Option(help="With an object received from this day or moment on (UTC).")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Whose last object came up to this day, or before then.")
    ] = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List exams, the latest first, with the ids that results, summary and exam close take.

    By operator they cannot be found yet: who scanned is not kept. Patients are named here and in no
    log.

    Example: qc-daemon exam list --patient "doe jane" --day 2026-11-28
    """
    from qc_daemon.operations.exams import parse_day
    from qc_daemon.records.listings import ExamFilter

    exam_filter = ExamFilter(
        states=_exam_states(state),
        patient=patient,
        accession=accession,
        day=None if day is None else parse_day(day),
    )
    _list_exams(config, exam_filter, since, until, limit, format)


@exam.command("find")
def exam_find(
    text: Annotated[
        str, typer.Argument(help="Part of a patient ID, name, accession number or study UID.")
    ],
    config: Config = None,
    state: ExamStates = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """Find exams by any part of patient ID, name, accession number or Study Instance UID.

    Example: qc-daemon exam find "doe"
    """
    from qc_daemon.records.listings import ExamFilter

    exam_filter = ExamFilter(states=_exam_states(state), text=text)
    _list_exams(config, exam_filter, None, None, limit, format)


def _exam_states(values: list[str] | None) -> list[str]:
    unknown = set(values or ()) - {"open", "closed"}
    if unknown:
        raise console.UsageError(f"--state {min(unknown)}: give open or closed")
    return values or []


def _list_exams(
    config: Path | None,
    exam_filter: "ExamFilter",
    since: str | None,
    until: str | None,
    limit: int | None,
    format: str,
) -> None:
    from qc_daemon.operations.exams import EXAM_COLUMNS, EXAM_TABLE, list_exams
    from qc_daemon.operations.store import parse_window

    chosen = parse_format(format)
    window = parse_window(since, until, _limit(limit, chosen))
    listing = list_exams(load(config), exam_filter, window)
    columns = EXAM_TABLE if chosen == "table" else EXAM_COLUMNS
    write_list("exams", listing.rows, chosen, columns=columns, is_filtered=True)
    if listing.unread:
        typer.echo(
            f"the headers of {listing.unread} older exams are not read yet; say it again", err=True
        )


@exam.command("close")
def exam_close(
    exam: Annotated[str, typer.Argument(help="Exam id or Study Instance UID, as in exam list.")],
    config: Config = None,
) -> None:
    """Close an exam now, without waiting for the quiet time; a late image amends.

    Example: qc-daemon exam close 1.2.840.1
    """
    from qc_daemon.operations.exams import close_exams, exam_of

    for line in close_exams(load(config), exam_of(exam)):
        say(line)


@app.command()
def summary(
    out: Annotated[Path, typer.Option(help="File to write: .html or .pdf.")],
    study: Annotated[str | None, typer.Option(help="Study Instance UID, as in results.")] = None,
    exam: Annotated[int | None, typer.Option(help="Which exam, by its number in results.")] = None,
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
    from qc_daemon.operations.summaries import write_summary

    choose = _choose_exam if sys.stdin.isatty() and sys.stdout.isatty() else None
    write_summary(load(config), study, out, language, exam=exam, patient=patient, choose=choose)
    say(f"{out}: written")


def _choose_exam(choices: "Sequence[Progress]") -> int:
    """Asks which of the exams of one study is meant."""
    say(f"{len(choices)} patients share this study:")
    for each in choices:
        opened = each.opened_at.isoformat(timespec="seconds")
        say(f"{each.exam_id}: Patient ID {each.patient_id}, {each.objects} objects, since {opened}")
    numbers = click.Choice([str(each.exam_id) for each in choices])
    return int(typer.prompt("Exam", type=numbers))


@queue.command("list")
def queue_list(
    config: Config = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help="ready, leased, sent, done, dead, quarantined; repeatable."),
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
    from qc_daemon.operations.queue import JOB_COLUMNS, JOB_TABLE, list_jobs, missing_worker
    from qc_daemon.operations.store import open_store, parse_window

    chosen = parse_format(format)
    window = parse_window(since, until, _limit(limit, chosen))
    settings = load(config)
    rows = list_jobs(
        settings,
        state or [],
        kinds=kind or [],
        destinations=destination or [],
        window=window,
    )
    columns = JOB_TABLE if chosen == "table" else JOB_COLUMNS
    write_list("jobs", rows, chosen, columns=columns, is_filtered=True)
    # Beside the list, which may be piped on.
    if problem := missing_worker(open_store(settings)):
        print(f"note: {problem}", file=sys.stderr)


@queue.command("retry")
def queue_retry(ids: Ids, config: Config = None) -> None:
    """Make dead or quarantined jobs ready again. Example: qc-daemon queue retry 12 13"""
    from qc_daemon.operations.queue import retry_jobs

    _tell(retry_jobs(load(config), ids), "jobs are ready again")


@queue.command("cancel")
def queue_cancel(ids: Ids, config: Config = None) -> None:
    """Give jobs up: they become dead, and stay in the list. Example: qc-daemon queue cancel 12"""
    from qc_daemon.operations.queue import cancel_jobs

    _tell(cancel_jobs(load(config), ids), "jobs are cancelled")


@destination.command("list")
def destination_list(config: Config = None, format: Format = "table") -> None:
    """List destinations: whether they are reached and commit, what waits, what was given up."""
    from qc_daemon.operations.destinations import DESTINATION_COLUMNS, list_destinations

    chosen = parse_format(format)
    # A person reads what fits a line; a program gets all.
    columns = DESTINATION_COLUMNS if chosen == "table" else ()
    write_list("destinations", list_destinations(load(config)), chosen, columns=columns)


@destination.command("retry")
def destination_retry(name: str, config: Config = None) -> None:
    """Send again what was given up. Example: qc-daemon destination retry pacs"""
    from qc_daemon.operations.destinations import retry_destination

    say(f"{retry_destination(load(config), name)} jobs are ready again")


@destination.command("relearn")
def destination_relearn(name: str, config: Config = None) -> None:
    """Offer again what it does not take. Example: qc-daemon destination relearn pacs"""
    from qc_daemon.operations.destinations import relearn_destination

    say(f"{relearn_destination(load(config), name)} SOP classes are offered again")


@commitment.command("list")
def commitment_list(
    config: Config = None,
    state: Annotated[
        list[str] | None, typer.Option(help="waiting, ready, reported, dead; repeatable.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List requests for storage commitment that are not reported, or those in the given states."""
    from qc_daemon.operations.commitments import COMMITMENT_COLUMNS, list_commitments
    from qc_daemon.operations.store import parse_window

    chosen = parse_format(format)
    window = parse_window(since, until, _limit(limit, chosen))
    rows = list_commitments(load(config), state or [], window)
    write_list("commitment requests", rows, chosen, columns=COMMITMENT_COLUMNS, is_filtered=True)


@commitment.command("retry")
def commitment_retry(ids: Ids, config: Config = None) -> None:
    """Report requests that were given up again. Example: qc-daemon commitment retry 7"""
    from qc_daemon.operations.commitments import retry_commitments

    _tell(retry_commitments(load(config), ids), "reports are due again")


@quarantine.command("list")
def quarantine_list(
    config: Config = None,
    code: Annotated[
        list[str] | None, typer.Option(help="Code of the reason, as truncated; repeatable.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List quarantined objects with their reasons, in order of arrival."""
    from qc_daemon.operations.quarantine import QUARANTINE_COLUMNS, QUARANTINE_TABLE, quarantined
    from qc_daemon.operations.store import parse_window

    chosen = parse_format(format)
    window = parse_window(since, until, _limit(limit, chosen))
    rows = quarantined(load(config), code or [], window)
    columns = QUARANTINE_TABLE if chosen == "table" else QUARANTINE_COLUMNS
    is_filtered = bool(code or since or until)
    write_list("quarantined objects", rows, chosen, columns=columns, is_filtered=is_filtered)


@quarantine.command("show")
def quarantine_show(id: int, config: Config = None, format: Format = "table") -> None:
    """Show one quarantined object: its reason and where its bytes lie."""
    from qc_daemon.operations.quarantine import show_quarantined

    chosen = parse_format(format)
    write_record(show_quarantined(load(config), id), chosen)


@quarantine.command("release")
def quarantine_release(ids: Ids, config: Config = None) -> None:
    """Score quarantined objects again. Example: qc-daemon quarantine release 7"""
    from qc_daemon.operations.quarantine import release

    _tell(release(load(config), ids), "objects are to be scored again")


@rejection.command("list")
def rejection_list(
    config: Config = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List rejected images, also those taken back: why, by whom and when."""
    from qc_daemon.operations.rejections import REJECTION_COLUMNS, REJECTION_TABLE, list_rejections
    from qc_daemon.operations.store import parse_window

    chosen = parse_format(format)
    rows = list_rejections(load(config), parse_window(since, until, _limit(limit, chosen)))
    columns = REJECTION_TABLE if chosen == "table" else REJECTION_COLUMNS
    write_list("rejections", rows, chosen, columns=columns, is_filtered=bool(since or until))


@rejection.command("confirm")
def rejection_confirm(
    sop_instance_uid: str,
    reason: Annotated[
        str, typer.Option(help="Code value, as 111209 (Positioning); any other lists them all.")
    ],
    confirmed_by: Annotated[str, typer.Option(help="Name of the person who rejects it.")],
    config: Config = None,
) -> None:
    """Reject an image: queue a note (key objects, 113001) that tells destinations so.

    They may then hide or delete it.

    Example: qc-daemon rejection confirm 1.2.840.1 --reason 111209 --confirmed-by "Dr Lee"
    """
    from qc_daemon.operations.rejections import reject

    say(reject(load(config), sop_instance_uid, reason, confirmed_by))


@rejection.command("retract")
def rejection_retract(
    sop_instance_uid: str,
    reason: Annotated[str, typer.Option(help="wrong-image, wrong-reason or reconsidered.")],
    retracted_by: Annotated[str, typer.Option(help="Name of the person who takes it back.")],
    config: Config = None,
) -> None:
    """Take a rejection back: queue a note (key objects) that tells the same destinations so.

    The rejection stays listed. An archive that hid the image may not show it again by itself.

    Example: qc-daemon rejection retract 1.2.840.1 --reason wrong-image --retracted-by "Dr Lee"
    """
    from qc_daemon.operations.rejections import retract

    say(retract(load(config), sop_instance_uid, reason, retracted_by))


@spool.command("list")
def spool_list(config: Config = None, limit: Limit = None, format: Format = "table") -> None:
    """List files in the spool that no row knows: a kill came between file and row."""
    from qc_daemon.operations.spool import ORPHAN_COLUMNS, list_orphans

    chosen = parse_format(format)
    rows = _page(list_orphans(load(config)), limit, chosen)
    write_list("files without a row", rows, chosen, columns=ORPHAN_COLUMNS)


@spool.command("release")
def spool_release(
    sha256: Annotated[list[str] | None, typer.Argument(help="As listed.")] = None,
    config: Config = None,
    all: Annotated[bool, typer.Option("--all", help="All that are listed.")] = False,
) -> None:
    """Take such files in as if they had been received now.

    Example, after a backup was restored: qc-daemon spool release --all
    """
    from qc_daemon.operations.spool import every_orphan, release_orphans

    if all == bool(sha256):
        raise console.UsageError("give either SHA-256 values as listed, or --all")
    settings = load(config)
    names = every_orphan(settings) if all else sha256 or []
    say(f"{release_orphans(settings, names)} objects are taken in")


@spool.command("discard")
def spool_discard(
    sha256: Annotated[list[str], typer.Argument(help="As listed.")], config: Config = None
) -> None:
    """Delete such files for good."""
    from qc_daemon.operations.spool import discard_orphans

    say(f"{discard_orphans(load(config), sha256)} files are deleted")


@bundle.command("list")
def bundle_list(config: Config = None, format: Format = "table") -> None:
    """List shipped bundles and the active one."""
    from qc_daemon.operations.bundles import list_bundles

    chosen = parse_format(format)
    write_list("bundles", list_bundles(load(config)), chosen)


@bundle.command("show")
def bundle_show(
    name: Annotated[str, typer.Argument()] = "default", format: Format = "table"
) -> None:
    """Show a bundle's manifest and model card."""
    from qc_daemon.operations.bundles import describe_bundle, show_bundle

    chosen = parse_format(format)
    if chosen == "table":
        typer.echo(describe_bundle(name))
    else:
        write_record(show_bundle(name), chosen)


@bundle.command("verify")
def bundle_verify(name: Annotated[str, typer.Argument()] = "default") -> None:
    """Check every file of a bundle against its manifest."""
    from model.bundle.bundle import verify
    from qc_daemon.operations.bundles import bundle_folder

    problems = verify(bundle_folder(name))
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(console.FAILED)
    say("verified: every file is as the manifest says")


@bundle.command("build")
def bundle_build(
    out: Annotated[Path, typer.Option(help="The new bundle's folder.")],
    detector: Annotated[Path, typer.Option(help="YOLO folder, or a .pt with --trust.")],
    describer: Annotated[Path, typer.Option(help="BioGPT folder.")],
    spatialclip: Annotated[Path, typer.Option(help="SpatialCLIP or CLIP folder.")],
    name: Annotated[str, typer.Option()] = "custom",
    version: Annotated[str, typer.Option()] = "1",
    clip: Annotated[
        Path | None, typer.Option(help="CLIP folder under a SpatialCLIP checkpoint.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Unpickle a .pt that you trust, once.")
    ] = False,
) -> None:
    """Make a bundle of local model folders.

    Example: qc-daemon bundle build --out mine --detector yolo/ --describer biogpt/
    --spatialclip spatialclip/ --name mine
    """
    from model.bundle.build import build

    made = build(
        detector, describer, spatialclip, out, name=name, version=version, trust=trust, clip=clip
    )
    say(f"{out}: {made.id.name} {made.id.version}, model_id {made.id.model_id}")


@bundle.command("activate")
def bundle_activate(name: str, config: Config = None) -> None:
    """Score new exams with this bundle. Example: qc-daemon bundle activate ./mine"""
    from qc_daemon.operations.bundles import activate_bundle

    say(f"active: model_id {activate_bundle(load(config), name)}")


@peer.command("list")
def peer_list(
    config: Config = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help="settings, reports only, approved, refused; repeatable."),
    ] = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List peers of the settings file, approved peers, and callers that were refused."""
    from qc_daemon.operations.peers import list_peers

    chosen = parse_format(format)
    rows = [row for row in list_peers(load(config)) if not state or row["state"] in state]
    write_list("peers", _page(rows, limit, chosen), chosen, is_filtered=bool(state))


@peer.command("add")
def peer_add(
    ae_title: str,
    address: Annotated[str, typer.Option(help="Address or network it calls from.")],
    certificate: Annotated[
        str | None, typer.Option(help="SHA-256 of the certificate it must show over TLS.")
    ] = None,
    config: Config = None,
) -> None:
    """Let a sender store to us. Example: qc-daemon peer add VOLUSON1 --address 10.1.0.0/16"""
    from qc_daemon.operations.peers import add_peer

    say(add_peer(load(config), ae_title, address, certificate))


@peer.command("approve")
def peer_approve(
    ae_title: str,
    address: Annotated[
        str | None, typer.Option(help="Its address, where several called by this title.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Let it call from all of a network, not one address.")
    ] = None,
    config: Config = None,
) -> None:
    """Let a caller that was refused store to us, with the certificate it showed.

    Example: qc-daemon peer approve VOLUSON1
    """
    from qc_daemon.operations.peers import approve_caller

    say(approve_caller(load(config), ae_title, address, network))


@peer.command("remove")
def peer_remove(
    ae_title: str,
    address: Annotated[
        str | None, typer.Option(help="Only the approval of this address or network.")
    ] = None,
    config: Config = None,
) -> None:
    """Take an approval back. Example: qc-daemon peer remove VOLUSON1"""
    from qc_daemon.operations.peers import remove_peer

    say(f"{remove_peer(load(config), ae_title, address)} approvals are taken back")


@rules.command("test")
def rules_test(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE", help="DICOM files.")],
    config: Config = None,
    calling: Annotated[str, typer.Option(help="AE title it would be sent from.")] = "",
    view: Annotated[
        str | None, typer.Option(help="Suppose this view: NT, CRL, HEAD, ABDOMEN or OTHER.")
    ] = None,
    verdict: Annotated[
        str | None, typer.Option(help="Suppose this verdict: standard, non-standard or review.")
    ] = None,
    format: Format = "table",
) -> None:
    """Show where a file's objects would go, by which rule, and why the earlier ones do not match.

    Without --view and --verdict the bundle judges the file, if a rule asks for that.

    Example: qc-daemon rules test nt.dcm --calling VOLUSON1 --view NT --verdict non-standard
    """
    from qc_daemon.operations.routing import flat, try_rules

    chosen = parse_format(format)
    rows = list(try_rules(load(config), paths, calling_ae=calling, view=view, verdict=verdict))
    write_list("routes", rows if chosen == "json" else [flat(row) for row in rows], chosen)
    if any("error" in row for row in rows):
        raise typer.Exit(console.FAILED)


@db.command("upgrade")
def db_upgrade(config: Config = None) -> None:
    """Bring the database to this version's tables."""
    from qc_daemon.records import schema

    schema.upgrade(load(config).store.url)
    say("the database is up to date")


@db.command("downgrade")
def db_downgrade(
    revision: str,
    config: Config = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="A PostgreSQL database is saved already.")
    ] = False,
) -> None:
    """Take the database back to an earlier revision; a SQLite one is copied before.

    What later tables hold is lost. Stop the service first. Example: qc-daemon db downgrade -- -1
    """
    from datetime import UTC, datetime

    from qc_daemon.operations.database import downgrade

    for line in downgrade(load(config), revision, yes=yes, now=datetime.now(UTC)):
        say(line)


@db.command("check")
def db_check(
    config: Config = None,
    full: Annotated[
        bool, typer.Option("--full", help="Look at everything, however large it is.")
    ] = False,
) -> None:
    """Say whether the database has this version's tables and is sound."""
    from qc_daemon.operations.database import check

    say(check(load(config), full=full))


@db.command("backup")
def db_backup(
    target: Annotated[Path, typer.Argument(help="A new file, or with --with-spool a new folder.")],
    config: Config = None,
    with_spool: Annotated[
        bool, typer.Option("--with-spool", help="Save the received objects with it, in a folder.")
    ] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Hard links for received objects, on the same disk.")
    ] = False,
) -> None:
    """Save the database while it is in use, by itself or with the spool.

    Example: qc-daemon db backup /backup/2026-11-29 --with-spool
    """
    if not with_spool:
        from qc_daemon.records import schema

        if link:
            raise console.UsageError("--link is for received objects; add --with-spool")
        schema.backup(load(config).store.url, target)
        say(f"{target}: written, the database alone; --with-spool saves received objects with it")
        return
    from qc_daemon.operations.database import save_all

    lines, complete = save_all(load(config), target, link=link)
    for line in lines:
        say(line)
    if not complete:
        raise typer.Exit(console.FAILED)


@db.command("restore")
def db_restore(
    source: Annotated[Path, typer.Argument(help="A backup's folder, or a database's copy.")],
    config: Config = None,
    release: Annotated[
        bool, typer.Option("--release", help="Take in what came after the backup.")
    ] = False,
) -> None:
    """Put a backup in place of the database, and received objects back that the spool lacks.

    Stop the service first. The old database is moved aside; nothing is deleted.

    Example: qc-daemon db restore /backup/2026-11-29
    """
    from qc_daemon.operations.database import restore_all

    lines, complete = restore_all(load(config), source, release=release)
    for line in lines:
        say(line)
    if not complete:
        raise typer.Exit(console.FAILED)


@app.command()
def doctor(config: Config = None) -> None:
    """Check settings, folders, database, bundle, ports and destinations."""
    from qc_daemon.operations.doctor import examine

    healthy = True
    for check in examine(load(config)):
        say(f"{check.word:4} {check.name}: {check.message}")
        healthy = healthy and check.healthy
    if not healthy:
        raise typer.Exit(console.FAILED)


def _limit(limit: int | None, chosen: str) -> int:
    """How many rows: a person reads a page, a program all unless it asks for fewer."""
    if limit is not None:
        return limit
    return TABLE_LIMIT if chosen == "table" else 0


def _page(rows: Sequence[dict[str, Any]], limit: int | None, chosen: str) -> "Listing":
    """The first rows of a list that its command has whole."""
    from qc_daemon.operations.store import Listing, parse_window

    most = parse_window(None, None, _limit(limit, chosen)).limit
    return Listing(rows[:most], len(rows))


def _tell(outcome: "Outcome", line: str) -> None:
    """Say how many were changed, and each that was not, which is a failure."""
    if outcome.count or not outcome.problems:
        say(f"{outcome.count} {line}")
    for problem in outcome.problems:
        typer.echo(f"error: {visible(problem)}", err=True)
    if outcome.problems:
        raise typer.Exit(console.FAILED)
