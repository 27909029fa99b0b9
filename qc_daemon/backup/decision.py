"""A decision that a person made, with the command that repeats it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any


class DecisionKind(StrEnum):
    """What a person can order that the database keeps."""

    PEER_APPROVED = "peer approved"
    PEER_REMOVED = "peer removed"
    IMAGE_REJECTED = "image rejected"
    REJECTION_RETRACTED = "rejection retracted"
    BUNDLE_ACTIVATED = "bundle activated"
    EXAM_CLOSED = "exam closed"
    OBJECT_RELEASED = "object released from quarantine"
    OBJECT_DISMISSED = "quarantined object dismissed"
    JOB_RETRIED = "job retried"
    JOB_CANCELLED = "job cancelled"
    COMMITMENT_RETRIED = "commitment report retried"
    IDENTITY_MERGED = "person or device merged"
    IDENTITY_SPLIT = "person or device split"
    IDENTITY_RENAMED = "person or device named"
    FINDING_REVIEWED = "finding reviewed"
    SITE_ACTIVATED = "site calibration activated"
    SITE_RETIRED = "site calibration retired"
    SITE_WAIVED = "site calibration waived"
    TEACHING_DECIDED = "image for teaching released or rejected"
    ACCOUNT_ADDED = "account added"
    ACCOUNT_CHANGED = "account changed"
    ACCOUNT_ENABLED = "account enabled"
    ACCOUNT_DISABLED = "account disabled"
    ACCOUNT_LINKED = "account linked to a provider's person"
    ACCOUNT_UNLINKED = "account unlinked from a provider's person"
    PASSWORD_SET = "account's password set"
    TOKEN_REVOKED = "token revoked"
    PATIENT_ERASED = "patient erased"
    PATIENT_CHANGED = "patient merged, split or corrected"


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision; `subject` names what it is about, by AE title, UID or number.

    `at`: when it was made, ISO 8601 in UTC, None where the database does not say. `verb` and
    `argument` are the command's words, without `qc-daemon`; both are empty where none repeats it.
    `needs_object`: its object came after the backup, and has to be taken in first. `record`: the
    site calibration that only the old database has; its command needs the file that it is put into.
    """

    kind: DecisionKind
    subject: str
    at: str | None
    verb: str = ""
    argument: str = ""
    needs_object: bool = False
    record: Mapping[str, Any] | None = None

    @property
    def command(self) -> str | None:
        """The command that repeats it, None where there is none."""
        return f"qc-daemon {self.verb} {self.argument}" if self.verb else None

    def with_record_at(self, path: Path) -> "Decision":
        """The decision whose command takes its record from this file."""
        argument = f"{self.argument} {shlex.quote(str(path))}"
        return replace(self, verb="site activate", argument=argument)

    def to_json(self) -> dict[str, Any]:
        """It as a JSON object, with the command in place of its words."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "at": self.at,
            "command": self.command,
            "needs_object": self.needs_object,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Decisions that only the old database has; `problem` says why there may be others."""

    decisions: tuple[Decision, ...]
    problem: str | None = None
