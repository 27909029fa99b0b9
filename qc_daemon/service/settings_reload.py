"""Which settings a running service can take up, and which need a restart."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from qc_daemon.observe import log
from qc_daemon.service.roles import write_settings
from qc_daemon.settings import Settings, SettingsError, load

RELOADABLE = ("receive.peer", "destination", "rule", "observe.log_level")
"""What SIGHUP changes without ending an association."""
_REPLACED: dict[str, tuple[str, ...]] = {
    "receive.peer": ("deliver",),
    "destination": ("work", "deliver", "schedule"),
    "rule": ("work", "deliver", "schedule"),
}
"""The roles whose process is replaced for a change; a receiver takes up each one as it runs."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The settings that differ by name: those that are taken up, and those that need a restart."""

    reloadable: tuple[str, ...]
    restart: tuple[str, ...]


def compare(old: Settings, new: Settings) -> Changes:
    """What differs between two settings."""
    names = sorted(_differences(old, new, ""))
    return Changes(
        tuple(name for name in names if name in RELOADABLE),
        tuple(name for name in names if name not in RELOADABLE),
    )


def merge(old: Settings, new: Settings) -> Settings:
    """The old settings with those of the new ones that can be taken up.

    Rules name destinations and views that the file checked together: both are taken from the new.
    """
    return old.model_copy(
        update={
            "destination": new.destination,
            "rule": new.rule,
            "receive": old.receive.model_copy(update={"peer": new.receive.peer}),
            "observe": old.observe.model_copy(update={"log_level": new.observe.log_level}),
        }
    )


def _differences(old: BaseModel, new: BaseModel, above: str) -> Iterator[str]:
    """Names of the settings that differ, as `receive.port`; a list is one setting."""
    for name in type(old).model_fields:
        before: Any = getattr(old, name)
        after: Any = getattr(new, name)
        if before == after:
            continue
        path = f"{above}{name}"
        if isinstance(before, BaseModel) and isinstance(after, BaseModel):
            yield from _differences(before, after, f"{path}.")
        else:
            yield path


class SettingsReload:
    """The settings that a service runs with, in shared memory, and their changes by version."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.version = 0
        self.memory = os.memfd_create("qc-settings")
        write_settings(self.memory, settings)
        self._changed: list[tuple[str, ...]] = []
        self._log = log.get(role="supervisor")

    def read(self, path: Path | None) -> bool:
        """Read the file and the environment again; False where nothing changes in a running
        service. What needs a restart is named in the log."""
        try:
            new = load(path)
        except SettingsError as error:
            self._log.error("settings not reloaded", reason=error.lines[0])
            return False
        changes = compare(self.settings, new)
        for name in changes.restart:
            self._log.warning("setting needs a restart", setting=name)
        if changes.reloadable:
            self.settings = merge(self.settings, new)
            write_settings(self.memory, self.settings)
            self._changed.append(changes.reloadable)
            self.version += 1
        self._log.info("settings reloaded", count=len(changes.reloadable))
        return bool(changes.reloadable)

    def roles_to_replace(self, version: int) -> Collection[str]:
        """The roles whose process of this version is replaced by one with the settings of now."""
        names = {name for changed in self._changed[version:] for name in changed}
        return {role for name in names for role in _REPLACED.get(name, ())}
