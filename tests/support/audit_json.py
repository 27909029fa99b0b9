"""Audits as `audit show --format json` prints them, seeded, of any number of people."""

import math
import random
from datetime import date, timedelta
from typing import Any

from scipy import stats
from scipy.special import expit, logit

from qc_daemon.audit.statistics.proportions import Proportion

VIEWS = ("NT", "CRL", "HEAD", "ABDOMEN")
CODES = ("CRIT-NECK", "CRIT-SIZE", "CRIT-GAIN", "CRIT-NASAL", "CRIT-FALX", "CRIT-CORD")
END = date(2026, 6, 28)
WEEKS = 26
BETWEEN = 0.2
"""Standard deviation between subjects, log odds."""
_DEVICE = {"device_x": 430, "device_n": 600}


def audit_json(counts: dict[str, int], seed: int = 1, **changes: Any) -> dict[str, Any]:
    """An audit of persons by id, each with so many pictures, and of two devices and a site."""
    rng = random.Random(seed)
    subjects = [subject("person", id, n, rng) for id, n in sorted(counts.items())]
    total = max(60, sum(counts.values()))
    subjects += [subject("device", id, total // 2, rng) for id in ("d1", "d2")]
    subjects += [subject("site", "st mary", total, rng)]
    body: dict[str, Any] = {
        "date": END.isoformat(),
        "audit": "nightly",
        "timezone": "Europe/Berlin",
        "window": {"from": "2026-03-30", "to": END.isoformat()},
        "history": {"from": "2025-12-29", "to": END.isoformat()},
        "bundle": {"name": "default", "version": "2.0.0", "model_id": "ab" * 32},
        "bundles": [
            {
                "name": "default",
                "version": "1.0.0",
                "model_id": "aa" * 32,
                "from": "2025-12-29",
                "to": "2026-04-09",
                "n": 900,
            },
            {
                "name": "default",
                "version": "2.0.0",
                "model_id": "ab" * 32,
                "from": "2026-04-10",
                "to": END.isoformat(),
                "n": 800,
            },
        ],
        "criteria_version": "0123456789abcdef",
        "data_sha256": "cd" * 32,
        "rules": {
            "min_judged": 30,
            "alarm": 0.001,
            "warning": 0.025,
            "false_discovery_rate": 0.05,
            "expected_views": list(VIEWS),
            "nt_curve": {"kind": "lab", "citation": None},
            "drift": {"signals": 3, "of": 5, "days": 28},
        },
        "counts": {},
        "subjects": subjects,
        "changes": [
            {
                "kind": "model",
                "date": "2026-04-14",
                "measure": "log-odds",
                "before": 1.0,
                "after": 1.4,
                "shift": 0.4,
                "p": 0.001,
                "devices": [2, 2],
                "persons": [5, 5],
                "bundle_changed": True,
                "words": "",
            }
        ],
        "drift": [
            {
                "kind": "device",
                "id": "d1",
                "feature": "log-odds",
                "n": 300,
                "reference_n": 5000,
                "value": 0.31,
                "shift": -0.5,
                "p": 0.0001,
                "q": 0.001,
                "nights": [False, False, True, True, True],
                "since": "2026-06-20",
                "flag": "alarm",
                "rule": "3-of-5",
                "calibrate": True,
                "words": "",
            }
        ],
        "agreement": {
            "model_first": agreement(30, 4, 3, 13),
            "first_second": agreement(18, 1, 2, 9),
        },
        "second_readings": [],
    }
    return body | changes


def subject(kind: str, id: str, n: int, rng: random.Random) -> dict[str, Any]:
    """A person, device or site with n pictures of its own chances."""
    chance = rng.uniform(0.7, 0.9)
    measures = [measure("standard", n, chance, rng, with_history=True)]
    measures += [measure("completion", n, 0.95, rng, with_history=True)]
    measures += [measure(f"standard:{view}", n // 4, chance, rng, view=view) for view in VIEWS]
    measures += [measure(f"failure:{code}", n, 0.1, rng, is_better="low") for code in CODES]
    measures += [measure("set-failure:CRIT-NECK", n // 4, 0.05, rng, is_better="low")]
    measures += [mean("exam-score", n // 4, 0.8, "1"), mean("seconds-per-view", n, 41.5, "s")]
    if kind == "person" and n:
        measures += [
            mean("nt-bias", n // 4, -0.012, "log10"),
            mean("nt-spread", n // 4, 0.11, "log10"),
        ]
    measures += [mean("probability", n, 0.66, "1") | {"x": 0.66 * n + 0.01}]
    for each in measures:
        if each["name"] == "nt-bias" and n:
            days = [END - timedelta(days=9 * back) for back in range(8, 0, -1)]
            each["ewma"] = {
                "points": [
                    {
                        "date": day.isoformat(),
                        "value": -0.01,
                        "centre": 0,
                        "low": -0.07,
                        "high": 0.07,
                    }
                    for day in days
                ]
            }
    body: dict[str, Any] = {
        "kind": kind,
        "id": id,
        "findings": n,
        "exams": n // 4,
        "assessable": n >= 30,
        "measures": measures,
        "flags": [],
    }
    if kind == "site":
        body["name"] = "St. Mary"
    if kind == "person":
        body["devices"] = [
            {"id": "d2", "share": 0.3, "x": 24, "n": 30, "value": 0.8, **_DEVICE, "effect": 0.048},
            {
                "id": "d1",
                "share": 0.7,
                "x": 50,
                "n": 70,
                "value": 0.71,
                **_DEVICE,
                "effect": -0.061,
            },
        ]
        body["examples"] = {"good": [], "instructive": []}
    return body


def measure(
    name: str,
    n: int,
    chance: float,
    rng: random.Random,
    *,
    view: str | None = None,
    is_better: str = "high",
    with_history: bool = False,
) -> dict[str, Any]:
    x = sum(rng.random() < chance for _ in range(n))
    share = Proportion(x, n)
    low, high = share.interval()
    body: dict[str, Any] = {
        "name": name,
        "view": view,
        "unit": "1",
        "x": x,
        "n": n,
        "value": share.value,
        "low": low,
        "high": high,
        "is_better": is_better,
        "limits": None,
        "judged": n >= 30,
        "power": None,
        "flag": None,
        "rule": None,
        "adjusted": None,
        "unadjusted": None,
        "signals": [],
        "cusum": None,
        "history": [],
    }
    if n >= 30:
        body["limits"] = limits_json(chance, n)
        body["power"] = 0.16
        body["adjusted"] = {
            "value": min(0.99, (share.value or 0) + 0.02),
            "low": low,
            "high": high,
            "expected": chance * n,
            "overall": 0.8,
            "p": 0.2,
            "q": 0.4,
            "by": ["gestational-age", "bmi", "view", "device"],
        }
    if with_history and n:
        body["history"], body["signals"], body["cusum"] = history(n, chance, rng)
    return body


def limits_json(target: float, n: int) -> dict[str, Any]:
    """In log odds, with variation between subjects, as the audit computes them."""
    reach = math.sqrt(1 / (n * target * (1 - target)) + BETWEEN**2)
    names = ("low_alarm", "low_warning", "high_warning", "high_alarm")
    z = stats.norm.ppf([0.001, 0.025, 0.975, 0.999])
    limits = expit(logit(target) + z * reach).tolist()
    return {
        "target": target,
        **dict(zip(names, limits, strict=True)),
        "between": BETWEEN,
        "others": 99,
    }


def history(n: int, chance: float, rng: random.Random) -> tuple[Any, Any, Any]:
    """Weeks with at least a picture, signals, and a CUSUM of them all."""
    weeks, signals, upper, lower = [], [], [0.0], [0.0]
    for week in range(WEEKS):
        m = n // WEEKS + (week < n % WEEKS)
        if not m:
            continue
        share = Proportion(sum(rng.random() < chance for _ in range(m)), m)
        reach = 3 * math.sqrt(chance * (1 - chance) / m)
        start = END - timedelta(days=7 * (WEEKS - week) - 1)
        value = share.x / m
        weeks.append(
            {
                "from": start.isoformat(),
                "to": (start + timedelta(days=6)).isoformat(),
                "x": share.x,
                "n": m,
                "value": value,
                "low": share.interval()[0],
                "high": share.interval()[1],
                "centre": chance,
                "low_limit": max(0.0, chance - reach),
                "high_limit": min(1.0, chance + reach),
                "model_id": "ab" * 32,
            }
        )
        if not chance - reach <= value <= chance + reach:
            signals.append({"at": len(weeks) - 1, "rule": "beyond-limit"})
        score = (value - chance) * 3 / reach
        upper.append(max(0.0, upper[-1] + score - 0.5))
        lower.append(max(0.0, lower[-1] - score - 0.5))
    return weeks, signals, {"limit": 5.0, "upper": upper[1:], "lower": lower[1:]}


def mean(name: str, n: int, value: float, unit: str) -> dict[str, Any]:
    return {
        "name": name,
        "view": None,
        "unit": unit,
        "x": None,
        "n": n,
        "value": value if n else None,
        "low": value - 0.01 if n else None,
        "high": value + 0.01 if n else None,
        "is_better": "none",
        "limits": None,
        "judged": n >= 30,
        "power": None,
        "flag": None,
        "rule": None,
        "adjusted": None,
        "unadjusted": None,
        "signals": [],
        "cusum": None,
        "history": [],
    }


def agreement(a: int, b: int, c: int, d: int) -> dict[str, Any]:
    n = a + b + c + d
    return {
        "answers": ["standard", "non-standard"],
        "table": [[a, b], [c, d]],
        "n": n,
        "exams": n // 2,
        "observed": (a + d) / n,
        "kappa": 0.66,
        "ac1": 0.74,
        "kappa_low": 0.41,
        "kappa_high": 0.85,
        "ac1_low": 0.55,
        "ac1_high": 0.89,
        "prevalence": [0.67, 0.33],
        "left_out": 3,
    }
