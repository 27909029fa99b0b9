"""Findings as audits read them, of one person, without anything that stands out."""

from typing import Any

import numpy as np

from qc_daemon.audit.rows import AuditFinding, BundleKey

BUNDLE = BundleKey("b", "1", "a" * 64)


def audit_finding(number: int, **values: Any) -> AuditFinding:
    """The finding of this number; `values` are fields that differ, `statistics` by name,
    `embedding` of any length."""
    statistics, embedding = values.pop("statistics"), values.pop("embedding")
    fields: dict[str, Any] = {
        "key": str(number),
        "finding_id": number,
        "persons": ["p1"],
        "device": "d1",
        "site": "s",
        "bundle": BUNDLE,
        "view": "NT",
        "view_probability": 0.9,
        "verdict": "standard",
        "is_reviewed": False,
        "probability": 0.9,
        "raw_probability": 0.9,
        "confidences": [0.9],
        "criteria": {},
        "second": number % 1000,
        "gestation": 90.0,
        "bmi": 24.0,
        "crl": None,
        "nt": None,
        "statistics": list(statistics.values()),
        "embedding": np.asarray(embedding).astype("<f2").tobytes(),
    }
    return AuditFinding(**(fields | values))
