"""`qc-daemon review`: what waits, what a person says, and that nothing is lost."""

import csv
import io
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from sqlalchemy import text
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from model.finding import QUALITY_LABELS, Finding
from qc_daemon.cli.app import app
from qc_daemon.dicom.acquisition import Acquisition, Operator
from qc_daemon.operations import review_files, review_lists, reviews
from qc_daemon.operations.doctor import examine
from qc_daemon.operations.reviews import Answer
from qc_daemon.operations.waiting import read_gauges
from qc_daemon.records.acquisition import acquisitions, identities
from qc_daemon.records.results import findings
from qc_daemon.records.results import reviews as review_records
from qc_daemon.records.results.bundles import activate
from qc_daemon.records.tables import IdentityKind, JobKind
from qc_daemon.report.source import SourceInstance
from qc_daemon.review.events import EventKind
from qc_daemon.review.state import current_state
from qc_daemon.settings import ReviewSettings, Settings, StoreSettings
from qc_daemon.settings.observe import AuditLogSettings
from tests.support.records import Records
from tests.support.report_objects import nuchal_finding, source_instance, ultrasound_header
from tests.support.scored_exam import ScoredExam

runner = CliRunner()
UIDS = [f"1.2.826.0.1.3680043.10.1.1.{number}" for number in (1, 2, 3)]


class Site:
    """A store with three images: non-standard, standard, left to a person; findings 1 to 3."""

    def __init__(self, folder: Path, **review: Any) -> None:
        self.exam = ScoredExam(folder, ["sr"])
        shares = {"first_share": 0.0, "share": 0.0, "risk_share": 0.0} | review
        self.exam.settings.review = ReviewSettings(**shares)
        self.config = folder / "qc.toml"
        self.config.write_text(
            f'[store]\nurl = "{self.exam.settings.store.url}"\nspool = "{folder}"\n'
            '[[destination]]\nname = "pacs"\nobjects = ["sr"]\n[review]\n'
            + "".join(f"{name} = {value}\n" for name, value in shares.items())
        )
        for uid, quality in zip(UIDS, ("non-standard", "standard", "review"), strict=True):
            self.exam.receive_image(ultrasound_header(SOPInstanceUID=uid), quality=quality)

    def run(self, *arguments: str) -> Result:
        return runner.invoke(app, ["review", *arguments, "--config", str(self.config)])

    def say(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.exception or result.output
        return result.stdout

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        lines = self.say(*arguments, "--format", "jsonl").splitlines()
        return [json.loads(line) for line in lines]

    def states(self) -> dict[int, str]:
        return {row["finding"]: row["state"] for row in self.rows("list", "--all")}

    def show(self, finding: int, *arguments: str) -> dict[str, Any]:
        (row,) = self.rows("show", str(finding), *arguments)
        return row

    def dump(self) -> list[tuple[Any, ...]]:
        """Every row of the review table."""
        with self.exam.store.read() as session:
            return [tuple(row) for row in session.execute(text("SELECT * FROM review ORDER BY id"))]

    def report(self) -> int:
        """Do the report jobs; how many SRs are stored."""
        while self.exam.report():
            pass
        return len(self.exam.jobs(JobKind.DELIVER))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.exam.store.close()


def refused(result: Result, *words: str, error: type[Exception] = QCError) -> str:
    """One clear line."""
    assert isinstance(result.exception, error), result.exception or result.output
    line = str(result.exception)
    assert "\n" not in line
    for word in words:
        assert word in line
    return line


def test_what_the_models_leave_to_a_person_waits(site: Site) -> None:
    assert [row["finding"] for row in site.rows("list")] == [3]
    assert site.rows("list")[0]["asked_by"] == ["left-to-person"]
    assert site.states() == {1: "automatic", 2: "automatic", 3: "waiting"}
    assert "left-to-person" in site.say("list")
    (row,) = csv.DictReader(io.StringIO(site.say("list", "--format", "csv", "--answers")))
    assert row["view"] == "NT"
    assert site.rows("list", "--state", "automatic", "--limit", "1")[0]["finding"] == 1


def test_a_person_accepts_and_overrides(site: Site) -> None:
    assert site.say("accept", "1", "--reader", "Dr Lee") == (
        "finding 1: accepted as NT, non-standard by Dr Lee\n"
    )
    said = site.say(
        *("override", "2", "--verdict", "non-standard", "--criterion", "nasal=not met"),
        *("--reason", "criterion", "--remark", "no nasal bone", "--reader", "Dr Lee"),
        *("--seconds", "12.5"),
    )
    assert said == "finding 2: overridden as NT, non-standard by Dr Lee\n"
    assert site.states() == {1: "accepted", 2: "overridden", 3: "waiting"}
    shown = site.show(2)
    assert (shown["verdict"], shown["outcome"]) == ("standard", "NT, non-standard")
    (event,) = shown["events"]
    assert (event["kind"], event["criteria"]) == ("override", ["CRIT-NASAL=not-met"])
    assert (event["reason"], event["remark"]) == ("criterion", "no nasal bone")
    assert "no nasal bone" in site.say("show", "2")
    refused(site.run("accept", "3", "--reader", "Dr Lee"), "review override")
    site.say("override", "3", "--verdict", "standard", "--reader", "Dr Lee")
    assert site.show(3)["events"][0]["reason"] == "left-to-person"


def test_results_have_what_the_person_said_beside_the_finding(site: Site) -> None:
    site.say("override", "2", "--verdict", "non-standard", *OVERRIDE)
    arguments = ["results", "--config", str(site.config), "--format"]
    lines = runner.invoke(app, [*arguments, "jsonl"]).stdout.splitlines()
    by_id = {each["finding_id"]: each for each in map(json.loads, lines)}
    review = by_id[2].pop("review")
    assert review["at"].endswith("+00:00")
    assert review | {"at": ""} == {
        "state": "overridden",
        "outcome": "non-standard",
        "view": "NT",
        "reader": "Dr Lee",
        "at": "",
    }
    # The models' finding is as it was.
    assert Finding.from_json(by_id[2]).judgement.quality == "standard"
    rows = list(csv.DictReader(io.StringIO(runner.invoke(app, [*arguments, "csv"]).stdout)))
    assert [row["review_verdict"] for row in rows] == ["", "non-standard", ""]
    assert "Dr Lee: non-standard" in runner.invoke(app, [*arguments, "table"]).stdout


EXPORT = ("export", "--whole")
OVERRIDE = ("--reason", "criterion", "--reader", "Dr Lee")


def test_wrong_words_are_named_with_what_is_right(site: Site) -> None:
    override = ("override", "2", "--verdict", "non-standard", "--reader", "Dr Lee")
    unknown = site.run(*override, "--reason", "mood")
    refused(unknown, "--reason mood", "not-measurable", error=UsageError)
    refused(site.run(*override), "needs a reason")
    refused(site.run(*override, "--reason", "other"), "remark")
    refused(site.run(*override[:2], "--view", "KNEE", *OVERRIDE), "KNEE", "HEAD", error=UsageError)
    wrong = site.run(*override[:2], "--verdict", "good", *OVERRIDE)
    refused(wrong, "standard or non-standard", error=UsageError)
    wrong = site.run(*override[:2], "--criterion", "SKULL=met", "--view", "NT", *OVERRIDE)
    refused(wrong, "CRIT-NASAL", error=UsageError)
    wrong = site.run(*override[:2], "--criterion", "NASAL=perhaps", *OVERRIDE)
    refused(wrong, "cannot-tell", error=UsageError)
    wrong = site.run("accept", "1", "--reader", "Lee=Ng")
    refused(wrong, "without", error=UsageError)
    refused(site.run("accept", "1", "--reader", "12"), "name", error=UsageError)
    wrong = site.run("remark", "1", "two\nlines", "--reader", "Dr Lee")
    refused(wrong, "one line", error=UsageError)
    refused(site.run("accept", "9", "--reader", "Dr Lee"), "no finding 9")
    refused(site.run("accept", "1", "--reader", "Dr Lee", "--seconds", "-1"), error=UsageError)
    wrong = site.run("list", "--state", "asleep")
    refused(wrong, "second-reading", error=UsageError)
    assert site.dump() == []


def test_an_override_that_says_what_the_models_say_is_an_acceptance(site: Site) -> None:
    same = ("override", "2", "--verdict", "standard", "--criterion", "GAIN=not-met", *OVERRIDE)
    refused(site.run(*same), "review accept")
    assert site.dump() == []
    # Taking an own override back is agreeing with the models.
    site.say("override", "2", "--verdict", "non-standard", *OVERRIDE)
    site.say("accept", "2", "--reader", "Dr Lee")
    assert (site.show(2)["state"], site.show(2)["outcome"]) == ("accepted", "NT, standard")


def test_an_override_twice_is_one(site: Site) -> None:
    override = ("override", "2", "--verdict", "non-standard", *OVERRIDE)
    site.say(*override)
    before = site.dump()
    refused(site.run(*override), "was read so already by Dr Lee")
    refused(site.run("accept", "2", "--reader", "Ng"), "was read already by Dr Lee", "dispute")
    assert site.dump() == before


def test_of_two_reviewers_at_once_one_is_told_to_look_again(site: Site) -> None:
    version = str(site.show(2)["version"])
    site.say("remark", "2", "look at the chin", "--reader", "Ng")
    line = refused(
        site.run("accept", "2", "--reader", "Dr Lee", "--version", version),
        "finding 2 has changed since it was shown",
    )
    assert "show it again" in line
    barrier, results = threading.Barrier(2), list[str]()

    def review(reader: str) -> None:
        barrier.wait()
        try:
            answer = Answer(reader, verdict="non-standard", reason="criterion", version=1)
            results.append(reviews.override(site.exam.settings, 2, answer))
        except QCError as error:
            results.append(error.message)

    threads = [threading.Thread(target=review, args=(name,)) for name in ("Lee", "Roth")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("overridden as" in line for line in results) == 1
    assert sum("has changed since" in line or "was read already" in line for line in results) == 1
    assert len(site.dump()) == 2


def test_a_finding_of_a_replaced_picture_names_the_one_that_stands(site: Site) -> None:
    header = ultrasound_header(SOPInstanceUID=UIDS[1], StudyDescription="again")
    site.exam.receive(header, nuchal_finding(SourceInstance.of(header, "")), pixels="other pixels")
    refused(site.run("accept", "2", "--reader", "Dr Lee"), "replaced", "review finding 4")
    site.say("accept", "4", "--reader", "Dr Lee")


def test_a_finding_of_a_replaced_picture_is_shown_with_what_was_said(site: Site) -> None:
    site.say("override", "2", "--verdict", "non-standard", *OVERRIDE)
    header = ultrasound_header(SOPInstanceUID=UIDS[1], StudyDescription="again")
    site.exam.receive(header, nuchal_finding(SourceInstance.of(header, "")), pixels="other pixels")
    shown = site.show(2)
    assert (shown["state"], shown["reader"], len(shown["events"])) == ("overridden", "Dr Lee", 1)
    assert "review finding 4 in its place" in shown["unreported"]
    assert shown["exam_id"] == site.show(4)["exam_id"]
    assert site.show(4)["unreported"] is None
    table = site.run("show", "2")
    assert table.exit_code == 0
    assert "Dr Lee" in table.stdout
    assert "later one under the same UID replaced" in table.stderr
    # Nobody reads it blinded any more, so that nothing is hidden but by --blinded.
    assert site.show(2)["answers_hidden"] is False
    assert site.show(2, "--blinded")["answers_hidden"] is True


def test_a_review_stays_with_a_finding_whose_picture_is_replaced_later(site: Site) -> None:
    site.say("override", "2", "--verdict", "non-standard", *OVERRIDE)
    before = site.dump()
    header = ultrasound_header(SOPInstanceUID=UIDS[1], StudyDescription="again")
    site.exam.receive(header, nuchal_finding(SourceInstance.of(header, "")), pixels="other pixels")
    assert site.dump() == before
    assert site.states() == {1: "automatic", 3: "waiting", 4: "automatic"}


def test_models_that_are_not_active_any_more_are_named(site: Site) -> None:
    with site.exam.store.begin() as session:
        activate(session, "next", "/bundles/next", "ff" * 32, site.exam.now)
    said = site.say("accept", "1", "--reader", "Dr Lee")
    assert "bundle default 0.1, which judged it, is not active any more" in said
    assert site.show(1)["is_bundle_active"] is False
    assert len(said.splitlines()) == 1


def test_a_finding_in_quarantine_is_not_reviewed(site: Site) -> None:
    with site.exam.store.begin() as session:
        session.execute(
            text(
                "UPDATE revision SET state = 'quarantined', reason_code = 'report-invalid',"
                " reason_message = 'header', reason_at = received_at WHERE id = 2"
            )
        )
    refused(site.run("accept", "2", "--reader", "Dr Lee"), "quarantine")
    assert "in quarantine" in site.show(2)["unreported"]
    assert 2 not in site.states()


def test_a_blinded_reader_does_not_get_the_answers(site: Site) -> None:
    site.say("override", "2", "--verdict", "non-standard", *OVERRIDE)
    said = site.say("dispute", "2", "--reason", "criterion", "--reader", "A. Berg")
    assert "waits for a blinded reading" in said
    for output in (
        site.run("show", "2").stdout,
        site.run("show", "2", "--format", "json").stdout,
        site.run("show", "2", "--format", "csv").stdout,
        site.run("list", "--format", "csv", "--state", "second-reading").stdout,
        site.run("list", "--state", "second-reading").stdout,
        site.run("accept", "2", "--reader", "Ng").stdout,
    ):
        assert "standard" not in output.replace("second-reading", "")
        assert "override" not in output
        assert "0.1234" not in output
    refused(site.run("accept", "2", "--reader", "Ng"), "review read")
    assert site.show(2)["answers_hidden"] is True
    assert site.run("show", "2").stderr.strip() == review_lists.HIDDEN
    assert site.run("show", "1").stderr == ""
    # Whoever wants to see them sees them, and cannot give the blinded reading any more.
    refused(site.run("show", "2", "--unblind"), "--reader", error=UsageError)
    assert site.show(2, "--unblind", "--reader", "Ng")["verdict"] == "standard"
    read = ("read", "2", "--view", "NT", "--verdict", "standard", "--reader")
    refused(site.run(*read, "Ng"), "was shown to Ng")
    refused(site.run(*read, "dr lee"), "another person")
    refused(site.run(*read, "A. Berg"), "disputed by A. Berg")
    said = site.say(*read, "Dr Roth")
    assert said == "finding 2: read as NT, standard by Dr Roth\n"
    shown = site.show(2)
    assert (shown["state"], shown["outcome"], shown["reader"]) == (
        "resolved",
        "NT, standard",
        "Dr Roth",
    )
    # Both readings are there.
    kinds = [(event["kind"], event["verdict"]) for event in shown["events"]]
    assert kinds == [
        ("override", "non-standard"),
        ("dispute", None),
        ("unblind", None),
        ("accept", "standard"),
    ]


def test_nobody_is_shown_the_answers_before_a_first_reading_without_asking(site: Site) -> None:
    """Who has seen them is no blinded reader, whoever the first one is."""
    site.say("remark", "1", "is this the same fetus?", "--reader", "A. Berg")
    for finding in (1, 3):
        row = site.show(finding)
        hidden = {row[name] for name in ("view", "verdict", "probability", "criteria", "flags")}
        assert (row["state"], row["answers_hidden"], hidden) == ("waiting", True, {None})
        assert site.run("show", str(finding)).stderr.strip() == review_lists.LEFT_OUT
    # A remark is for whoever reads it.
    assert "is this the same fetus?" in site.run("show", "1").stdout
    assert "is this the same fetus?" not in site.run("show", "1", "--blinded").stdout
    row = site.show(3, "--answers")
    assert (row["view"], row["verdict"], row["answers_hidden"]) == ("NT", "review", False)
    refused(site.run("show", "3", "--answers", "--blinded"), "without", error=UsageError)
    site.say("override", "3", "--verdict", "standard", "--reader", "Dr Lee")
    assert site.show(3)["outcome"] == "NT, standard"


def test_no_verdict_asked_for_tells_what_waits_for_a_blinded_reading(site: Site) -> None:
    site.say("dispute", "2", "--reason", "criterion", "--reader", "A. Berg")
    own = ["results", "--config", str(site.config), "--format", "table"]

    def listed(*options: str) -> tuple[bool, str]:
        result = runner.invoke(app, [*own, *options])
        assert result.exit_code == 0
        return UIDS[1] in result.stdout, result.stderr

    assert listed() == (True, "")
    lines = set[str]()
    for verdict in QUALITY_LABELS:
        is_there, line = listed("--verdict", verdict)
        assert not is_there
        lines.add(line)
    for view in ("NT", "HEAD"):
        is_there, line = listed("--view", view)
        assert not is_there
        lines.add(line)
    # Of a picture that is not like that, too.
    assert lines == {
        "left out: 1 finding that waits for a blinded reading, whatever the models say of it; see"
        " review list\n"
    }
    site.say("read", "2", "--view", "NT", "--verdict", "standard", "--reader", "Ng")
    assert listed("--verdict", "standard") == (True, "")


def scanned_by(site: Site, finding: int, *names: str) -> None:
    """The finding's picture was scanned by these."""
    operators = [Operator(name=name) for name in names]
    with site.exam.store.begin() as session:
        session.execute(text("DELETE FROM acquisition WHERE revision_id = :id"), {"id": finding})
        acquisitions.store(
            session,
            finding,
            Acquisition(operators=tuple(operators), station_name="ROOM 1"),
            "VOLUSON1",
            site.exam.now,
        )


def test_persons_merged_while_a_finding_is_reviewed_are_one_reader(site: Site) -> None:
    scanned_by(site, 2, "BERG^ANNA")
    scanned_by(site, 1, "Lee^Ann", "Lee^Anne")
    site.say(
        "override", "2", "--verdict", "non-standard", "--reason", "criterion", "--reader", "Ann Lee"
    )
    site.say("dispute", "2", "--reason", "criterion", "--reader", "A. Ng")
    before = site.dump()
    with site.exam.store.begin() as session:
        rows = session.execute(text("SELECT id, received_name FROM person")).all()
        ids = {row.received_name: row.id for row in rows}
        identities.merge(
            session, IdentityKind.PERSON, [ids["Lee^Anne"]], ids["Lee^Ann"], "Lead", site.exam.now
        )
    assert site.dump() == before
    read = ("read", "2", "--view", "NT", "--verdict", "standard", "--reader")
    refused(site.run(*read, "Anne Lee"), "seen by Ann Lee, who is Anne Lee")
    refused(site.run(*read, "Anna Berg"), "scanned")
    site.say(*read, "Dr Roth")


def test_a_new_person_or_device_is_a_risk(tmp_path: Path) -> None:
    site = Site(tmp_path, risk_share=1.0, new_after=2)
    scanned_by(site, 1, "BERG^ANNA")
    assert "blinded reading" in site.say("accept", "1", "--reader", "Dr Lee")
    rows = [json.loads(line) for line in site.say(*EXPORT, "--format", "jsonl").splitlines()]
    assert rows[0]["second_by"] == ["new-device", "new-person"]
    scanned_by(site, 2, "BERG^ANNA")
    assert "blinded reading" not in site.say("accept", "2", "--reader", "Dr Lee")
    # Who scores the own picture is read again, too.
    own = ("override", "3", "--verdict", "standard", "--reader", "Anna Berg")
    scanned_by(site, 3, "BERG^ANNA")
    assert "blinded reading" in site.say(*own)
    rows = [json.loads(line) for line in site.say(*EXPORT, "--format", "jsonl").splitlines()]
    assert rows[2]["second_by"] == ["own-picture"]
    site.exam.store.close()


def test_second_readings_are_drawn_and_differing_ones_resolved(tmp_path: Path) -> None:
    site = Site(tmp_path, share=1.0)
    said = site.say("accept", "1", "--reader", "Dr Lee")
    assert "it waits for a blinded reading by another person" in said
    assert [row["finding"] for row in site.rows("list")] == [1, 3]
    results = ["results", "--config", str(site.config), "--format"]
    body = json.loads(runner.invoke(app, [*results, "jsonl"]).stdout.splitlines()[0])
    assert body["review"] | {"at": ""} == {
        "state": "second-reading",
        "outcome": None,
        "view": None,
        "reader": "Dr Lee",
        "at": "",
    }
    assert "Dr Lee: " not in runner.invoke(app, [*results, "table"]).stdout
    said = site.say("read", "1", "--view", "NT", "--verdict", "standard", "--reader", "Ng")
    assert "the readings differ" in said
    refused(site.run("accept", "1", "--reader", "Roth"), "review resolve")
    site.say("resolve", "1", "--view", "NT", "--verdict", "standard", "--reader", "Dr Roth")
    assert site.show(1)["outcome"] == "NT, standard"
    with site.exam.store.read() as session:
        (row,) = review_records.reviewed_findings(session)
    assert (row.finding_id, row.first.reader, row.weight) == (1, "Dr Lee", None)
    site.exam.store.close()


def test_a_third_person_decides_between_readings_that_differ(tmp_path: Path) -> None:
    site = Site(tmp_path, share=1.0)
    scanned_by(site, 1, "BERG^ANNA")
    site.say("accept", "1", "--reader", "Dr Lee")
    site.say("read", "1", "--view", "NT", "--verdict", "standard", "--reader", "Ng")
    before = site.dump()
    resolve = ("resolve", "1", "--view", "NT", "--verdict", "standard", "--reader")
    for name in ("ng", "Lee, Dr"):
        refused(site.run(*resolve, name), "read", "another person", "readers_may_resolve")
    refused(site.run(*resolve, "Anna Berg"), "scanned", "readers_may_resolve")
    assert site.dump() == before
    # A lab of two says by its settings that a reader may.
    site.exam.settings.review.readers_may_resolve = True
    said = reviews.resolve(site.exam.settings, 1, Answer("Ng", "NT", "standard"))
    assert said.startswith("finding 1: resolved as NT, standard by Ng")
    assert [event["reader"] for event in site.show(1)["events"]] == ["Dr Lee", "Ng", "Ng"]
    site.exam.store.close()


def test_no_list_sheet_or_export_tells_a_later_blinded_reader_the_answers(tmp_path: Path) -> None:
    site = Site(tmp_path, share=1.0, first_share=1.0)

    def outputs() -> list[str]:
        results = ["results", "--config", str(site.config), "--format", "table"]
        return [
            *(site.say("list", "--format", form) for form in ("table", "csv", "jsonl")),
            site.say("export", "--sheet"),
            *(site.say("export", "--format", form) for form in ("csv", "jsonl")),
            runner.invoke(app, results).stdout,
        ]

    # Before the first reading nobody comes upon the models' answer without asking for it.
    assert all("0.12" not in output and "NT" not in output for output in outputs()[:4])
    assert review_lists.LEFT_OUT in site.run("list").stderr
    assert {row["verdict"] for row in site.rows("list", "--answers")} >= {"standard"}
    for finding, verdict in (("1", "standard"), ("2", "non-standard"), ("3", "standard")):
        site.say("override", finding, "--verdict", verdict, *OVERRIDE)
    for output in outputs():
        words = output.replace("second-reading", "").replace("non_standard", "")
        assert "standard" not in words
        assert "criterion" not in words
        assert "0.12" not in words
    assert "left out: 3 findings" in site.run("export").stderr
    rows = [json.loads(line) for line in site.say(*EXPORT, "--format", "jsonl").splitlines()]
    assert [row["verdict"] for row in rows] == ["standard", "non-standard", "standard"]
    wrong = (("list", "--answers", "--blinded"), ("export", "--answers"))
    for arguments in (*wrong, ("export", "--sheet", "--whole")):
        refused(site.run(*arguments), "goes with", error=UsageError)
    site.exam.store.close()


def test_a_share_of_sure_findings_waits_for_a_person(tmp_path: Path) -> None:
    site = Site(tmp_path, first_share=1.0)
    assert [row["asked_by"] for row in site.rows("list")] == [
        ["random"],
        ["random"],
        ["left-to-person"],
    ]
    site.say("accept", "1", "--reader", "Dr Lee")
    with site.exam.store.read() as session:
        (row,) = review_records.reviewed_findings(session)
    assert row.weight == 1.0
    site.exam.store.close()


def test_doctor_says_how_many_wait_for_whom_and_since_when(tmp_path: Path) -> None:
    site = Site(tmp_path, share=1.0)

    def checked() -> tuple[str, str]:
        (line,) = (each for each in examine(site.exam.settings) if each.name == "reviews")
        return line.word, line.message

    since = f"{site.exam.now:%Y-%m-%d}"
    assert checked() == (
        "warn",
        f"1 finding waits for a person, the longest since {since}: 1 for a first reading;"
        " see review list",
    )
    site.say("accept", "1", "--reader", "Dr Lee")
    site.say("accept", "2", "--reader", "Dr Lee")
    site.say("read", "2", "--view", "NT", "--verdict", "non-standard", "--reader", "Ng")
    word, message = checked()
    assert (word, message.partition(":")[2]) == (
        "warn",
        " 1 for a first reading, 1 for a blinded one by another person, 1 for a decision between"
        " two readings; see review list",
    )
    assert read_gauges(site.exam.settings, site.exam.store, lambda: True) == {
        "reviews_waiting": 1.0,
        "reviews_second_reading": 1.0,
        "reviews_disagreement": 1.0,
        "reviews_oldest": site.exam.now.timestamp(),
        "sites_calibrated": 0.0,
        "sites_waived": 0.0,
        "sites_commissioning": 0.0,
        "promises_broken": 0.0,
    }
    site.say("read", "1", "--view", "NT", "--verdict", "non-standard", "--reader", "Ng")
    site.say("resolve", "2", "--view", "NT", "--verdict", "standard", "--reader", "Roth")
    site.say("override", "3", "--verdict", "standard", *OVERRIDE)
    site.say("read", "3", "--view", "NT", "--verdict", "standard", "--reader", "Ng")
    assert checked() == ("ok", "no finding waits for a person")
    site.exam.store.close()


def test_a_remark_makes_a_finding_wait(site: Site) -> None:
    site.say("remark", "1", "is this the same fetus?", "--reader", "A. Berg")
    rows = {row["finding"]: row for row in site.rows("list")}
    assert rows[1]["asked_by"] == ["remark"]
    assert rows[1]["remarks"] == ["is this the same fetus?"]


def sheet_of(site: Site, *arguments: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(site.say("export", "--sheet", *arguments))))


def write_sheet(path: Path, rows: Sequence[dict[str, str]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_sheet_is_filled_in_and_taken_in(site: Site, tmp_path: Path, delimiter: str) -> None:
    site.say("remark", "1", "=look", "--reader", "Ng")
    rows = sheet_of(site, "--answers")
    assert [(row["finding"], row["model_verdict"]) for row in rows] == [
        ("1", "non-standard"),
        ("3", "review"),
    ]
    rows[0] |= {"action": "accept", "seconds": "3,5"}
    rows[1] |= {
        "action": "override",
        "verdict": "standard",
        "criteria": "NASAL=met; GAIN=cannot tell",
        "remark": "'=1+1",
        "reader": "Dr Roth",
    }
    path = write_sheet(tmp_path / "sheet.csv", rows, delimiter)
    assert site.say("import", str(path), "--reader", "Dr Lee") == "2 reviews are taken in\n"
    assert site.states() == {1: "accepted", 2: "automatic", 3: "overridden"}
    assert site.show(3)["events"][0]["criteria"] == ["CRIT-NASAL=met", "CRIT-GAIN=cannot-tell"]
    assert site.show(3)["events"][0]["remark"] == "=1+1"
    before = site.dump()
    said = site.say("import", str(path), "--reader", "Dr Lee")
    assert said == "2 already there\n0 reviews are taken in\n"
    assert site.dump() == before
    assert sheet_of(site) == []


def test_a_blinded_sheet_has_no_answers(site: Site) -> None:
    (row,) = sheet_of(site)
    assert (row["model_view"], row["model_verdict"], row["model_probability"]) == ("", "", "")
    site.say("override", "2", "--verdict", "non-standard", *OVERRIDE)
    site.say("dispute", "2", "--reason", "criterion", "--reader", "A. Berg")
    by_id = {row["finding"]: row for row in sheet_of(site, "--answers")}
    assert by_id["2"]["model_verdict"] == ""
    assert by_id["3"]["model_verdict"] == "review"


def test_a_wrong_row_keeps_the_whole_file_out_and_each_is_named(site: Site, tmp_path: Path) -> None:
    (row,) = sheet_of(site)
    good = row | {"action": "override", "verdict": "standard", "reader": "Dr Lee"}
    wrong = [
        row | {"action": "praise", "reader": "Dr Lee"},
        row | {"action": "override", "verdict": "good", "reader": "Dr Lee"},
        row | {"action": "override", "verdict": "standard"},
        row | {"sop_instance_uid": "1.2.3", "action": "accept", "reader": "Dr Lee"},
        row | {"action": "override", "verdict": "standard", "reader": "Ng", "reason": "mood"},
        row | {"action": "accept", "reader": "Dr Lee", "seconds": "long"},
        row
        | {"finding": "2", "sop_instance_uid": "", "action": "accept", "reader": "Dr Lee"}
        | {"verdict": "non-standard"},
    ]
    path = write_sheet(tmp_path / "sheet.csv", [good, *wrong])
    result = site.run("import", str(path))
    assert result.exit_code == 1
    problems = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert [line.split(":")[1].strip() for line in problems[:-1]] == [
        f"line {number}" for number in range(3, 10)
    ]
    assert "nothing of the file is taken in" in problems[-1]
    assert site.dump() == []


def test_a_sheet_amends_the_report_of_an_exam_once(site: Site, tmp_path: Path) -> None:
    site.exam.close()
    assert site.report() == 1
    rows = [
        {"finding": str(number), "action": "override", "verdict": verdict, "reason": "criterion"}
        for number, verdict in ((1, "standard"), (2, "non-standard"), (3, "standard"))
    ]
    path = write_sheet(tmp_path / "sheet.csv", rows)
    assert site.say("import", str(path), "--reader", "Dr Lee") == "3 reviews are taken in\n"
    assert len(site.exam.jobs(JobKind.REPORT)) == 2
    assert site.report() == 2
    history = tmp_path / "history.csv"
    history.write_text(site.say("export"))
    assert site.say("import", str(history)) == "3 already there\n0 reviews are taken in\n"
    assert len(site.exam.jobs(JobKind.REPORT)) == 2


def test_a_sheet_that_would_stop_others_for_long_is_to_be_divided(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_files, "_MOST_ACTIONS", 1)
    rows = [{"finding": str(number), "action": "accept"} for number in (1, 2)]
    path = write_sheet(tmp_path / "sheet.csv", [*rows, {"finding": "3", "action": ""}])
    wrong = site.run("import", str(path), "--reader", "Dr Lee")
    refused(wrong, "more than 1 rows", "divide it", error=UsageError)
    path = write_sheet(tmp_path / "sheet.csv", [rows[0], {"finding": "3", "action": ""}])
    assert "1 review is taken in" in site.say("import", str(path), "--reader", "Dr Lee")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name;verdict\n1;standard\n", "no column finding"),
        (b"finding,reader\n1,M\xfcller\n", "UTF-8"),
        (b'finding,reader\n1,"M\n', "no CSV"),
        (b'{"finding": 1}\nno json\n', "line 2"),
        (b"", "no column finding"),
        (b"finding\n1,2,3\n", "more cells"),
    ],
)
def test_what_is_no_file_of_reviews_is_refused(
    site: Site, tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "wrong.csv"
    path.write_bytes(content)
    refused(site.run("import", str(path)), words, error=UsageError)


def test_another_reason_amends_the_report_and_another_remark_does_not(site: Site) -> None:
    site.exam.close()
    site.say("override", "2", "--verdict", "non-standard", *OVERRIDE)
    assert site.report() == 1
    again = ("override", "2", "--verdict", "non-standard", "--reader", "Dr Lee")
    said = site.say(*again, "--reason", "criterion", "--remark", "no nasal bone")
    assert said.endswith("; the report stays as it is: remarks are in none\n")
    assert "remarks are in none" in site.say("remark", "2", "ask the lead", "--reader", "Ng")
    assert site.report() == 1
    said = site.say(*again, "--reason", "image-quality")
    assert "an amended report is queued" in said
    assert "remarks" not in said
    assert site.report() == 2


def test_an_override_amends_the_report_once(site: Site) -> None:
    site.exam.close()
    assert site.report() == 1
    site.say("accept", "1", "--reader", "Dr Lee")
    assert site.report() == 1
    said = site.say("override", "2", "--verdict", "non-standard", *OVERRIDE)
    assert "an amended report is queued" in said
    # What comes before the job begins is in the same report.
    site.say("override", "3", "--verdict", "standard", *OVERRIDE)
    assert site.report() == 2
    first, second = (dcmread(BytesIO(each.payload or b"")) for each in site.exam.sent())
    predecessor = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert predecessor.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    site.exam.close_again()
    assert site.report() == 2


texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12
) | st.sampled_from(["=1+1", "'=1", "''x", "'tis so", "+5", "-1e3", "＝a", "a; b, c", '"q"', "@x"])
step = st.fixed_dictionaries(
    {
        "finding": st.integers(1, 3),
        "kind": st.sampled_from([*EventKind, None]),
        "reader": st.sampled_from(["Dr Lee", "Ng Wei", "A. Berg", "Müller, Änne"]),
        "view": st.sampled_from([None, "NT", "CRL", "OTHER"]),
        "verdict": st.sampled_from([None, "standard", "non-standard"]),
        "criteria": st.sampled_from([(), ("GAIN=met",), ("SHADOW=not-met", "GAIN=cannot-tell")]),
        "reason": st.sampled_from([None, "criterion", "other"]),
        "remark": st.none() | texts,
        "seconds": st.none() | st.floats(0, 1000),
    }
)


@pytest.fixture(scope="module")
def two_sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Site]]:
    sites = [
        Site(tmp_path_factory.mktemp("site"), share=share, first_share=0.5) for share in (0.5, 0.0)
    ]
    yield sites[0], sites[1]
    for each in sites:
        each.exam.store.close()


def clear(site: Site) -> None:
    """The test's own way around the triggers: the table as it was made."""
    with site.exam.store.begin() as session:
        trigger = session.execute(
            text("SELECT sql FROM sqlite_master WHERE name = 'review_no_delete'")
        ).scalar_one()
        session.execute(text("DROP TRIGGER review_no_delete"))
        session.execute(text("DELETE FROM review"))
        session.execute(text(trigger))


histories = given(steps=st.lists(step, max_size=8))
on_one_database = [HealthCheck.function_scoped_fixture]


@settings(max_examples=20, suppress_health_check=on_one_database)
@histories
def test_histories_are_never_rewritten_and_come_back_from_their_export(
    two_sites: tuple[Site, Site], tmp_path: Path, steps: list[dict[str, Any]]
) -> None:
    check_history(two_sites, tmp_path, steps)


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=on_one_database)
@histories
def test_many_histories_are_never_rewritten(
    two_sites: tuple[Site, Site], tmp_path: Path, steps: list[dict[str, Any]]
) -> None:
    check_history(two_sites, tmp_path, steps)


def check_history(
    two_sites: tuple[Site, Site], tmp_path: Path, steps: list[dict[str, Any]]
) -> None:
    """A reviewer after the other on one store; its export into an empty one."""
    site, other = two_sites
    clear(site)
    clear(other)
    own = site.exam.settings
    before = site.dump()
    for number, each in enumerate(steps):
        answer = Answer(
            **{name: each[name] for name in ("reader", "view", "verdict", "criteria", "reason")},
            remark=each["remark"],
            seconds=each["seconds"],
        )
        try:
            with site.exam.store.begin() as session:
                moment = site.exam.now + timedelta(seconds=number)
                reviews.record(session, own, each["finding"], each["kind"], answer, moment)
        except (QCError, UsageError):
            assert site.dump() == before
        after = site.dump()
        assert after[: len(before)] == before
        before = after
    with site.exam.store.read() as session:
        stored = review_records.histories(session, [1, 2, 3])
        for finding_id in (1, 2, 3):
            finding = reviews.require_finding(session, finding_id)
            state = reviews.state_of(session, own, finding)
            events = stored.get(finding_id, ())
            assert [event.number for event in events] == list(range(1, len(events) + 1))
            assert replace(state, status=current_state(events).status) == current_state(events)
    for is_csv in (True, False):
        clear(other)
        path = tmp_path / "history"
        rows = list(review_files.History(own, as_text=is_csv, is_whole=True))
        path.write_text(as_csv(rows) if is_csv else "\n".join(map(json.dumps, rows)), "utf-8")
        if not rows:
            continue
        outcome, there = review_files.import_reviews(other.exam.settings, path)
        assert (outcome.problems, outcome.count, there) == ((), len(rows), 0)
        with other.exam.store.read() as session:
            assert review_records.histories(session, [1, 2, 3]) == stored
        outcome, there = review_files.import_reviews(other.exam.settings, path)
        assert (outcome.count, there) == (0, len(rows))


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """As the command writes it."""
    from qc_daemon.cli.output import csv_cell

    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(review_files.HISTORY_COLUMNS)
    writer.writerows([csv_cell(row[name]) for name in review_files.HISTORY_COLUMNS] for row in rows)
    return out.getvalue()


def test_a_history_that_does_not_fit_is_kept_out(site: Site, tmp_path: Path) -> None:
    site.say("override", "2", "--verdict", "non-standard", *OVERRIDE)
    rows = [json.loads(line) for line in site.say("export", "--format", "jsonl").splitlines()]
    (row,) = rows
    for change, words in (
        ({"verdict": "standard"}, "another event 1"),
        ({"number": 3}, "no event 2 before"),
        ({"number": 2, "at": "2999-01-01T00:00:00+00:00"}, "future"),
        ({"number": 2, "kind": "praise"}, "give one of"),
        ({"number": 2}, "was read so already"),
        ({"at": "2026-01-01T00:00:00"}, "time zone"),
        ({"model_id": "x"}, "no finding of image"),
    ):
        path = tmp_path / "history.jsonl"
        path.write_text(json.dumps(row | change))
        result = site.run("import", str(path))
        assert result.exit_code == 1, change
        assert words in result.stderr, change
    assert len(site.dump()) == 1


def test_a_whole_review_on_both_databases(records: Records, tmp_path: Path) -> None:
    """Lists, readings, a dispute, both exports and the import, where rows are locked otherwise."""
    own = Settings(
        store=StoreSettings(url=records.store.url, spool=tmp_path),
        audit_log=AuditLogSettings(folder=tmp_path / "audit-log"),
    )
    own.review = ReviewSettings(first_share=1.0, share=1.0, new_after=0)
    admission = records.image()
    with records.store.begin() as session:
        body = nuchal_finding(source_instance()).to_json()
        findings.store(session, admission.revision_id, [body], records.now)
    (row,) = review_lists.list_reviews(own)
    finding = int(row["finding"])
    assert "blinded" in reviews.accept(own, finding, Answer("Dr Lee", seconds=1.5))
    assert review_lists.show_review(own, finding)["answers_hidden"] is True
    with pytest.raises(QCError, match="another"):
        reviews.read_blinded(own, finding, Answer("Lee Dr", "NT", "standard"))
    assert "differ" in reviews.read_blinded(own, finding, Answer("Ng", "NT", "standard"))
    reviews.resolve(own, finding, Answer("Dr Roth", "NT", "standard", ("GAIN=met",)))
    reviews.dispute(own, finding, Answer("A. Berg", reason="other", remark="'=which?"))
    (sheet,) = review_files.make_sheet(own, with_answers=True)
    assert (sheet["state"], sheet["model_verdict"]) == ("second-reading", None)
    assert list(review_files.History(own)) == []
    rows = list(review_files.History(own, as_text=True, is_whole=True))
    assert [each["kind"] for each in rows] == ["accept", "override", "resolve", "dispute"]
    path = tmp_path / "history.csv"
    path.write_text(as_csv(rows))
    outcome, there = review_files.import_reviews(own, path)
    assert (outcome.count, there, outcome.problems) == (0, 4, ())
    with records.store.read() as session:
        (reviewed,) = review_records.reviewed_findings(session, settled_only=False)
    assert (reviewed.weight, reviewed.state.status) == (1.0, "second-reading")


def test_a_file_that_holds_no_reviews_is_refused(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    for content in ("finding,verdict\n1,standard\n", '{"sop_instance_uid": "1.2", "frame": 1}\n'):
        path.write_text(content)
        refused(site.run("import", str(path)), "review export", error=UsageError)
    path.write_text("finding,action\n")
    assert site.say("import", str(path)) == "0 reviews are taken in\n"


def test_an_action_may_begin_with_a_capital_letter(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    path.write_text("finding,action,reader\n1,Accept,Dr Lee\n")
    assert site.say("import", str(path)) == "1 review is taken in\n"
    assert site.states()[1] == "accepted"
