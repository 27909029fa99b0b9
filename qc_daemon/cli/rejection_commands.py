"""The commands on images rejected for quality: `rejection list`, `confirm`, `retract`."""

from typing import Annotated

import typer

from qc_daemon.cli.options import (
    By,
    Config,
    Format,
    Limit,
    Since,
    Until,
    load_settings,
    row_limit,
)
from qc_daemon.cli.output import parse_format, say, write_list

Image = Annotated[str, typer.Argument(help="SOP Instance UID of the image, as in results.")]
rejection = typer.Typer(no_args_is_help=True, help="Images that a person rejects for quality.")


@rejection.command("list")
def rejection_list(
    config: Config = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    format: Format = "table",
) -> None:
    """List rejected images, also those taken back: why, by whom and when.

    Example: qc-daemon rejection list --since 2026-11-01 --config qc-daemon.toml
    """
    from qc_daemon.operations.rejections import REJECTION_COLUMNS, REJECTION_TABLE, list_rejections
    from qc_daemon.operations.shared import parse_window

    output_format = parse_format(format)
    rows = list_rejections(
        load_settings(config), parse_window(since, until, row_limit(limit, output_format))
    )
    columns = REJECTION_TABLE if output_format == "table" else REJECTION_COLUMNS
    write_list("rejections", rows, output_format, columns=columns, is_filtered=bool(since or until))


@rejection.command("confirm")
def rejection_confirm(
    sop_instance_uid: Image,
    reason: Annotated[
        str, typer.Option(help="Code value, as 111209 (Positioning); any other lists them all.")
    ],
    by: By,
    config: Config = None,
) -> None:
    """Reject an image: queue a note (key objects, 113001) for the destinations.

    They may then hide or delete it. A destination takes notes if "key-objects" is among its objects
    in the settings.

    Example: qc-daemon rejection confirm 1.2.840.1 --reason 111209 --by "Dr Lee"
    """
    from qc_daemon.operations.rejections import reject

    say(reject(load_settings(config), sop_instance_uid, reason, by))


@rejection.command("retract")
def rejection_retract(
    sop_instance_uid: Image,
    reason: Annotated[str, typer.Option(help="wrong-image, wrong-reason or reconsidered.")],
    by: By,
    config: Config = None,
) -> None:
    """Retract a rejection: queue a note (key objects) for the same destinations.

    The rejection stays listed. An archive that hid the image may not show it again by itself.

    Example: qc-daemon rejection retract 1.2.840.1 --reason wrong-image --by "Dr Lee"
    """
    from qc_daemon.operations.rejections import retract

    say(retract(load_settings(config), sop_instance_uid, reason, by))
