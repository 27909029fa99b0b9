"""Changes of persons and devices: who counts as whom, and what they are called."""

from collections.abc import Mapping

from qc_daemon.operations import identities
from qc_daemon.operations.changes.change import Change, Choice, Made, Plan
from qc_daemon.records.clock import Clock
from qc_daemon.records.tables import IdentityKind
from qc_daemon.settings import Settings
from qc_daemon.verbs import Verb

PERSON = ("id", "name", "received_name", "code", "merged_into", "images", "last")
DEVICE = ("id", "name", "manufacturer", "model", "serial_number", "merged_into", "images", "last")


def _changes(kind: IdentityKind) -> dict[str, Change]:
    columns: tuple[str, ...] = DEVICE
    list_rows = identities.list_devices
    if kind is IdentityKind.PERSON:
        columns, list_rows = PERSON, identities.list_persons

    def plan(settings: Settings, choice: Choice) -> Plan:
        named = (choice.name, choice.into)
        rows = list_rows(settings, identities.count_images(settings, kind, named))
        return Plan(columns, [row for row in rows if row["id"] in named])

    def merge(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
        return Made(1, identities.merge(settings, kind, [choice.name], choice.into, by, clock))

    def split(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
        return Made(1, identities.split(settings, kind, choice.name, by, clock))

    def rename(settings: Settings, choice: Choice, by: str, clock: Clock) -> Made:
        return Made(1, identities.rename(settings, kind, choice.name, choice.into, by, clock))

    verb, both = Verb.MANAGE_IDENTITIES, ("name", "into")
    return {
        f"{kind}-merge": Change(verb, both, plan, merge),
        f"{kind}-split": Change(verb, ("name",), plan, split),
        f"{kind}-rename": Change(verb, both, plan, rename),
    }


CHANGES: Mapping[str, Change] = _changes(IdentityKind.PERSON) | _changes(IdentityKind.DEVICE)
"""By name, as commands are called."""
