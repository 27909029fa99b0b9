"""Erasures, merges and corrections of patients that a restore undoes."""

import json
import shlex
from collections.abc import Collection, Iterator
from typing import Any

from qc_daemon.backup.decision import Decision, DecisionKind
from qc_daemon.backup.rows import Row, Tables, arguments, is_same, iso, option
from qc_daemon.records.patients.erasures import SECRET, key_of
from qc_daemon.records.tables import PatientAction


def undone_erasures(restored: Tables, old: Tables) -> Iterator[Decision]:
    """Erasures that only the old database has, with the command for each patient who is there
    again. The old database knows a keyed hash only; who is meant, the restored one knows."""
    columns = ("sha256", "patient_key", "erased_by", "erased_at", "certificate")
    hashes = {row["sha256"] for row in restored.rows("erasure", columns)}
    later = [row for row in old.rows("erasure", columns) if row["sha256"] not in hashes]
    secrets = [row for row in old.rows("secret", ("name", "value")) if row["name"] == SECRET]
    if not later or not secrets:
        return
    key = bytes(secrets[0]["value"])
    numbers = [row["patient_id"] for row in restored.rows("exam", ("patient_id",))]
    numbers += [row["current_id"] for row in restored.rows("patient_identity", ("current_id",))]
    patients = {key_of(key, str(each)): str(each) for each in numbers}
    for row in later:
        keys = (row["patient_key"], *_certificate(row).get("other_keys", ()))
        for patient in (patients[each] for each in keys if each in patients):
            words = arguments(patient, [*option("--by", row["erased_by"]), "--yes"])
            yield Decision(
                DecisionKind.PATIENT_ERASED,
                f"Patient ID {patient}",
                iso(row["erased_at"]),
                "patient erase",
                words,
            )


def _certificate(row: Row) -> dict[str, Any]:
    """An erasure's certificate; SQLite gives JSON as text."""
    value = row["certificate"] or {}
    return dict(json.loads(value) if isinstance(value, str) else value)


def undone_changes(restored: Tables, old: Tables) -> Iterator[Decision]:
    """Merges and corrections that only the old database has, in the order they were made."""
    columns = (
        *("id", "action", "patient_id", "into_id", "name", "birth_date", "issuer"),
        *("made_by", "made_at"),
    )
    restored_rows = {row["id"]: row for row in restored.rows("patient_change", columns)}
    numbers = {
        number
        for table, names in (
            ("exam", ("patient_id", "received_patient_id")),
            ("patient_identity", ("patient_id", "current_id")),
        )
        for row in restored.rows(table, names)
        for number in row.values()
    }
    for row in old.rows("patient_change", columns):
        earlier = restored_rows.get(row["id"])
        if earlier is not None and is_same(earlier, row, *columns):
            continue
        verb, words = _command(row, numbers)
        numbers |= {row["patient_id"], row["into_id"]}
        yield Decision(
            DecisionKind.PATIENT_CHANGED,
            f"Patient ID {row['patient_id']}: {row['action']}",
            iso(row["made_at"]),
            verb,
            words,
        )


def _command(row: Row, numbers: Collection[Any]) -> tuple[str, str]:
    """The command that repeats a change, and its words; `numbers` are the Patient IDs that are
    there by then."""
    by, issuer = option("--by", row["made_by"]), option("--issuer", row["issuer"])
    demographics = [*option("--name", row["name"]), *option("--birth-date", row["birth_date"])]
    patient = str(row["patient_id"])
    match row["action"]:
        case PatientAction.MERGED:
            words = [f"--from={patient}", *option("--into", row["into_id"]), *issuer]
            # An ADT message may merge one who has no exam here.
            is_complete = {row["patient_id"], row["into_id"]} <= set(numbers)
            words += [*([] if is_complete else ["--without-exam"]), *by]
            return "patient merge", shlex.join(words)
        case PatientAction.SPLIT:
            return "patient split", arguments(patient, by)
        case PatientAction.AS_RECEIVED:
            return "patient correct", arguments(patient, ["--as-received", *by])
    new_id = option("--new-id", row["into_id"])
    return "patient correct", arguments(patient, [*demographics, *new_id, *issuer, *by])
