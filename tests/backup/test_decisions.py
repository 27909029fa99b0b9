"""A restore names what people decided after the backup, with the commands that repeat it."""

import gc
import json
import shlex
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from detector.errors import ErrorCode
from model.bundle.bundle import read_model_id
from model.finding import BundleId
from model.site.calibrate import calibrate_site
from qc_daemon.backup import Decision, DecisionKind, Restoration, restore, save
from qc_daemon.cli.app import app
from qc_daemon.dicom.acquisition import Operator
from qc_daemon.operations import (
    accounts,
    bundles,
    commitments,
    destinations,
    exams,
    identities,
    peers,
    quarantine,
    queue,
    review_lists,
    reviews,
    sites,
)
from qc_daemon.operations.database import RestoreResult, describe_restore, restore_all
from qc_daemon.operations.patients.corrections import correct as correct_patient
from qc_daemon.operations.patients.erasure import erase
from qc_daemon.operations.rejections import reject, retract
from qc_daemon.operations.reviews import Answer
from qc_daemon.records import schema
from qc_daemon.records.accounts import web_sessions
from qc_daemon.records.acquisition.identities import identify_persons
from qc_daemon.records.clock import utc_now
from qc_daemon.records.commitment.scp import Request, record_request
from qc_daemon.records.queue import jobs
from qc_daemon.records.received import revisions
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.records.results import bundles as bundle_records
from qc_daemon.records.results import findings, teaching_releases
from qc_daemon.records.results import sites as site_records
from qc_daemon.records.results.teaching_releases import TeachingDecision
from qc_daemon.records.tables import (
    Commitment,
    CommitmentState,
    Exam,
    ExamState,
    IdentityKind,
    JobKind,
    JobRow,
    JobState,
    LoginMethod,
    SiteAction,
    TeachingAction,
)
from qc_daemon.settings import ReviewSettings, Settings
from qc_daemon.spool import private_files
from tests.support.dicom_objects import CANARY, CANARY_ID, ultrasound
from tests.support.report_objects import nuchal_finding, source_instance
from tests.support.sites import log_odds_of_site, question, site_samples
from tests.support.storage import Storage

NOW = datetime(2026, 11, 29, 1, 2, 3, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


ISSUER = "https://login.example.org"
PASSWORD = "correct horse battery"


def clock() -> datetime:
    return LATER


@pytest.fixture
def storage(storage: Storage) -> Storage:
    store = {"url": storage.settings.store.url, "spool": storage.settings.store.spool}
    storage.settings = Settings(
        store=store,
        web={"oidc": {"issuer": ISSUER, "client_id": "qc", "default_role": "auditor"}},
        destination=[{"name": "pacs", "objects": ["source", "key-objects"]}],
    )
    return storage


def backup(storage: Storage) -> Path:
    folder = storage.spool.root.parent / "backup"
    save(storage.settings, folder, NOW)
    return folder


def put_back(storage: Storage, source: Path) -> Restoration:
    close(storage)
    return restore(storage.settings, source, datetime.now(UTC))


def close(storage: Storage) -> None:
    storage.store.close()
    # The operations leave the connections of their stores to the collector.
    gc.collect()


def end_jobs(storage: Storage, facts: RevisionFacts, kind: JobKind, state: JobState) -> int:
    """End the object's job of a kind as it does by itself; returns its id."""
    with storage.store.begin() as session:
        (job,) = (
            each
            for each in jobs.listing(session, kinds=[kind])
            if each.revision_id == facts.revision_id
        )
        session.execute(update(JobRow).where(JobRow.id == job.id).values(state=state))
        if kind is JobKind.SCORE:
            revisions.quarantine(session, facts.revision_id, ErrorCode.UNREADABLE, "broken", NOW)
    return job.id


def commands(restoration: Restoration, kind: DecisionKind) -> list[str | None]:
    return [each.command for each in restoration.decisions.decisions if each.kind is kind]


def repeat(storage: Storage, decisions: tuple[Decision, ...]) -> None:
    """Type the commands in their order, as a person would."""
    config = storage.spool.root.parent / "qc.toml"
    config.write_text(
        f'[store]\nurl = "{storage.settings.store.url}"\nspool = "spool"\n'
        f'[web.oidc]\nissuer = "{ISSUER}"\nclient_id = "qc"\ndefault_role = "auditor"\n'
        '[[destination]]\nname = "pacs"\nobjects = ["source", "key-objects"]\n'
    )
    for each in decisions:
        if each.kind is DecisionKind.TEACHING_DECIDED:
            # What has left the house is named, and nothing repeats it.
            assert each.command is None
            continue
        assert each.command is not None
        words = shlex.split(each.command)
        assert words[0] == "qc-daemon"
        verb, argument = words[1 : 1 + len(each.verb.split())], words[1 + len(each.verb.split()) :]
        line = [*verb, "--config", str(config), *argument]
        result = CliRunner().invoke(app, line, input=f"{PASSWORD} 3\n")
        assert result.exit_code == 0, (each, result.output, result.exception)


def persons(storage: Storage, *names: str) -> list[str]:
    """The ids of operators of these names."""
    with storage.store.begin() as session:
        return [identify_persons(session, [Operator(name)], NOW)[0] for name in names]


def test_each_kind_of_decision_is_named_and_its_command_repeats_it(storage: Storage) -> None:
    settings = storage.settings
    image, broken, unsent, cancelled, cut = (storage.receive() for _ in range(5))
    open_exam = storage.receive(ultrasound(StudyInstanceUID="1.2.3.4"))
    end_jobs(storage, broken, JobKind.SCORE, JobState.QUARANTINED)
    end_jobs(storage, cut, JobKind.SCORE, JobState.QUARANTINED)
    retried = end_jobs(storage, unsent, JobKind.DELIVER, JobState.DEAD)
    with storage.store.read() as session:
        to_cancel = next(
            each.id
            for each in jobs.listing(session, kinds=[JobKind.DELIVER])
            if each.revision_id == cancelled.revision_id
        )
    # Scored, so that its exam can be closed.
    end_jobs(storage, open_exam, JobKind.SCORE, JobState.DONE)
    erased = storage.receive(ultrasound(PatientID="-GONE", StudyInstanceUID="1.2.3.5"))
    with storage.store.begin() as session:
        is_hers = JobRow.revision_id == erased.revision_id
        session.execute(update(JobRow).where(is_hers).values(state=JobState.DONE))
        session.execute(
            update(Exam).where(Exam.id == erased.exam_id).values(state=ExamState.CLOSED)
        )
    peers.add_peer(settings, "GONE", "10.0.0.1", None, clock)
    request = Request("1.2.3", "VOLUSON1", "10.1.0.1", "test/1", ())
    with storage.store.begin() as session:
        record_request(session, request, NOW)
        bundle_records.activate(session, "other", "/models/other", "other", NOW)
        session.execute(update(Commitment).values(state=CommitmentState.DEAD))
    one, other = persons(storage, "Doe^Jane", "Doe^J")
    reviewed = scored(storage)
    site = proposed_calibration(storage)
    accounts.add_account(settings, "ng", "Dr Ng", "lead", PASSWORD, clock=clock)
    accounts.add_token(settings, "ng", "board", ["see-all"], 30, clock)
    for name in ("kim", "ada", "may"):
        accounts.add_account(settings, name, f"Dr {name}", "lead", PASSWORD, clock=clock)
    accounts.disable_account(settings, "kim", clock)
    accounts.link_account(settings, "ada", "subject-1", clock)
    folder = backup(storage)

    def decide() -> None:
        peers.add_peer(settings, "VOLUSON1", "10.1.0.0/16", None, clock)
        peers.add_peer(settings, "-DASH", "10.2.0.1", None, clock)
        peers.remove_peer(settings, "GONE", None)
        reject(settings, image.sop_instance_uid, "111209", "Dr O'Lee", clock)
        retract(settings, image.sop_instance_uid, "wrong-image", "Dr O'Lee", clock)
        bundles.activate_bundle(settings, "default", clock)
        exams.close_exams(settings, exams.parse_exam(str(open_exam.exam_id)), clock)
        quarantine.release_quarantined(settings, [broken.revision_id], clock)
        quarantine.dismiss_quarantined(
            settings, [cut.revision_id], "it's whole now", "Dr Lee", clock
        )
        destinations.retry_destination(settings, "pacs", clock)
        queue.cancel_jobs(settings, [to_cancel], clock)
        commitments.retry_commitments(settings, [1], clock)
        identities.merge(settings, IdentityKind.PERSON, [one], other, "Dr O'Lee", clock)
        identities.split(settings, IdentityKind.PERSON, one, "Dr Lee", clock)
        identities.rename(settings, IdentityKind.PERSON, one, "-Jane", "Dr Lee", clock)
        answer = Answer(
            "Dr O'Lee",
            verdict="standard",
            criteria=("GAIN=met", "NASAL=cannot-tell"),
            reason="other",
            remark="-it's whole",
            seconds=2.5,
        )
        reviews.override(settings, reviewed, answer, clock)
        sites.activate(settings, site, "Dr O'Lee", clock)
        sites.decide(settings, "", SiteAction.RETIRED, "Dr Lee", clock)
        sites.decide(settings, "", SiteAction.WAIVED, "Dr Lee", clock)
        release = TeachingDecision(3, TeachingAction.RELEASED, (7,), "ab" * 32)
        with storage.store.begin() as session:
            teaching_releases.add(session, "p", [release], "Dr Lee", NOW)
        accounts.add_account(settings, "olee", "Dr O'Lee", "lead", PASSWORD, clock=clock)
        accounts.set_password(settings, "ng", f"{PASSWORD} 2")
        accounts.disable_account(settings, "ng", clock)
        accounts.enable_account(settings, "kim", clock)
        accounts.change_account(settings, "kim", role="auditor")
        accounts.unlink_account(settings, "ada", clock)
        accounts.link_account(settings, "may", "-subject 2", clock)
        accounts.revoke_token(settings, "ng", "board", clock)
        correct_patient(settings, CANARY_ID, "Dr O'Lee", name="-O'Doe^Jane", clock=clock)
        erase(settings, "-GONE", "Dr O'Lee", clock=clock)

    decide()
    restoration = put_back(storage, folder)
    comparison = restoration.decisions
    assert comparison.problem is None
    kinds = Counter(each.kind for each in comparison.decisions)
    assert kinds == {**dict.fromkeys(DecisionKind, 1), DecisionKind.PEER_APPROVED: 2}
    assert not any(each.needs_object for each in comparison.decisions)
    assert commands(restoration, DecisionKind.JOB_RETRIED) == [f"qc-daemon queue retry {retried}"]
    assert commands(restoration, DecisionKind.OBJECT_RELEASED) == [
        f"qc-daemon quarantine release {broken.revision_id}"
    ]
    assert commands(restoration, DecisionKind.IMAGE_REJECTED) == [
        "qc-daemon rejection confirm --reason 111209 --by 'Dr O'\"'\"'Lee' "
        f"{image.sop_instance_uid}"
    ]
    assert [
        command
        for kind in (
            DecisionKind.SITE_ACTIVATED,
            DecisionKind.SITE_RETIRED,
            DecisionKind.SITE_WAIVED,
        )
        for command in commands(restoration, kind)
    ] == [
        f"qc-daemon site activate --by 'Dr O'\"'\"'Lee' -- {site}",
        "qc-daemon site retire --by 'Dr Lee' -- unnamed",
        "qc-daemon site waive --by 'Dr Lee' -- unnamed",
    ]
    said = "\n".join(describe_restore(RestoreResult(restoration, 0, None)))
    for kind in set(DecisionKind) - {DecisionKind.JOB_RETRIED}:
        assert all(command in said for command in commands(restoration, kind) if command)
    (teaching,) = (e for e in comparison.decisions if e.kind is DecisionKind.TEACHING_DECIDED)
    assert teaching.subject == "image 3 of p, released by Dr Lee"
    assert teaching.subject in said
    # The file has them all, on both databases.
    file = Path(str(restoration.decisions_file))
    assert file.parent.name.startswith("before_restore_")
    assert file.stat().st_mode & 0o077 == 0
    written = json.loads(file.read_text())["decisions"]
    assert written == [each.to_json() for each in comparison.decisions]
    assert commands(restoration, DecisionKind.OBJECT_DISMISSED) == [
        "qc-daemon quarantine dismiss --reason 'it'\"'\"'s whole now' --by 'Dr Lee'"
        f" {cut.revision_id}"
    ]
    repeat(storage, comparison.decisions)
    # What was repeated is what was lost: a second restore of it names the same.
    again = put_back(storage, folder).decisions
    assert {(each.kind, each.command) for each in again.decisions} == {
        (each.kind, each.command) for each in comparison.decisions if each.command is not None
    }


def proposed_calibration(storage: Storage) -> str:
    """The id of a calibration that was proposed for images of no named site."""
    log_odds, labels = log_odds_of_site(np.random.default_rng(0), 30)
    bundle = BundleId("default", "1.1", read_model_id("default"))
    record = calibrate_site(site_samples(log_odds, labels), question(site="unnamed", bundle=bundle))
    with storage.store.begin() as session:
        site_records.append(
            session, "unnamed", bundle.model_id, SiteAction.PROPOSED, NOW, record=record
        )
    return record.id


def test_a_calibration_that_came_after_the_backup_can_be_activated_again(
    storage: Storage,
) -> None:
    bundles.activate_bundle(storage.settings, "default", clock)
    folder = backup(storage)
    site = proposed_calibration(storage)
    sites.activate(storage.settings, site, "Dr Lee", clock)
    decisions = put_back(storage, folder).decisions.decisions
    (lost,) = (each for each in decisions if each.kind is DecisionKind.SITE_ACTIVATED)
    assert lost.subject == f"site unnamed, calibration {site}"
    assert lost.command is not None
    program, *words, path = shlex.split(lost.command)
    assert (program, words) == ("qc-daemon", ["site", "activate", "--by", "Dr Lee", "--"])
    assert site in sites.activate(storage.settings, path, "Dr Lee", clock).line
    (again,) = sites.list_history(storage.settings, None)
    assert (again["action"], again["calibration"]) == ("activated", site)


def scored(storage: Storage) -> int:
    """The finding of one more object."""
    facts = storage.receive(ultrasound(StudyInstanceUID="1.2.3.5"))
    body = nuchal_finding(source_instance()).to_json()
    with storage.store.begin() as session:
        findings.store(session, facts.revision_id, [body], NOW)
        return int(session.execute(text("SELECT max(id) FROM finding")).scalar_one())


def test_every_kind_of_review_is_named_with_its_command(storage: Storage) -> None:
    settings = storage.settings
    settings.review = ReviewSettings(share=0, risk_share=0, first_share=0)
    one, two = scored(storage), scored(storage)
    reviews.accept(settings, one, Answer("Dr Lee"), clock)
    folder = backup(storage)
    reviews.remark(settings, one, Answer("Ng", remark="--look"), clock)
    reviews.dispute(settings, one, Answer("A. Berg", reason="criterion"), clock)
    review_lists.show_review(settings, one, reader="Ng", unblind=True, clock=clock)
    reviews.read_blinded(settings, one, Answer("Dr Roth", "NT", "non-standard"), clock)
    reviews.accept(settings, two, Answer("Dr Lee", seconds=1), clock)
    later = scored(storage)
    reviews.accept(settings, later, Answer("Dr Lee"), clock)
    restoration = put_back(storage, folder)
    found = restoration.decisions.decisions
    assert [each.needs_object for each in found] == [False] * 5 + [True]
    assert commands(restoration, DecisionKind.FINDING_REVIEWED) == [
        f"qc-daemon review remark --reader Ng -- {one} --look",
        f"qc-daemon review dispute --reader 'A. Berg' --reason=criterion -- {one}",
        f"qc-daemon review show {one} --unblind --reader Ng",
        f"qc-daemon review read --reader 'Dr Roth' --view=NT --verdict=non-standard -- {one}",
        f"qc-daemon review accept --reader 'Dr Lee' --seconds 1.0 -- {two}",
        None,
    ]
    repeat(storage, found[:-1])


def test_nobody_who_was_let_out_comes_back_unsaid(storage: Storage) -> None:
    settings = storage.settings
    accounts.add_account(settings, "lee", "Dr Lee", "lead", PASSWORD, clock=clock)
    now = utc_now()
    with storage.store.begin() as session:
        for number, age in enumerate((timedelta(minutes=1), timedelta(days=2))):
            begin_session(session, 1, str(number), now - age)
    folder = backup(storage)
    # Nobody ends the first one after a log-out; the restored database has its row as it was.
    accounts.disable_account(settings, "lee")
    restoration = put_back(storage, folder)
    assert restoration.sessions == 1
    assert accounts.list_sessions(settings) == []
    lines = list(describe_restore(RestoreResult(restoration, 0, None)))
    assert "1 session is ended: log in again" in lines
    first = lines.index("1 account disabled")
    assert "they keep out who was let out" in lines[first + 1]
    assert lines[first + 2] == "  qc-daemon user disable lee"


def begin_session(session: Session, account_id: int, token: str, begun: datetime) -> None:
    web_sessions.insert(
        session,
        account_id,
        token,
        begun,
        timedelta(hours=10),
        address="10.0.0.9",
        agent="browser",
        method=LoginMethod.PASSWORD,
    )


def test_what_a_service_does_by_itself_is_no_decision(storage: Storage) -> None:
    settings = storage.settings
    first, second = storage.receive(), storage.receive()
    folder = backup(storage)
    bundles.seed_bundle(settings, storage.store, clock)
    storage.receive()
    end_jobs(storage, first, JobKind.SCORE, JobState.QUARANTINED)
    end_jobs(storage, second, JobKind.DELIVER, JobState.DEAD)
    comparison = put_back(storage, folder).decisions
    assert (comparison.decisions, comparison.problem) == ((), None)


def test_decisions_on_later_objects_say_that_these_come_first(storage: Storage) -> None:
    settings = storage.settings
    folder = backup(storage)
    later, cut = storage.receive(), storage.receive()
    end_jobs(storage, later, JobKind.SCORE, JobState.DONE)
    end_jobs(storage, cut, JobKind.SCORE, JobState.QUARANTINED)
    quarantine.dismiss_quarantined(settings, [cut.revision_id], "cut", "Dr Lee", clock)
    reject(settings, later.sop_instance_uid, "111209", "Dr Lee", clock)
    exams.close_exams(settings, exams.parse_exam(str(later.exam_id)), clock)
    with storage.store.read() as session:
        ids = [each.id for each in jobs.listing(session, kinds=[JobKind.DELIVER])]
    queue.cancel_jobs(settings, ids, clock)
    one, two = persons(storage, "Doe^Jane", "Doe^J")
    identities.merge(settings, IdentityKind.PERSON, [one], two, "Dr Lee", clock)
    decisions = put_back(storage, folder).decisions.decisions
    assert all(each.needs_object for each in decisions)
    by_kind = {each.kind: each for each in decisions}
    assert later.sop_instance_uid in str(by_kind[DecisionKind.IMAGE_REJECTED].command)
    assert later.study_instance_uid in str(by_kind[DecisionKind.EXAM_CLOSED].command)
    # A job and a person get another number when the object is taken in.
    assert by_kind[DecisionKind.IDENTITY_MERGED].command is None
    assert by_kind[DecisionKind.JOB_CANCELLED].command is None
    assert by_kind[DecisionKind.OBJECT_DISMISSED].command is None


def test_a_backup_of_older_tables_is_compared_too(storage: Storage) -> None:
    """Before 0002 there were no peers, before 0005 no rejections."""
    url = storage.settings.store.url
    storage.store.close()
    schema.downgrade(url, "0001")
    folder = backup(storage)
    schema.upgrade(url)
    peers.add_peer(storage.settings, "VOLUSON1", "10.1.0.0/16", None, clock)
    comparison = put_back(storage, folder).decisions
    assert comparison.problem is None
    assert [each.kind for each in comparison.decisions] == [DecisionKind.PEER_APPROVED]


def test_decisions_of_an_unreadable_old_database_are_unknown(sqlite_storage: Storage) -> None:
    storage = sqlite_storage
    folder = backup(storage)
    file = schema.file_of(storage.settings.store.url)
    assert file is not None
    harms: list[Callable[[], object]] = [
        lambda: file.write_bytes(b"no database" * 1000),
        lambda: file.write_bytes(b""),
        file.unlink,
    ]
    for harm in harms:
        close(storage)
        harm()
        result = restore_all(storage.settings, folder, release=False)
        text = "\n".join(describe_restore(result))
        assert "what people decided after 2026-11-29T01:02:03+00:00 cannot be told: " in text
        assert result.restoration.decisions.decisions == ()


def test_a_damaged_old_database_is_read_as_far_as_it_goes(sqlite_storage: Storage) -> None:
    storage = sqlite_storage
    folder = backup(storage)
    peers.add_peer(storage.settings, "VOLUSON1", "10.1.0.0/16", None, clock)
    storage.store.close()
    file = schema.file_of(storage.settings.store.url)
    assert file is not None
    with closing(sqlite3.connect(file)) as connection:
        page = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'job'"
        ).fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    with file.open("r+b") as handle:
        handle.seek((page - 1) * size)
        handle.write(b"\xff" * size)
    comparison = put_back(storage, folder).decisions
    assert comparison.problem is not None
    assert [each.subject for each in comparison.decisions] == ["VOLUSON1 at 10.1.0.0/16"]


def test_comparing_leaves_the_old_database_and_its_log_as_they_are(
    sqlite_storage: Storage,
) -> None:
    storage = sqlite_storage
    folder = backup(storage)
    file = schema.file_of(storage.settings.store.url)
    assert file is not None
    copies = file.parent / "copies"
    copies.mkdir()
    peers.add_peer(storage.settings, "VOLUSON1", "10.1.0.0/16", None, clock)
    # As a kill leaves them: the newest rows are in the log alone.
    with storage.store.read():
        for each in schema.files_of(file):
            (copies / each.name).write_bytes(each.read_bytes())
    close(storage)
    for each in copies.iterdir():
        (file.parent / each.name).write_bytes(each.read_bytes())
    assert f"{file.name}-wal" in [each.name for each in copies.iterdir()]
    restoration = put_back(storage, folder)
    assert restoration.decisions.problem is None
    assert [each.subject for each in restoration.decisions.decisions] == ["VOLUSON1 at 10.1.0.0/16"]
    old = Path(str(restoration.old_database))
    for name in (file.name, f"{file.name}-wal"):
        assert (old / name).read_bytes() == (copies / name).read_bytes()


def test_the_command_prints_decisions_as_lines_and_as_json(sqlite_storage: Storage) -> None:
    storage = sqlite_storage
    folder = storage.spool.root.parent
    config = folder / "qc.toml"
    config.write_text('[store]\nurl = "sqlite:///qc.db"\nspool = "spool"\n')
    storage.receive(ultrasound())
    source = backup(storage)
    peers.add_peer(storage.settings, "VOLUSON1", "10.1.0.0/16", None, clock)
    later = storage.receive(ultrasound())
    with storage.store.read() as session:
        ids = [each.id for each in jobs.listing(session) if each.revision_id == later.revision_id]
    queue.cancel_jobs(storage.settings, ids, clock)
    close(storage)
    arguments = ["db", "restore", str(source), "--config", str(config)]
    text = CliRunner().invoke(app, arguments)
    assert text.exit_code == 0, text.output
    sentence = "decisions that people made after 2026-11-29T01:02:03+00:00 are not in the restored"
    assert sentence in text.output
    assert "1 peer approved\n  qc-daemon peer add --address 10.1.0.0/16 VOLUSON1" in text.output
    assert f"score of object {later.sop_instance_uid}, revision 1 *" in text.output
    (line,) = (each for each in text.output.splitlines() if "whole list of decisions" in each)
    file = Path(line.removeprefix("the whole list of decisions is in ").partition(";")[0])
    assert file.parent.name.startswith("before_restore_")
    assert (file.parent / "qc.db").is_file()
    assert file.stat().st_mode & 0o077 == 0
    # The database is now as the backup has it, so a second restore has nothing to compare.
    record = CliRunner().invoke(app, [*arguments, "--format", "json"])
    assert record.exit_code == 0, record.output
    document = json.loads(record.stdout)
    assert (document["decisions"], document["decisions_problem"]) == ([], None)
    assert Path(document["decisions_file"]).parent != file.parent
    written = json.loads(file.read_text())
    assert written["decisions_problem"] is None
    assert {each["kind"] for each in written["decisions"]} == {"peer approved", "job cancelled"}
    assert [each["sha256"] for each in document["later"]] == [later.sha256]
    peers.add_peer(storage.settings, "VOLUSON2", "10.1.0.0/16", None, clock)
    document = json.loads(CliRunner().invoke(app, [*arguments, "--format", "json"]).stdout)
    assert document["decisions"] == [
        {
            "kind": "peer approved",
            "subject": "VOLUSON2 at 10.1.0.0/16",
            "at": "2026-11-29T02:02:03+00:00",
            "command": "qc-daemon peer add --address 10.1.0.0/16 VOLUSON2",
            "needs_object": False,
        }
    ]
    for output in (text.output, record.output):
        assert CANARY not in output
        assert CANARY_ID not in output


def test_a_list_that_cannot_be_written_fails_no_restore(
    sqlite_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = sqlite_storage
    folder = backup(storage)
    peers.add_peer(storage.settings, "VOLUSON1", "10.1.0.0/16", None, clock)
    close(storage)

    def full(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(private_files, "write", full)
    result = restore_all(storage.settings, folder, release=False)
    assert result.restoration.decisions_file is None
    text = "\n".join(describe_restore(result))
    assert "qc-daemon peer add --address 10.1.0.0/16 VOLUSON1" in text
    assert "the list of decisions could not be written to a file; keep these lines" in text
