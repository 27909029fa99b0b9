"""Audits of made-up histories without a database, and what of the truth they name."""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from model.image_features import STATISTICS, ImageFeatures
from qc_daemon.audit.audit import Audit, AuditRules, make_audit
from qc_daemon.audit.rows import Rows, RowsBuilder
from qc_daemon.audit.statistics.history import Limits
from qc_daemon.operations.audits import moment_of, row_of
from qc_daemon.records.results.audit_rows import AuditedFinding
from training.phantom.history import make_history

VIEWS = ("NT", "CRL", "HEAD", "ABDOMEN")
WINDOW_DAYS = 365
NAMED = ("alarm", "improving", "declining")
"""Flags that call somebody; a note does not, and praise is no alarm."""


def rows_of(lines: Iterable[dict[str, Any]]) -> Rows:
    """The rows of finding objects."""
    builder = RowsBuilder()
    for number, line in enumerate(lines):
        facts = line["acquisition"]
        features = ImageFeatures.from_json(line.get("image_features") or {})
        statistics = features.statistics
        finding = AuditedFinding(
            finding_id=number,
            exam_id=line["exam_id"],
            body=line,
            persons=tuple(facts["person_ids"]),
            device=facts["device_id"],
            site=facts["site"],
            acquired=facts["acquired"],
            received_at=datetime.now(UTC),
            gestation=facts["gestational_age_days"],
            bmi=facts["patient_bmi"],
            crl=facts["crl_mm"],
            nt=facts["nt_mm"],
            review=None,
            statistics=None
            if statistics is None
            else tuple(getattr(statistics, name) for name in STATISTICS),
            embedding=features.embedding,
        )
        builder.add(row_of(finding, *moment_of(finding, ZoneInfo("UTC"))))
    return builder.build()


def audit_of(rows: Rows, stored: Limits | None = None) -> Audit:
    """The audit of a year up to the last day of the rows."""
    last = int(rows.day.max())
    return make_audit(rows, AuditRules(last - WINDOW_DAYS + 1, last, VIEWS), stored=stored or {})


def audit_history(
    seed: int, findings: int, *, is_null: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The truth of a history, and what an audit of it says."""
    truth, lines = make_history(seed, findings, is_null=is_null)
    return truth, audit_of(rows_of(lines)).content


def named(content: dict[str, Any], kind: str = "person") -> dict[str, set[str]]:
    """The subjects that are called, each with the measures that it is called for."""
    return {
        subject["id"]: measures
        for subject in content["subjects"]
        if subject["kind"] == kind
        and (measures := {each["measure"] for each in subject["flags"] if each["flag"] in NAMED})
    }


def misses(truth: dict[str, Any], content: dict[str, Any]) -> list[str]:
    """What is planted and not named as what it is, and the case-mix person if she is named.

    Not whether embeddings drift: at most 200 are compared with 200, and some histories of 30,000
    findings pass. Statistics of the same pictures name the device.
    """
    persons, problems = named(content), []
    trends = {
        subject["id"]
        for subject in content["subjects"]
        for each in subject["flags"]
        if each["flag"] == "improving"
    }
    if not persons.get(truth["outlier_person"], set()) & {"standard", "exam-score", "probability"}:
        problems.append("outlier_person")
    if truth["improving_person"] not in trends:
        problems.append("improving_person")
    if "nt-bias" not in persons.get(truth["nt_bias_person"], set()):
        problems.append("nt_bias_person")
    if truth["case_mix_person"] in persons:
        problems.append("case_mix_person is named")
    if truth["drifting_device"] not in drifting(content):
        problems.append("drifting_device")
    if truth["drifting_device"] not in drifting(content, "image:mean"):
        problems.append("drifting_device's pictures")
    planted_day = date.fromisoformat(truth["model_shift_date"])
    days = [date.fromisoformat(each["date"]) for each in content["changes"]]
    if not any(abs((day - planted_day).days) <= 7 for day in days):
        problems.append("model_shift_date")
    return problems


def drifting(content: dict[str, Any], feature: str | None = None) -> set[str]:
    """The devices whose drift is an alarm, of any feature or of this one."""
    return {
        each["id"]
        for each in content["drift"]
        if each["flag"] and each["kind"] == "device" and feature in (None, each["feature"])
    }


def extras(truth: dict[str, Any], content: dict[str, Any]) -> list[str]:
    """What is named besides: at the false discovery rate some of what is named may be."""
    planted = {truth[each] for each in truth if each.endswith("_person")}
    others = [
        f"another person: {', '.join(sorted(measures))}"
        for id, measures in named(content).items()
        if id not in planted
    ]
    devices = drifting(content) - {truth["drifting_device"]}
    others += ["another device drifts"] * len(devices)
    return others + ["another change"] * max(0, len(content["changes"]) - 1)


def false_alarms(content: dict[str, Any]) -> list[str]:
    """What an audit of a lab in which nothing is wrong calls, by the families that each have the
    stated rate."""
    persons = named(content)
    trends = {each for each, measures in persons.items() if "trend" in measures}
    families = {
        "persons": any(measures - {"trend"} for measures in persons.values()),
        "trends": bool(trends),
        "devices": bool(named(content, "device")),
        "sites": bool(named(content, "site")),
        "drift of devices": any(e["flag"] and e["kind"] == "device" for e in content["drift"]),
        "drift of sites": any(e["flag"] and e["kind"] == "site" for e in content["drift"]),
        "model": bool(content["changes"]),
    }
    return [family for family, is_called in families.items() if is_called]
