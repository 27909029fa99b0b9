"""The commands on who made the images and with what: `person`, `device`, `acquisition`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qc_daemon.cli.options import By, Config, Format, Limit, first_page, load_settings
from qc_daemon.cli.output import parse_format, say, write_list, write_record

if TYPE_CHECKING:
    from qc_daemon.records.tables import IdentityKind
    from qc_daemon.settings import Settings

person = typer.Typer(
    no_args_is_help=True, help="Who made the images: operators, and which of them are one person."
)
device = typer.Typer(
    no_args_is_help=True, help="The ultrasound machines, and which of them are one."
)
acquisition = typer.Typer(
    no_args_is_help=True, help="What is known of who made the images, where, when and with what."
)

Persons = Annotated[list[str], typer.Argument(help="Ids of persons, as in person list.")]
PersonId = Annotated[str, typer.Argument(help="Id of the person, as in person list.")]
Devices = Annotated[list[str], typer.Argument(help="Ids of devices, as in device list.")]
DeviceId = Annotated[str, typer.Argument(help="Id of the device, as in device list.")]
History = Annotated[bool, typer.Option("--history", help="List the decisions instead.")]


def _list(
    kind: "IdentityKind",
    history: bool,
    limit: int | None,
    format: str,
    config: Path | None,
    list_all: "Callable[[Settings], list[dict[str, Any]]]",
    columns: Sequence[str],
) -> None:
    """Write all persons or devices with a line on those that may be one, or their history."""
    from qc_daemon.operations.identities import HISTORY_COLUMNS, describe_suggestions, list_history

    output_format, settings = parse_format(format), load_settings(config)
    if history:
        changes = first_page(list_history(settings, kind), limit, output_format)
        write_list("changes", changes, output_format, columns=HISTORY_COLUMNS)
        return
    rows = list_all(settings)
    write_list(f"{kind}s", first_page(rows, limit, output_format), output_format, columns=columns)
    note = describe_suggestions(kind, rows)
    if note is not None and output_format == "table":
        say(note)


@person.command("list")
def person_list(
    history: History = False, limit: Limit = None, config: Config = None, format: Format = "table"
) -> None:
    """List operators with their images, and which of them may be one person.

    Each code, and each name without a code, is a person until somebody merges them. An image with
    several operators counts for each. The list names people: keep it where that is allowed.

    Example: qc-daemon person list --format csv --config qc-daemon.toml
    """
    from qc_daemon.operations.identities import PERSON_COLUMNS, list_persons
    from qc_daemon.records.tables import IdentityKind

    _list(IdentityKind.PERSON, history, limit, format, config, list_persons, PERSON_COLUMNS)


@person.command("merge")
def person_merge(
    ids: Persons,
    into: Annotated[str, typer.Option(help="Id of the person that they are.")],
    by: By,
    config: Config = None,
) -> None:
    """Count persons as another one: all or none of them. person split takes it back.

    Example: qc-daemon person merge p4k2m7x0a --into p9d3wq1zt --by "Dr Lee"
    """
    from qc_daemon.operations.identities import merge
    from qc_daemon.records.tables import IdentityKind

    say(merge(load_settings(config), IdentityKind.PERSON, ids, into, by))


@person.command("split")
def person_split(id: PersonId, by: By, config: Config = None) -> None:
    """Take a merge back: the person, with all that was merged into it, counts for itself again.

    Example: qc-daemon person split p4k2m7x0a --by "Dr Lee"
    """
    from qc_daemon.operations.identities import split
    from qc_daemon.records.tables import IdentityKind

    say(split(load_settings(config), IdentityKind.PERSON, id, by))


@person.command("rename")
def person_rename(
    id: PersonId,
    name: Annotated[str, typer.Argument(help="What the person is called.")],
    by: By,
    config: Config = None,
) -> None:
    """Call a person something else than the machines do.

    Example: qc-daemon person rename p9d3wq1zt "Jane Doe" --by "Dr Lee"
    """
    from qc_daemon.operations.identities import rename
    from qc_daemon.records.tables import IdentityKind

    say(rename(load_settings(config), IdentityKind.PERSON, id, name, by))


@device.command("list")
def device_list(
    history: History = False, limit: Limit = None, config: Config = None, format: Format = "table"
) -> None:
    """List ultrasound machines with their images, and which of them may be one.

    A machine is known by its serial number and manufacturer; without a serial number, by its
    station name, model and AE title.

    Example: qc-daemon device list --config qc-daemon.toml
    """
    from qc_daemon.operations.identities import DEVICE_COLUMNS, list_devices
    from qc_daemon.records.tables import IdentityKind

    _list(IdentityKind.DEVICE, history, limit, format, config, list_devices, DEVICE_COLUMNS)


@device.command("merge")
def device_merge(
    ids: Devices,
    into: Annotated[str, typer.Option(help="Id of the device that they are.")],
    by: By,
    config: Config = None,
) -> None:
    """Count devices as another one: all or none of them. device split takes it back.

    Example: qc-daemon device merge d4k2m7x0a --into d9d3wq1zt --by "Dr Lee"
    """
    from qc_daemon.operations.identities import merge
    from qc_daemon.records.tables import IdentityKind

    say(merge(load_settings(config), IdentityKind.DEVICE, ids, into, by))


@device.command("split")
def device_split(id: DeviceId, by: By, config: Config = None) -> None:
    """Take a merge back: the device, with all that was merged into it, counts for itself again.

    Example: qc-daemon device split d4k2m7x0a --by "Dr Lee"
    """
    from qc_daemon.operations.identities import split
    from qc_daemon.records.tables import IdentityKind

    say(split(load_settings(config), IdentityKind.DEVICE, id, by))


@device.command("name")
def device_name(
    id: DeviceId,
    name: Annotated[str, typer.Argument(help="What the machine is called.")],
    by: By,
    config: Config = None,
) -> None:
    """Give an ultrasound machine a name.

    Example: qc-daemon device name d9d3wq1zt "Room 2" --by "Dr Lee"
    """
    from qc_daemon.operations.identities import rename
    from qc_daemon.records.tables import IdentityKind

    say(rename(load_settings(config), IdentityKind.DEVICE, id, name, by))


@acquisition.command("show")
def acquisition_show(config: Config = None, format: Format = "table") -> None:
    """Show of how many images it was read who made them, is unknown, or is still to be read.

    Example: qc-daemon acquisition show --config qc-daemon.toml
    """
    from qc_daemon.operations.acquisitions import count_acquisitions

    output_format = parse_format(format)
    write_record(count_acquisitions(load_settings(config)), output_format)


@acquisition.command("fill")
def acquisition_fill(
    unknown: Annotated[
        bool,
        typer.Option("--unknown", help="Read those too whose file was gone or unreadable before."),
    ] = False,
    config: Config = None,
) -> None:
    """Read who made them for images that an older version scored, from the spool.

    The service does that by itself after its start, slowly. What was read stays where this is
    stopped.

    Example: qc-daemon acquisition fill --unknown --config qc-daemon.toml
    """
    from qc_daemon.operations.acquisitions import fill_acquisitions

    say(fill_acquisitions(load_settings(config), with_unknown=unknown))
