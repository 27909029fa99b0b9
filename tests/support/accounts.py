"""Accounts for tests: with a password that is hashed quickly."""

from argon2 import PasswordHasher

from qc_daemon.operations import accounts
from qc_daemon.settings import Settings

PASSWORD = "correct horse battery"
QUICK_HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
"""In place of the real one, whose work is to be slow."""


def add_account(settings: Settings, name: str, role: str, person: str | None = None) -> None:
    """An account with PASSWORD, whose reader is "Dr NAME"."""
    accounts.add_account(settings, name, f"Dr {name.capitalize()}", role, PASSWORD, person=person)
