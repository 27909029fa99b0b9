"""A patient is erased: nothing is left in database, spool and files but that it was done."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.audit_trail.recorder import chain_folder
from qc_daemon.backup import restore, save, series
from qc_daemon.operations.patients import certificate as certificates
from qc_daemon.operations.patients.erasure import erase, list_erasures, preview, show_erasure
from qc_daemon.records.patients import erasures
from qc_daemon.settings import BackupSettings
from qc_daemon.spool.spool import relative_path
from tests.support.command_line import qc_daemon_here
from tests.support.reviewed_exam import PATIENTS, ReviewedExam

ANNA, BERTA, _ = PATIENTS
NAME = "Canary^Melusina"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture
def site(tmp_path: Path) -> ReviewedExam:
    """Two patients' pictures, scored, reviewed, reported and delivered."""
    reviewed = ReviewedExam(tmp_path / "site", 0)
    for number in (1, 3, 4, 6):
        receive(reviewed, number)
    reviewed.accept(1, 2)
    deliver(reviewed)
    return reviewed


def receive(reviewed: ReviewedExam, number: int) -> None:
    """A picture comes, and lies where the receiver would have put it."""
    reviewed.receive(number, PatientName=NAME, AccessionNumber="CANARY-9")
    path = reviewed.paths[number]
    place = relative_path(path.stem)
    reviewed.paths[number] = reviewed.settings.store.spool / place
    reviewed.paths[number].parent.mkdir(exist_ok=True)
    path.rename(reviewed.paths[number])
    with reviewed.exam.store.begin() as session:
        session.execute(
            text("UPDATE revision SET path = :path WHERE sha256 = :sha256"),
            {"path": str(place), "sha256": path.stem},
        )


def deliver(reviewed: ReviewedExam) -> None:
    """Everything is done: exams closed, reported and sent."""
    reviewed.exam.close()
    while reviewed.exam.report():
        pass
    with reviewed.exam.store.begin() as session:
        session.execute(text("UPDATE job SET state = 'done', owner = NULL, lease_token = NULL"))


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_nothing_of_the_patient_is_left(site: ReviewedExam, tmp_path: Path) -> None:
    [name, *_] = site.paths.values()
    foreign = {number: path for number, path in site.paths.items() if number % 3 == 1}
    # A file that was set aside, and one that was never recorded.
    damaged = site.settings.store.spool / "damaged"
    damaged.mkdir()
    shutil.copy(site.paths[3], damaged / f"{site.paths[3].stem}-1.dcm")
    certificate = erase(site.settings, ANNA, "Dr Lee", tmp_path / "out", lambda: NOW)
    site.exam.store.close()
    assert certificate.certificate["removed"]["images"] == 2
    assert certificate.certificate["removed"]["review events"] == 1
    assert [path.exists() for path in site.paths.values()] == [
        number in foreign for number in site.paths
    ]
    # The audit log is only added to, and says so in the certificate.
    shutil.rmtree(chain_folder(site.settings))
    left = bytes_of(tmp_path / "site")
    assert ANNA.encode() not in left
    assert BERTA.encode() in left
    assert name.exists() is (1 in foreign)
    stored = (tmp_path / "site" / "qc.db").read_bytes()
    assert ANNA.encode() not in stored
    assert b"nuchal translucency, 3" not in stored
    assert b"nuchal translucency, 4" in stored


def test_the_certificate_says_what_was_removed_and_what_others_keep(
    site: ReviewedExam, tmp_path: Path
) -> None:
    site.settings.backup = BackupSettings(folder=tmp_path / "backups")
    (tmp_path / "backups").mkdir()
    series.save_next(site.settings, NOW, site.settings.schedule.local_zone)
    result = erase(site.settings, ANNA, "Dr Lee", tmp_path / "out", lambda: NOW)
    document = json.loads((tmp_path / "out" / "erasure-1.json").read_text())
    assert certificates.digest(document["certificate"]) == document["sha256"] == result.sha256
    assert document["patient_id"] == ANNA
    assert document["study_instance_uids"] == ["1.2.826.0.1.3680043.10.1.2.0"]
    kept = {each["where"]: each["what"] for each in document["certificate"]["kept"]}
    assert kept["destination pacs"] == "1 sr: ask the archive to delete its study"
    [backup] = [where for where in kept if where.startswith("backup backup-")]
    assert kept[backup].startswith("the database and 2 received objects")
    words = (tmp_path / "out" / "erasure-1.txt").read_text()
    assert f"Patient ID: {ANNA}" in words
    assert "by Dr Lee" in words
    # What stays here names nobody.
    stored, lines = show_erasure(site.settings, 1)
    assert ANNA not in json.dumps(stored) + "".join(lines)
    assert stored["is_unchanged"]
    [row] = list_erasures(site.settings)
    assert (row["number"], row["images"], row["erased_by"]) == (1, 2, "Dr Lee")
    assert not any(path.stat().st_mode & 0o077 for path in (tmp_path / "out").iterdir())


def test_a_certificate_that_was_changed_is_told(site: ReviewedExam) -> None:
    erase(site.settings, ANNA, "Dr Lee", clock=lambda: NOW)
    with site.exam.store.begin() as session:
        session.execute(text('UPDATE erasure SET certificate = \'{"removed": {}, "kept": []}\''))
    with site.exam.store.begin() as session:
        [stored] = erasures.list_erasures(session)
    assert certificates.digest(stored.certificate) != stored.sha256


def test_done_again_it_finds_nothing(site: ReviewedExam) -> None:
    erase(site.settings, ANNA, "Dr Lee")
    again = erase(site.settings, ANNA, "Dr Lee")
    assert (again.number, again.earlier) == (None, (1,))
    assert erase(site.settings, "nobody", "Dr Lee").number is None
    assert len(list_erasures(site.settings)) == 1
    # Whoever comes again is a patient again.
    receive(site, 9)
    deliver(site)
    assert erase(site.settings, ANNA, "Dr Lee").number == 2


def test_the_audit_log_has_it(site: ReviewedExam) -> None:
    result = erase(site.settings, ANNA, "Dr Lee")
    records = [
        json.loads(line)
        for path in sorted(chain_folder(site.settings).rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    [deleted] = [each for each in records if each.get("kind") == "deleted"]
    assert deleted["patient_id"] == ANNA
    assert deleted["detail"] == {"what": "all data of a patient", "sha256": result.sha256}
    assert NAME not in str(records)


def test_a_dry_run_changes_nothing_and_says_what_would_be_removed(site: ReviewedExam) -> None:
    before = [(path, path.stat().st_mtime_ns) for path in site.paths.values()]
    draft = preview(site.settings, ANNA)
    assert draft.number is None
    words = "\n".join(draft.lines)
    assert "  images: 2" in words
    assert "  files in the spool: 2" in words
    assert [(path, path.stat().st_mtime_ns) for path in site.paths.values()] == before
    assert list_erasures(site.settings) == []


def test_while_jobs_wait_or_run_nothing_is_erased(site: ReviewedExam) -> None:
    receive(site, 9)
    assert preview(site.settings, ANNA).obstacles
    with pytest.raises(QCError, match="exams that are still open: 1"):
        erase(site.settings, ANNA, "Dr Lee")
    deliver(site)
    with site.exam.store.begin() as session:
        session.execute(text("UPDATE job SET state = 'ready' WHERE kind = 'deliver'"))
    with pytest.raises(QCError, match="deliver jobs that wait or run"):
        erase(site.settings, ANNA, "Dr Lee")
    assert all(path.exists() for path in site.paths.values())
    with pytest.raises(UsageError):
        erase(site.settings, "", "Dr Lee")


def test_files_without_a_row_go_too(site: ReviewedExam) -> None:
    """As after a crash between the transaction and the files."""
    content = [path.read_bytes() for number, path in site.paths.items() if number % 3 == 0]
    erase(site.settings, ANNA, "Dr Lee")
    paths = [path for number, path in site.paths.items() if number % 3 == 0]
    for path, each in zip(paths, content, strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(each)
    result = erase(site.settings, ANNA, "Dr Lee", clock=lambda: NOW + timedelta(days=9999))
    assert result.certificate["removed"]["files without a row"] == 2
    assert not any(path.exists() for path in paths)


def test_a_restore_that_brings_the_patient_back_names_the_command(
    site: ReviewedExam, tmp_path: Path
) -> None:
    save(site.settings, tmp_path / "backup", NOW)
    erase(site.settings, ANNA, "Dr Lee")
    site.exam.store.close()
    restoration = restore(site.settings, tmp_path / "backup", NOW)
    [decision] = [each for each in restoration.decisions.decisions if each.kind == "patient erased"]
    assert decision.command == f"qc-daemon patient erase '--by=Dr Lee' --yes {ANNA}"


def test_the_commands(site: ReviewedExam, tmp_path: Path) -> None:
    store = site.settings.store
    config = tmp_path / "qc-daemon.toml"
    config.write_text(
        f'[store]\nurl = "{store.url}"\nspool = "{store.spool}"\n'
        f'[audit_log]\nfolder = "{tmp_path / "audit-log"}"\n'
    )

    def run(*words: str, status: int = 0) -> str:
        done = qc_daemon_here(*words, "-c", str(config))
        assert done.returncode == status, done.stderr
        assert NAME not in done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "give --by NAME and --yes" in run("patient", "erase", ANNA, status=2)
    assert "What would be erased" in run("patient", "erase", ANNA, "--dry-run")
    out = tmp_path / "certificates"
    done = run("patient", "erase", ANNA, "--by", "Dr Lee", "--yes", "--out", str(out))
    assert "Certificate of erasure" in done
    assert sorted(path.name for path in out.iterdir()) == ["erasure-1.json", "erasure-1.txt"]
    again = run("patient", "erase", ANNA, "--by", "Dr Lee", "--yes")
    assert "there is nothing of this patient here" in again
    assert json.loads(run("erasure", "list", "--format", "json"))["images"] == 2
    assert "images: 2" in run("erasure", "show", "1")
    assert "no erasure 7" in run("erasure", "show", "7", status=1)
