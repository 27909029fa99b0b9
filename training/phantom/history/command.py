"""`qc-model phantom history`."""

from pathlib import Path
from typing import Annotated

import typer

from detector.console import UsageError

MOST_FINDINGS = 10_000_000


def history(
    out: Annotated[Path, typer.Option(help="Folder to write to: findings.jsonl and truth.json.")],
    seed: Annotated[int, typer.Option(help="Unlike seeds share no exam.", min=0)] = 0,
    findings: Annotated[
        int, typer.Option(help="Number of findings.", min=1, max=MOST_FINDINGS)
    ] = 100_000,
    null: Annotated[
        bool, typer.Option("--null", help="Plant nothing: persons and devices differ by chance.")
    ] = False,
) -> None:
    """Make up two years of a lab's findings, in which it is known what is wrong: for audits.

    50 persons, 8 devices, 3 sites. Planted: a device that drifts, in its pictures and in what the
    models answer; a trainee who gets better, a person whose pictures are poor, one who only has
    harder cases, one who measures the nuchal translucency too large, and a change of the models.
    truth.json names them.

    Example: qc-model phantom history --out runs/history --seed 3 --findings 10000
    """
    from training.phantom.history.write import write_history

    try:
        typer.echo(str(write_history(out, seed, findings, is_null=null)))
    except OSError as error:
        raise UsageError(f"cannot write to --out {out}: {error.strerror or error}") from None
