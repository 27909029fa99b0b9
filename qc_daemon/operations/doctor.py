"""Checks the installation and what waits for a person: spool, database, queue, quarantine, bundle,
ports, destinations."""

import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import requests

from detector.console import UsageError
from detector.errors import QCError
from detector.plain_text import count_of
from model.bundle.bundle import verify
from qc_daemon.deliver.folder import folder_problem
from qc_daemon.deliver.outcome import http_words
from qc_daemon.dicom import dicomweb
from qc_daemon.dicom.association import associate, requestor
from qc_daemon.dicom.association_failure import cause, is_called_title_unknown
from qc_daemon.dicom.certificates import WARN_BEFORE, earliest_expiry
from qc_daemon.dicom.implementation import DOCTOR_AE_TITLE, IMPLEMENTATION_CLASS_UID
from qc_daemon.dicom.tls import has_revocations, tls_args
from qc_daemon.dicom.uids import VERIFICATION
from qc_daemon.operations.bundles import bundle_folder
from qc_daemon.operations.database import describe_damage, describe_extent
from qc_daemon.operations.destinations import (
    commitment_fault,
    commitment_words,
    destination_condition,
    unknown_destinations,
)
from qc_daemon.operations.doctor_checks.capabilities import check_capabilities, check_peers
from qc_daemon.operations.doctor_checks.certificates import check_certificates
from qc_daemon.operations.doctor_checks.check_result import CheckResult, NoticeError
from qc_daemon.operations.doctor_checks.clock import check_clock
from qc_daemon.operations.doctor_checks.disk import check_disk_speed
from qc_daemon.operations.doctor_checks.schedule import check_backups, check_schedule
from qc_daemon.operations.doctor_checks.servers import check_audit_log, check_mail
from qc_daemon.operations.doctor_checks.web import check_web
from qc_daemon.operations.part_checks import check_parts
from qc_daemon.operations.queue import (
    missing_sender,
    missing_worker,
    read_backlog,
    stopped_service,
)
from qc_daemon.operations.review_lists import count_waiting
from qc_daemon.operations.sites import check_promises, commissioning_sites
from qc_daemon.operations.spool import orphan_margin
from qc_daemon.receive import check_tls
from qc_daemon.records import gauges, integrity, listings, schema
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received import retention
from qc_daemon.records.store import Store
from qc_daemon.records.tables import CommitmentState, CommitmentSupport, DigestState
from qc_daemon.retain import scrub
from qc_daemon.retain.reconcile import Differences, reconcile
from qc_daemon.review.state import ReviewStatus
from qc_daemon.settings import DestinationSettings, Settings, TLSSettings
from qc_daemon.spool import private_files, service_lock
from qc_daemon.spool.verification import DAMAGED_FOLDER

T = TypeVar("T")
MIN_FREE_BYTES = 5 * 2**30
# The integrity check stops after this time: nobody waits for that of a large database.
INTEGRITY_SECONDS = 30.0
REVIEWS_SECONDS = 20.0
# So many bytes of received files are read; of a larger spool only the sizes are compared.
MAX_BYTES_READ = 256 * 2**20
# So many reasons or destinations are named in one line.
MAX_PARTS = 6
SCRUB_OVERDUE = timedelta(days=8)


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
        ("spool", _check_spool),
        ("disk speed", check_disk_speed),
        ("database", _check_database),
        ("spool and database", _check_reconciliation),
        ("scrub", _check_scrub),
        ("service", _check_service),
        ("queue", _check_queue),
        ("failed jobs", _check_failed_jobs),
        ("quarantine", _check_quarantine),
        ("commitment requests", _check_commitment_requests),
        ("bundle", _check_bundle),
        ("parts", check_parts),
        ("sites", _check_sites),
        ("reviews", _check_reviews),
        ("device", _check_device),
        ("receiver", _check_receiver),
        ("metrics", _check_metrics),
        ("web", check_web),
        ("clock", check_clock),
        ("certificates", check_certificates),
        ("schedule", check_schedule),
        ("backups", check_backups),
        ("mail", check_mail),
        ("audit log", check_audit_log),
        ("peers", check_peers),
        ("destinations", _check_destinations),
    ):
        yield name, check, settings
    if settings.receive.tls is not None:
        yield "certificate", _check_certificate, settings.receive.tls
    if settings.mail.host is not None or settings.webhook:
        yield "digests", _check_digests, settings
    for destination in settings.destination:
        subject = (settings, destination)
        yield f"destination {destination.name}", _check_destination, subject
        if destination.kind == "dicom":
            yield f"commitment {destination.name}", _check_commitment, subject
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


def _check_spool(settings: Settings) -> str:
    spool = settings.store.spool
    existing = _require_writable(spool)
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        raise OSError(0, f"only {free / 2**30:.1f} GiB free at {existing}; make room")
    if private_files.is_open_to_others(spool):
        raise NoticeError(
            f"{spool} is open to other users; serve takes their rights away at its start"
        )
    return f"{spool}, {free / 2**30:.0f} GiB free"


def _require_writable(folder: Path) -> Path:
    """The folder, or its nearest parent that exists. Raises OSError unless files can be made in it.

    It makes one, because permissions alone show neither a read-only disk nor what root may not.
    """
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    if not existing.is_dir():
        raise OSError(0, f"{existing} is not a folder; move it away or name another folder")
    try:
        Path(tempfile.mkdtemp(prefix=".qc-doctor-", dir=existing)).rmdir()
    except OSError as error:
        why = (error.strerror or "error").lower()
        raise OSError(
            0, f"{existing} is not a writable folder ({why}); give it to the service's user"
        ) from error
    return existing


def _check_database(settings: Settings) -> str:
    url = settings.store.url
    file = schema.file_of(url)
    if file is not None:
        _require_writable(file.parent)
    if schema.has_no_tables(url):
        received = _count_received(settings.store.spool)
        if received:
            raise OSError(
                0,
                f"is not there, but the spool has {count_of(received, 'received object')};"
                " restore a backup (qc-daemon db restore), or serve begins an empty one",
            )
        return "is not there yet; serve makes it" if file else "is empty; serve makes its tables"
    problem = schema.check(url)
    if problem and not schema.has_revision(schema.revision_of(url)):
        raise OSError(0, problem)
    result = integrity.examine(url, seconds=INTEGRITY_SECONDS)
    if not result.is_sound:
        raise OSError(0, describe_damage(result))
    if problem:
        raise NoticeError(
            "has the tables of an earlier version; serve brings them up to date at its start:"
            " save it before (qc-daemon db backup)"
        )
    if file is not None:
        schema.refuse_read_only(url)
        if any(map(private_files.is_open_to_others, schema.files_of(file))):
            raise NoticeError(
                f"{file} is open to other users; serve takes their rights away at its start"
            )
    if not result.is_finished:
        raise NoticeError(
            f"tables are up to date; not checked through in {INTEGRITY_SECONDS:.0f} s,"
            " run qc-daemon db check"
        )
    return f"tables are up to date and sound ({describe_extent(result)})"


def _count_received(spool: Path) -> int:
    """The number of received objects in the spool."""
    return sum(1 for _ in spool.glob("[0-9a-f][0-9a-f]/*.dcm"))


def _check_reconciliation(settings: Settings, clock: Clock = utc_now) -> str:
    spool = settings.store.spool
    if schema.check(settings.store.url) or not spool.is_dir():
        return "nothing to compare yet"
    store = Store(settings.store.url)
    with store.read() as session:
        is_full = retention.spooled_bytes(session) <= MAX_BYTES_READ
    result = reconcile(store, spool, clock(), full=is_full, margin=orphan_margin(spool))
    if not result.is_clean:
        raise OSError(0, _describe_differences(result, is_full=is_full))
    known = result.files - result.young
    summary = f"{count_of(known, 'file')}, all known and {'as received' if is_full else 'whole'}"
    if result.young:
        summary += f"; {count_of(result.young, 'more is', 'more are')} too young to judge"
    return summary if is_full else f"{summary} by size; spool check --full reads them"


def _describe_differences(result: Differences, *, is_full: bool) -> str:
    """`1 file is missing, 2 files are damaged: see spool check; 1 file is no object's: …`.

    The command named is the one that finds the same: altered bytes show only where files are read.
    """
    parts = []
    faults = [
        f"{count_of(count, 'file is', 'files are')} {condition}"
        for count, condition in (
            (result.missing, "missing"),
            (result.damaged, "damaged"),
            (result.unreadable, "unreadable"),
        )
        if count
    ]
    if faults:
        parts.append(
            f"{', '.join(faults)}: qc-daemon spool check{' --full' if is_full else ''} lists them"
            " by exam, and says what to do"
        )
    if result.orphans:
        number = count_of(result.orphans, "file belongs to no object", "files belong to no object")
        parts.append(
            f"{number} that the database knows: qc-daemon spool list shows"
            f" {'it' if result.orphans == 1 else 'them'}, spool release or discard decides"
        )
    return "; ".join(parts)


def _check_scrub(settings: Settings, clock: Clock = utc_now) -> str:
    """The result of the last pass of the scrub over the spool."""
    if not settings.store.scrub_megabytes_per_second:
        raise NoticeError("switched off: nobody would notice files that change on the disk")
    last_pass = scrub.read_progress(settings.store.spool).finished
    if last_pass is None:
        return "the spool has not been read through yet; the role schedule does so each night"
    number = count_of(last_pass.files, "file")
    summary = f"{number} read through, finished {last_pass.finished}"
    if last_pass.faults:
        raise NoticeError(
            f"{summary}: {last_pass.damaged} damaged (set aside in {DAMAGED_FOLDER}),"
            f" {last_pass.fetched} of them fetched back from a destination;"
            f" {last_pass.missing} missing, {last_pass.unreadable} unreadable;"
            " look at the disk; qc-daemon spool check lists what is still not there"
        )
    assert last_pass.finished is not None
    if clock() - datetime.fromisoformat(last_pass.finished) > SCRUB_OVERDUE:
        raise NoticeError(f"{summary}; overdue: does the role schedule run?")
    return f"{summary}: all as received"


def _check_service(settings: Settings) -> str:
    if service_lock.is_running(settings.store.spool):
        return "runs"
    if schema.has_no_tables(settings.store.url):
        return "not running yet; start it with qc-daemon serve"
    raise NoticeError(
        "not running: nothing is received, scored or sent; start it with qc-daemon serve"
    )


def _check_queue(settings: Settings, clock: Clock = utc_now) -> str:
    if schema.check(settings.store.url):
        return "nothing to check yet"
    store = Store(settings.store.url)
    problem = (
        stopped_service(settings, store) or missing_worker(store) or missing_sender(settings, store)
    )
    if problem:
        raise OSError(0, problem)
    now = clock()
    backlog = read_backlog(store, now)
    if not backlog.counts:
        return "no job waits"
    with store.read() as session:
        retried = listings.count_retried(session)
    if not retried:
        return backlog.describe(now)
    listed = _first_of(f"{count} {code}" for code, count in retried.items())
    raise NoticeError(
        f"{backlog.describe(now)}; {sum(retried.values())} of them after a failure ({listed}):"
        " see qc-daemon queue list"
    )


def _check_failed_jobs(settings: Settings) -> str:
    """Warn of jobs that were given up, but for those of objects in quarantine."""
    if schema.check(settings.store.url):
        return "nothing to check yet"
    with Store(settings.store.url).read() as session:
        failed = listings.count_failed_jobs(session)
    if not failed:
        return "none"
    total = sum(each.count for each in failed)
    listed = _first_of(
        f"{each.count} {each.kind.value}"
        f"{f' to {each.destination}' if each.destination else ''}: {each.code}"
        for each in failed
    )
    raise NoticeError(
        f"{count_of(total, 'job was', 'jobs were')} given up ({listed});"
        " see qc-daemon queue list --state dead --state quarantined, then queue retry"
    )


def _check_quarantine(settings: Settings) -> str:
    if schema.check(settings.store.url):
        return "nothing to check yet"
    with Store(settings.store.url).read() as session:
        counts = listings.count_quarantined(session)
    if not counts:
        return "empty"
    number = count_of(sum(counts.values()), "object is", "objects are")
    listed = _first_of(f"{count} {code}" for code, count in counts.items())
    raise NoticeError(
        f"{number} in quarantine, not scored or not reported ({listed});"
        " see qc-daemon quarantine list, then quarantine release or dismiss"
    )


def _check_commitment_requests(settings: Settings) -> str:
    """Warn of storage commitment reports that no requester took."""
    if schema.check(settings.store.url):
        return "nothing to check yet"
    with Store(settings.store.url).read() as session:
        count = gauges.read(session).commitments.get(CommitmentState.DEAD, 0)
    if not count:
        return "none was given up"
    raise NoticeError(
        f"{count_of(count, 'report was', 'reports were')} given up;"
        " see qc-daemon commitment list --state dead, then commitment retry"
    )


def _first_of(parts: Iterable[str]) -> str:
    """The first parts of a list, and how many more there are."""
    every = list(parts)
    more = len(every) - MAX_PARTS
    return ", ".join(every[:MAX_PARTS] + ([f"{more} more kinds"] if more > 0 else []))


def _check_digests(settings: Settings) -> str:
    """Warn of digests that were given up or are tried again."""
    from qc_daemon.operations.digests import list_digests

    if schema.check(settings.store.url):
        return "nothing to check yet"
    rows = list_digests(settings)
    dead = [row for row in rows if row["state"] == DigestState.DEAD]
    if dead:
        number = count_of(len(dead), "digest was", "digests were")
        raise NoticeError(
            f"{number} given up, the last one: {dead[0]['error']};"
            " see qc-daemon digest list, then digest retry"
        )
    late = [row for row in rows if row["state"] == DigestState.READY and row["error"]]
    if late:
        number = count_of(len(late), "digest is", "digests are")
        raise NoticeError(f"{number} tried again: {late[0]['error']}")
    return f"{count_of(len(rows), 'digest')} sent"


def _check_bundle(settings: Settings) -> str:
    folder = bundle_folder(settings.score.bundle)
    problems = verify(folder)
    if problems:
        raise OSError(0, problems[0])
    return f"{folder.name}, verified"


def _check_sites(settings: Settings) -> str:
    if settings.score.site_calibration == "off":
        return "probabilities are not calibrated to sites (score.site_calibration is off)"
    if schema.check(settings.store.url):
        return "nothing to check yet"
    store = Store(settings.store.url)
    broken = [
        f"{name} ({check.wrong} of {check.called} wrong)"
        for name, check in check_promises(settings, store)
        if not check.is_consistent
    ]
    if broken:
        raise NoticeError(f"promise broken: {_first_of(broken)}; fit the site again (site fit)")
    waiting = commissioning_sites(settings, store)
    if waiting:
        raise NoticeError(
            f"not calibrated, so that findings are flagged: {_first_of(waiting)}; see site history,"
            " then site activate or site waive"
        )
    return "every site with findings is calibrated or waived"


def _check_reviews(settings: Settings) -> str:
    if schema.check(settings.store.url):
        return "nothing to check yet"
    end = time.monotonic() + REVIEWS_SECONDS
    with Store(settings.store.url).read() as session:
        waiting = count_waiting(session, settings, lambda: time.monotonic() < end)
    parts = [
        f"{count} for {words}"
        for status, words in (
            (ReviewStatus.WAITING, "a first reading"),
            (ReviewStatus.SECOND_READING, "a blinded one by another person"),
            (ReviewStatus.DISAGREEMENT, "a decision between two readings"),
        )
        if (count := waiting.counts[status])
    ]
    cut = "" if waiting.is_whole else f", as far as counted in {REVIEWS_SECONDS:.0f} s"
    if waiting.oldest is None:
        return f"no finding waits for a person{cut}"
    raise NoticeError(
        f"{count_of(waiting.total, 'finding waits', 'findings wait')} for a person, the longest"
        f" since {waiting.oldest:%Y-%m-%d}{cut}: {_first_of(parts)}; see review list"
    )


def _check_device(settings: Settings) -> str:
    # Imports torch.
    from model.device import choose_device

    return f"{settings.score.device}: {choose_device(settings.score.device)}"


def _check_receiver(settings: Settings) -> str:
    """Check that the port is free where no service runs, and answered by our service where one
    does."""
    receive, tls = settings.receive, settings.receive.tls
    only = tls if tls is not None and tls.only else None
    port = receive.port if only is None else only.port
    setting = "receive.port" if only is None else "receive.tls.port"
    where = f"{receive.host}:{port}"
    running = service_lock.is_running(settings.store.spool)
    if not _is_listening(receive.host, port):
        if running:
            raise NoticeError(f"{where} is free, though a service runs; has it the role receive?")
        _require_free_port(receive.host, port, setting)
        return f"{where} is free for the service"
    if not running:
        raise OSError(
            0,
            f"another program answers on {where}, and our service is not running;"
            f" stop it or change {setting}",
        )
    if only is not None:
        return f"{where} is open, for TLS only"
    return _check_own_receiver(receive.ae_title, receive.host, port)


def _check_own_receiver(ae_title: str, host: str, port: int) -> str:
    """Send C-ECHO to our receiver. Raises OSError if another program answers."""
    where = f"{host}:{port}"
    ours = DestinationSettings(name="receiver", ae_title=ae_title, host=host, port=port)
    with _open_association(ours, DOCTOR_AE_TITLE, 5) as association:
        if association.is_rejected and not is_called_title_unknown(association):
            return f"{ae_title} answers on {where}; we are none of its peers"
        _require_established(association, ours)
        answered = association.acceptor.implementation_class_uid
        if answered != IMPLEMENTATION_CLASS_UID:
            raise OSError(
                0, f"another DICOM service answers on {where} ({answered}); change receive.port"
            )
        _require_echo(association, ours)
    return f"{ae_title} answers on {where}"


def _is_listening(host: str, port: int) -> bool:
    with socket.socket(_address_family(host)) as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


def _require_free_port(host: str, port: int, setting: str) -> None:
    """Raises OSError if nobody could listen there."""
    with socket.socket(_address_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = (error.strerror or "error").lower()
            raise OSError(
                0, f"cannot listen on {host}:{port}: {why}; change the host or {setting}"
            ) from error


def _address_family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _check_metrics(settings: Settings) -> str:
    observe = settings.observe
    if observe.port is None:
        return "not served; observe.port names a port for them"
    where = f"{observe.host}:{observe.port}"
    if not service_lock.is_running(settings.store.spool) or observe.port == 0:
        _require_free_port(observe.host, observe.port, "observe.port")
        return f"{where} is free for the service"
    try:
        answer = requests.get(f"http://{where}/ready", timeout=5).json()
        ready, reasons = answer["ready"], answer["reasons"]
    except requests.ConnectionError as error:
        raise OSError(0, f"the service does not answer on {where}") from error
    except (requests.RequestException, KeyError, TypeError, ValueError) as error:
        raise OSError(0, f"another program answers on {where}; change observe.port") from error
    if not ready:
        raise OSError(0, f"the service is not ready: {'; '.join(map(str, reasons))[:500]}")
    return f"{where} answers: ready"


def _check_destinations(settings: Settings) -> str:
    if not settings.destination:
        raise NoticeError("none is set: nothing is sent on; see [[destination]]")
    number = count_of(len(settings.destination), "is", "are")
    if schema.check(settings.store.url):
        return f"{number} set"
    lost = unknown_destinations(settings)
    if lost:
        listed = _first_of(f"{count} for {name}" for name, count in lost.items())
        raise NoticeError(
            f"{number} set; objects wait for some that are not in the settings ({listed}):"
            " put them back, or see qc-daemon queue list and queue cancel"
        )
    return f"{number} set"


def _check_certificate(tls: TLSSettings, clock: Clock = utc_now) -> str:
    check_tls(tls)
    end = earliest_expiry(tls.certificate)
    remaining = end - clock()
    if remaining <= timedelta(0):
        raise OSError(0, f"{tls.certificate} expired on {end:%Y-%m-%d}; renew it")
    summary = f"{tls.certificate.name} holds until {end:%Y-%m-%d}, {remaining.days} days"
    if tls.ca is not None and tls.mutual != "none" and has_revocations(tls.ca):
        summary += f"; revoked certificates are refused by the list in {tls.ca.name}"
    if remaining < WARN_BEFORE:
        raise NoticeError(f"{summary}; renew it soon")
    return summary


def _check_destination(subject: tuple[Settings, DestinationSettings]) -> str:
    """Ask the destination; warn where it answers, and the service fails to send to it."""
    settings, destination = subject
    summary = _ask_destination(settings, destination)
    if schema.check(settings.store.url):
        return summary
    condition = destination_condition(settings, destination.name)
    if condition.failing_since is None:
        return summary
    raise NoticeError(
        f"{summary}; but sending to it fails since {condition.failing_since:%Y-%m-%d %H:%M} UTC"
        f" ({condition.error_code}: {condition.error_message}); see qc-daemon destination list"
    )


def _ask_destination(settings: Settings, destination: DestinationSettings) -> str:
    if destination.folder is not None and destination.kind == "folder":
        problem = folder_problem(destination.folder)
        if problem is not None:
            raise OSError(0, problem)
        return f"{_require_writable(destination.folder)} is writable"
    if destination.kind == "dicomweb":
        return _check_dicomweb(destination)
    _echo(destination, settings.receive.ae_title, 10)
    return f"{destination.ae_title} answers C-ECHO"


def _check_commitment(subject: tuple[Settings, DestinationSettings]) -> str:
    """The commitment's state at the service's last contact; no request is sent to check it."""
    settings, destination = subject
    if schema.check(settings.store.url):
        return "nothing is known yet"
    condition = destination_condition(settings, destination.name)
    fault = commitment_fault(destination, condition)
    if fault is not None:
        raise OSError(0, fault)
    words = commitment_words(destination, condition)
    if condition.commitment == CommitmentSupport.NOT_OFFERED and destination.commitment != "off":
        raise NoticeError(words)
    return words


def _check_dicomweb(destination: DestinationSettings) -> str:
    """Search one study (QIDO-RS), which checks address, TLS and credentials; nothing is stored."""
    hasty = destination.model_copy(update={"timeout": min(10.0, destination.timeout)})
    with dicomweb.session(destination) as session:
        try:
            dicomweb.client(hasty, session).search_for_studies(limit=1)
        except requests.HTTPError as error:
            raise OSError(0, f"{destination.url} answers HTTP {_describe_status(error)}") from error
        except requests.RequestException as error:
            raise OSError(
                0, f"{destination.url} cannot be reached: {dicomweb.describe_failure(error)}"
            ) from error
        except ValueError as error:
            raise OSError(0, f"{destination.url} is no DICOMweb service") from error
    summary = f"{destination.url} answers QIDO-RS"
    secret = destination.token or destination.user
    plain = secret is not None and (destination.url or "").startswith("http:")
    return f"{summary}; credentials go there in the clear, use https" if plain else summary


def _describe_status(error: requests.HTTPError) -> str:
    assert error.response is not None
    status = error.response.status_code
    return f"{status}, {http_words(status)}"


def _echo(peer: DestinationSettings, calling: str, timeout: float) -> None:
    with _open_association(peer, calling, timeout) as association:
        _require_established(association, peer)
        _require_echo(association, peer)


@contextlib.contextmanager
def _open_association(peer: DestinationSettings, calling: str, timeout: float) -> Iterator[Any]:
    """An association for C-ECHO, established or not."""
    entity = requestor(calling, timeout)
    entity.add_requested_context(VERIFICATION)
    association = associate(
        entity, peer.host, peer.port, ae_title=peer.ae_title, tls_args=tls_args(peer)
    )
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _require_established(association: Any, peer: DestinationSettings) -> None:
    if not association.is_established:
        why = cause(association, peer.host, peer.port, tls_args(peer))
        raise OSError(0, f"{peer.ae_title}@{peer.host}:{peer.port}: {why}")


def _require_echo(association: Any, peer: DestinationSettings) -> None:
    status = association.send_c_echo()
    if not status or status.Status != 0x0000:
        raise OSError(0, f"{peer.ae_title}@{peer.host}:{peer.port} does not answer C-ECHO")
