"""The commands on reviews of findings by persons: `review list`, `show`, `accept`, `override`,
`read`, `dispute`, `resolve`, `remark`, `export`, `import`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from detector.console import UsageError
from detector.plain_text import count_of
from qc_daemon.cli.options import (
    LARGEST_ID,
    Config,
    Format,
    Limit,
    Since,
    Until,
    load_settings,
    report_outcome,
    row_limit,
)
from qc_daemon.cli.output import (
    parse_format,
    print_table,
    say,
    write_lines,
    write_list,
    write_record,
)
from qc_daemon.review.reasons import list_reasons

if TYPE_CHECKING:
    from qc_daemon.settings import Settings

Finding = Annotated[
    int, typer.Argument(min=1, max=LARGEST_ID, help="Number of the finding, as in review list.")
]
Reader = Annotated[str, typer.Option(help="Name of the person who reads.")]
View = Annotated[str | None, typer.Option(help="NT, CRL, HEAD, ABDOMEN or OTHER.")]
Verdict = Annotated[
    str | None, typer.Option(help="standard or non-standard; none where the view is OTHER.")
]
Criteria = Annotated[
    list[str] | None,
    typer.Option(
        "--criterion",
        help="A criterion with its outcome, as NECK=met, NECK=not-met or NECK=cannot-tell;"
        " repeatable.",
    ),
]
Reason = Annotated[str | None, typer.Option(help=f"A code: {list_reasons()}.")]
Remark = Annotated[
    str | None, typer.Option(help="In own words, on one line. Write no patient's name.")
]
Seconds = Annotated[float | None, typer.Option(help="How long the reading took.")]
Version = Annotated[
    int | None,
    typer.Option(
        "--version", min=0, help="The version that was shown; refused if the finding has changed."
    ),
]
review = typer.Typer(no_args_is_help=True, help="What persons say of findings.")


@review.command("list")
def review_list(
    config: Config = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            help="automatic, waiting, accepted, overridden, second-reading, disagreement or"
            " resolved; repeatable. Without it those that wait for a person."
        ),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Findings in every state.")] = False,
    exam: Annotated[
        int | None, typer.Option(min=1, max=LARGEST_ID, help="Exam id, as in exam list.")
    ] = None,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers",
            help="Also the models' answers of what waits for a first reading; who sees them should"
            " not read it blinded.",
        ),
    ] = False,
    blinded: Annotated[
        bool, typer.Option("--blinded", help="Without the models' answers of any finding.")
    ] = False,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List findings that wait for a person: left to one, drawn, remarked on, disputed.

    --since and --until are about when the image was received. Of a finding that waits for a reading
    the answers are left out: who has seen them cannot be its second, blinded reader.

    Example: qc-daemon review list --since 2026-11-01 --config qc-daemon.toml
    """
    from qc_daemon.operations.review_lists import (
        LEFT_OUT,
        LIST_COLUMNS,
        LIST_TABLE,
        list_reviews,
        parse_answers,
    )
    from qc_daemon.operations.shared import parse_window
    from qc_daemon.records.listings import ExamFilter

    output_format = parse_format(format)
    rows = list_reviews(
        load_settings(config),
        state or (),
        ExamFilter(exam_id=exam),
        parse_window(since, until, row_limit(limit, output_format)),
        parse_answers(answers, blinded),
        with_all=all,
    )
    columns = LIST_TABLE if output_format == "table" else LIST_COLUMNS
    write_list("findings", rows, output_format, columns=columns, is_filtered=True)
    is_left_out = any(row["state"] == "waiting" for row in rows)
    if output_format == "table" and is_left_out and not (answers or blinded):
        typer.echo(LEFT_OUT, err=True)


@review.command("show")
def review_show(
    finding: Finding,
    config: Config = None,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers",
            help="Also before a first reading with the models' answer; who sees it should not read"
            " it blinded.",
        ),
    ] = False,
    blinded: Annotated[
        bool, typer.Option("--blinded", help="Without the models' answer and other readings.")
    ] = False,
    unblind: Annotated[
        bool,
        typer.Option(
            "--unblind",
            help="Show the answers although a blinded reading is to come; it is stored, and"
            " --reader cannot give that reading any more.",
        ),
    ] = False,
    reader: Annotated[str | None, typer.Option(help="With --unblind: who is shown them.")] = None,
    format: Format = "table",
) -> None:
    """Show a finding with what the models and persons say of it.

    While a blinded reading is to come, the answers are hidden from everybody; before a first
    reading from who does not ask for them. Of a finding in quarantine, or of a picture that a later
    one replaced, it shows what was said of it.

    Example: qc-daemon review show 7 --config qc-daemon.toml
    """
    from qc_daemon.operations.review_lists import (
        EVENT_COLUMNS,
        HIDDEN,
        LEFT_OUT,
        parse_answers,
        show_review,
    )

    output_format = parse_format(format)
    chosen_answers = parse_answers(answers, blinded)
    body = show_review(
        load_settings(config), finding, reader=reader, answers=chosen_answers, unblind=unblind
    )
    events = body["events"] if output_format == "json" else body.pop("events")
    # In a table it is a line of its own.
    unreported = body.pop("unreported") if output_format == "table" else None
    write_record(body, output_format)
    if output_format == "table" and events:
        print_table("events", EVENT_COLUMNS, events)
    if unreported:
        typer.echo(unreported, err=True)
    if body["answers_hidden"] and not blinded:
        # Programs read stdout; `answers_hidden` tells them.
        typer.echo(LEFT_OUT if body["state"] == "waiting" else HIDDEN, err=True)


@review.command("accept")
def review_accept(
    finding: Finding,
    reader: Reader,
    remark: Remark = None,
    seconds: Seconds = None,
    version: Version = None,
    config: Config = None,
) -> None:
    """Accept what the models say of a finding.

    Example: qc-daemon review accept 7 --reader "Dr Lee"
    """
    from qc_daemon.operations.reviews import Answer, accept

    answer = Answer(reader, remark=remark, seconds=seconds, version=version)
    say(accept(load_settings(config), finding, answer))


@review.command("override")
def review_override(
    finding: Finding,
    reader: Reader,
    view: View = None,
    verdict: Verdict = None,
    criterion: Criteria = None,
    reason: Reason = None,
    remark: Remark = None,
    seconds: Seconds = None,
    version: Version = None,
    config: Config = None,
) -> None:
    """Override a finding: its view, its verdict, criteria, or several of them, with a reason.

    What is not given stays as the models have it. The exam's report is amended: the person's
    verdict stands in it beside the models', and overlay, summary and key objects follow it. Where a
    blinded second reading is to come, that is done once it agrees or a third person decided.

    Example: qc-daemon review override 7 --verdict standard --reason measurable --reader "Dr Lee"
    """
    from qc_daemon.operations.reviews import Answer, override

    answer = Answer(reader, view, verdict, tuple(criterion or ()), reason, remark, seconds, version)
    say(override(load_settings(config), finding, answer))


@review.command("read")
def review_read(
    finding: Finding,
    reader: Reader,
    view: View = None,
    verdict: Verdict = None,
    criterion: Criteria = None,
    remark: Remark = None,
    seconds: Seconds = None,
    version: Version = None,
    config: Config = None,
) -> None:
    """Read a picture blinded: say what it shows without the models' answer.

    Of a finding that waits for a second reading it is the only way, for another person than those
    who read, disputed or saw it.

    Example: qc-daemon review read 7 --view NT --verdict standard --reader "Dr Ng"
    """
    from qc_daemon.operations.reviews import Answer, read_blinded

    answer = Answer(reader, view, verdict, tuple(criterion or ()), None, remark, seconds, version)
    say(read_blinded(load_settings(config), finding, answer))


@review.command("dispute")
def review_dispute(
    finding: Finding,
    reader: Annotated[str, typer.Option(help="Name of the person who disputes it.")],
    reason: Reason = None,
    remark: Remark = None,
    version: Version = None,
    config: Config = None,
) -> None:
    """Dispute a finding: another person reads it blinded, and that outcome stands.

    Example: qc-daemon review dispute 7 --reason criterion --reader "A. Berg"
    """
    from qc_daemon.operations.reviews import Answer, dispute

    answer = Answer(reader, reason=reason, remark=remark, version=version)
    say(dispute(load_settings(config), finding, answer))


@review.command("resolve")
def review_resolve(
    finding: Finding,
    reader: Annotated[str, typer.Option(help="Name of the person who decides.")],
    view: View = None,
    verdict: Verdict = None,
    criterion: Criteria = None,
    reason: Reason = None,
    remark: Remark = None,
    version: Version = None,
    config: Config = None,
) -> None:
    """Decide between two readings that differ, as a third person.

    Example: qc-daemon review resolve 7 --view NT --verdict standard --reader "Dr Roth"
    """
    from qc_daemon.operations.reviews import Answer, resolve

    answer = Answer(reader, view, verdict, tuple(criterion or ()), reason, remark, None, version)
    say(resolve(load_settings(config), finding, answer))


@review.command("remark")
def review_remark(
    finding: Finding,
    remark: Annotated[str, typer.Argument(help="In own words, on one line; no patient's name.")],
    reader: Annotated[str, typer.Option(help="Name of the person who remarks.")],
    config: Config = None,
) -> None:
    """Remark on a finding; one that nobody has read then waits for a person.

    Example: qc-daemon review remark 7 "is this the same fetus?" --reader "A. Berg"
    """
    from qc_daemon.operations.reviews import Answer
    from qc_daemon.operations.reviews import remark as add_remark

    say(add_remark(load_settings(config), finding, Answer(reader, remark=remark)))


@review.command("export")
def review_export(
    config: Config = None,
    sheet: Annotated[
        bool,
        typer.Option(
            "--sheet",
            help="A row for each finding that waits for a person, to fill in and import.",
        ),
    ] = False,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers",
            help="A sheet with the models' answers of what waits for a first reading; who sees them"
            " should not read it blinded.",
        ),
    ] = False,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="Also what was said of findings that wait for a blinded reading: a copy to keep,"
            " not to give to those who read.",
        ),
    ] = False,
    blinded: Annotated[
        bool, typer.Option("--blinded", hidden=True, help="As a sheet is without --answers.")
    ] = False,
    training: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder for pictures and samples.json to learn from, in place of rows.",
        ),
    ] = None,
    with_burned_in: Annotated[
        bool,
        typer.Option(
            "--with-burned-in",
            help="With --training: also pictures whose header says that text is burned into them.",
        ),
    ] = False,
    since: Since = None,
    until: Until = None,
    format: Annotated[str, typer.Option("--format", help="csv, or json or jsonl.")] = "csv",
) -> None:
    """Write what persons said, each event a row, to keep or to import elsewhere.

    Findings that wait for a blinded reading are left out, and counted, unless --whole is given.

    With --sheet: what is to be reviewed. Fill in action (accept, override, read, dispute, resolve
    or remark), reader and what else the action needs; rows without an action are passed over. The
    models' answers are in it with --answers only, and never where a blinded reading is to come.
    --since and --until are about when a review was made, with --sheet about when an image was
    received. No row names a patient.

    With --training: the region of each picture that was judged as PNG, with a pseudonym of its
    patient, for qc-model. Text that a machine wrote into the region is still in it: the README.txt
    beside them says so. Look at the pictures before you give them to anybody.

    Example: qc-daemon review export --sheet > sheet.csv

    Example: qc-daemon review export --training reviewed/ --config qc-daemon.toml
    """
    from qc_daemon.operations.review_files import (
        HISTORY_COLUMNS,
        SHEET_COLUMNS,
        History,
        make_sheet,
    )
    from qc_daemon.operations.shared import parse_window

    is_csv = parse_format(format, ("csv", "json")) == "csv"
    if answers and (blinded or not sheet):
        raise UsageError("--answers goes with --sheet, and without --blinded")
    if whole and (sheet or training is not None):
        raise UsageError("--whole goes with neither --sheet nor --training")
    if training is not None:
        if sheet or blinded:
            raise UsageError("--training goes without --sheet and --blinded")
        _export_training(load_settings(config), training, since, until, with_burned_in)
        return
    settings, window = load_settings(config), parse_window(since, until)
    form: Literal["json", "csv"] = "csv" if is_csv else "json"
    if sheet:
        write_lines(make_sheet(settings, window, with_answers=answers), form, SHEET_COLUMNS)
        return
    history = History(settings, window, is_csv, whole)
    write_lines(iter(history), form, HISTORY_COLUMNS)
    if history.left_out:
        # Programs read stdout.
        left_out = count_of(history.left_out, "finding")
        typer.echo(
            f"left out: {left_out} that a blinded reading is to come of; --whole has all",
            err=True,
        )


def _export_training(
    settings: "Settings", folder: Path, since: str | None, until: str | None, with_burned_in: bool
) -> None:
    from qc_daemon.operations.review_training import describe_export, export_training
    from qc_daemon.operations.shared import parse_window

    window = parse_window(since, until)
    export = export_training(settings, folder, window, with_burned_in=with_burned_in)
    for line in describe_export(export, folder):
        say(line)
    report_outcome(export.outcome, "sample is written", "samples are written")


@review.command("import")
def review_import(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV or JSON lines, as exported.")
    ],
    reader: Annotated[str | None, typer.Option(help="Who reads, where a row names nobody.")] = None,
    config: Config = None,
) -> None:
    """Take in a filled-in sheet, or an exported history: all of the file, or nothing.

    What is there already is passed over, so that a file may be imported twice. Each wrong row is
    named with its line.

    Example: qc-daemon review import sheet.csv --reader "Dr Lee"
    """
    from qc_daemon.operations.review_files import import_reviews

    outcome, already_there = import_reviews(load_settings(config), file, reader)
    if already_there:
        say(f"{already_there} already there")
    report_outcome(outcome, "review is taken in", "reviews are taken in")
