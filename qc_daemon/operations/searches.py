"""Searches, as the audit log has them."""

from dataclasses import asdict

from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import enqueue
from qc_daemon.records.listings import ExamFilter
from qc_daemon.settings import Settings


def record_search(settings: Settings, what: str, exam_filter: ExamFilter) -> None:
    """Write a search to the audit log: the fields that it filters by, and the values of those that
    are of no person. What was typed as a patient may be a name."""
    filters = {name: value for name, value in asdict(exam_filter).items() if value}
    objects = {name: filters[name] for name in ("exam_id", "study") if name in filters}
    detail = {"what": what, "fields": ", ".join(filters) or "all"}
    enqueue(settings, AuditKind.SEARCHED, objects=objects, detail=detail)
