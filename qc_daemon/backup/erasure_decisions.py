"""Erasures of patients that a restore undoes: the restored database has them again."""

from collections.abc import Iterator

from qc_daemon.backup.decision import Decision, DecisionKind
from qc_daemon.backup.rows import Tables, arguments, iso, option
from qc_daemon.records.patients.erasures import SECRET, key_of


def undone_erasures(restored: Tables, old: Tables) -> Iterator[Decision]:
    """Erasures that only the old database has, with the command for each patient who is there
    again. The old database knows a keyed hash only; who is meant, the restored one knows."""
    columns = ("sha256", "patient_key", "erased_by", "erased_at")
    known = {row["sha256"] for row in restored.rows("erasure", columns)}
    later = [row for row in old.rows("erasure", columns) if row["sha256"] not in known]
    secrets = [row for row in old.rows("secret", ("name", "value")) if row["name"] == SECRET]
    if not later or not secrets:
        return
    key = bytes(secrets[0]["value"])
    patients = {
        key_of(key, str(row["patient_id"])): str(row["patient_id"])
        for row in restored.rows("exam", ("patient_id",))
    }
    for row in later:
        patient = patients.get(row["patient_key"])
        if patient is not None:
            words = arguments(patient, [*option("--by", row["erased_by"]), "--yes"])
            yield Decision(
                DecisionKind.PATIENT_ERASED,
                f"Patient ID {patient}",
                iso(row["erased_at"]),
                "patient erase",
                words,
            )
