"""Checks the installation and what waits for a person; `doctor_checks` has each by subject."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.operations.doctor_checks.capabilities import check_capabilities, check_peers
from qc_daemon.operations.doctor_checks.certificates import check_certificates
from qc_daemon.operations.doctor_checks.check_result import CheckResult, NoticeError
from qc_daemon.operations.doctor_checks.clock import check_clock
from qc_daemon.operations.doctor_checks.destinations import (
    check_commitment,
    check_destination,
    check_destinations,
)
from qc_daemon.operations.doctor_checks.disk import check_disk_speed
from qc_daemon.operations.doctor_checks.models import check_bundle, check_device, check_sites
from qc_daemon.operations.doctor_checks.parts import check_parts
from qc_daemon.operations.doctor_checks.receiver import (
    check_certificate,
    check_metrics,
    check_receiver,
)
from qc_daemon.operations.doctor_checks.schedule import check_backups, check_schedule
from qc_daemon.operations.doctor_checks.servers import check_audit_log, check_mail, check_worklist
from qc_daemon.operations.doctor_checks.store import (
    check_database,
    check_reconciliation,
    check_scrub,
    check_spool,
)
from qc_daemon.operations.doctor_checks.web import check_web
from qc_daemon.operations.doctor_checks.work import (
    check_commitment_requests,
    check_digests,
    check_failed_jobs,
    check_quarantine,
    check_queue,
    check_reviews,
    check_service,
)
from qc_daemon.settings import Settings

T = TypeVar("T")


def examine(settings: Settings, only: Collection[str] = ()) -> Iterator[CheckResult]:
    """Every check, in the order an installer would fix them, or `only` those of these names; none
    changes anything. Raises UsageError for a name that none has."""
    checks = list(_checks(settings))
    unknown = set(only) - {name for name, _, _ in checks}
    if unknown:
        names = ", ".join(name for name, _, _ in checks)
        raise UsageError(f"--check {sorted(unknown)[0]}: give one of {names}")
    return (
        _run_check(name, check, subject)
        for name, check, subject in checks
        if not only or name in only
    )


def _checks(settings: Settings) -> Iterator[tuple[str, Callable[[Any], str], Any]]:
    """Name, function and subject of each check."""
    for name, check in (
        ("spool", check_spool),
        ("disk speed", check_disk_speed),
        ("database", check_database),
        ("spool and database", check_reconciliation),
        ("scrub", check_scrub),
        ("service", check_service),
        ("queue", check_queue),
        ("failed jobs", check_failed_jobs),
        ("quarantine", check_quarantine),
        ("commitment requests", check_commitment_requests),
        ("bundle", check_bundle),
        ("parts", check_parts),
        ("sites", check_sites),
        ("reviews", check_reviews),
        ("device", check_device),
        ("receiver", check_receiver),
        ("metrics", check_metrics),
        ("web", check_web),
        ("clock", check_clock),
        ("certificates", check_certificates),
        ("schedule", check_schedule),
        ("backups", check_backups),
        ("mail", check_mail),
        ("worklist", check_worklist),
        ("audit log", check_audit_log),
        ("peers", check_peers),
        ("destinations", check_destinations),
    ):
        yield name, check, settings
    if settings.receive.tls is not None:
        yield "certificate", check_certificate, settings.receive.tls
    if settings.mail.host is not None or settings.webhook:
        yield "digests", check_digests, settings
    for destination in settings.destination:
        subject = (settings, destination)
        yield f"destination {destination.name}", check_destination, subject
        if destination.kind == "dicom":
            yield f"commitment {destination.name}", check_commitment, subject
            yield f"classes {destination.name}", check_capabilities, subject


def _run_check(name: str, check: Callable[[T], str], subject: T) -> CheckResult:
    try:
        return CheckResult(name, True, check(subject))
    except NoticeError as warning:
        return CheckResult(name, True, str(warning), warning=True)
    except QCError as error:
        return CheckResult(name, False, error.message)
    except UsageError as error:
        return CheckResult(name, False, str(error))
    except OSError as error:
        return CheckResult(name, False, error.strerror or str(error))
