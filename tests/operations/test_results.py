"""`qc-daemon results`: one value a column, the best frame of a cine, what stands now."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.cli.app import app
from qc_daemon.dicom.acquisition import Acquisition, Operator
from qc_daemon.operations.results import (
    ACQUISITION_COLUMNS,
    CSV_COLUMNS,
    FINDING_COLUMNS,
    SCORE_COLUMNS,
    TABLE_COLUMNS,
    finding_row,
    table_row,
)
from qc_daemon.records.acquisition import acquisitions, identities
from qc_daemon.records.acquisition.acquisitions import ACQUISITION_KEYS
from qc_daemon.records.queue import jobs
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.received.revisions import quarantine, quarantine_scored, record_pixels
from qc_daemon.records.results.findings import best_of
from qc_daemon.records.results.findings import store as store_findings
from qc_daemon.records.store import Store
from qc_daemon.records.tables import IdentityKind, JobKind
from qc_daemon.settings import load
from tests.support.databases import migrate
from tests.support.receipts import numbered_receipt

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
STILL, CINE, BROKEN = "1.9.1", "1.9.2", "1.9.3"
runner = CliRunner()


def finding(
    uid: str, frame: int = 1, view: str = "NT", probability: float | None = 0.9, revision: int = 1
) -> dict[str, Any]:
    return {
        "source": None,
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.1",
        "sop_instance_uid": uid,
        "revision": revision,
        "frame": frame,
        "region": {"index": 0, "bbox": [0.0, 0.0, 640.0, 480.0]},
        "bundle": {"name": "default", "version": "1.1", "model_id": "m"},
        "view": {"code": view, "probability": 0.8},
        "quality": {"label": "review", "probability": probability, "raw_probability": 0.5},
        "gates": {"image": 0.3, "text": 0.2, "spatial": 0.5},
        "detections": [],
        "description": "",
        "criteria": [
            {"code": "CRIT-GAIN", "met": False, "value": 0.1, "unit": "1", "evidence": []},
            {"code": "CRIT-SIZE", "met": True, "value": 0.9, "unit": "1", "evidence": []},
        ],
        "reasons": [
            {
                "kind": "criterion",
                "code": "CRIT-GAIN",
                "words": "gain too low: turn the overall gain up",
                "direction": "low",
            }
        ],
        "flags": ["low-resolution", "burned-in-text"],
        "created": "2026-03-04T05:06:07.890Z",
    }


class Site:
    """A database, and what the stages put into it."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "qc.toml"
        self.config.write_text("")
        self.url = load(self.config).store.url
        migrate(self.url)
        self.now = NOW
        self.serial = 0

    def session(self) -> Any:
        return Store(self.url).begin()

    def receive(self, session: Session, uid: str, patient: str = "P1") -> int:
        self.serial += 1
        receipt = numbered_receipt(
            self.serial,
            sop_instance_uid=uid,
            patient_id=patient,
            calling_ae="=US1",
            patient_name="Doe^Jane",
            accession_number="A1",
            study_date="20260304",
        )
        admission = admit(session, receipt, source_destinations=[], bundle_id="m", now=self.now)
        self.now += timedelta(days=1)
        return admission.revision_id

    def score(self, uid: str, findings: list[dict[str, Any]], pixels: str, **of: str) -> None:
        with self.session() as session:
            revision = self.receive(session, uid, **of)
            job = jobs.claim(session, [JobKind.SCORE], "w", self.now, 300)
            assert job is not None
            if record_pixels(session, revision, pixels, self.now) != "header":
                store_findings(session, revision, findings, self.now)
            jobs.finish(session, job, self.now)

    def results(self, *arguments: str) -> Result:
        result = runner.invoke(app, ["results", "--config", str(self.config), *arguments])
        assert result.exit_code == 0, result.exception
        return result

    def rows(self, *arguments: str) -> list[dict[str, str]]:
        rows = self.results("--format", "csv", *arguments).stdout
        return list(csv.DictReader(io.StringIO(rows)))

    def findings(self, *arguments: str) -> list[dict[str, Any]]:
        rows = self.results("--format", "jsonl", *arguments).stdout
        return [json.loads(line) for line in rows.splitlines()]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A still, a cine of three frames, and an object that cannot be scored."""
    site = Site(tmp_path)
    site.score(STILL, [finding(STILL)], "p1")
    cine = [
        finding(CINE, 1, "OTHER", None),
        finding(CINE, 5, "NT", 0.2),
        finding(CINE, 9, "NT", 0.7),
    ]
    site.score(CINE, cine, "p2")
    with site.session() as session:
        revision = site.receive(session, BROKEN)
        quarantine(session, revision, ErrorCode.TRUNCATED, "ends early", site.now)
    return site


def test_csv_has_one_value_a_column(site: Site) -> None:
    still, cine, broken = site.rows()
    assert still == {
        "exam_id": "1",
        "rejected": "false",
        "patient_id": "P1",
        "accession_number": "A1",
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.1",
        "sop_instance_uid": STILL,
        "revision": "1",
        "superseded": "false",
        "frame": "1",
        "frames_scored": "1",
        "best_frame": "true",
        "region": "0",
        "view": "NT",
        "view_probability": "0.8",
        "verdict": "review",
        "probability": "0.9",
        "raw_probability": "0.5",
        "bundle_probability": "",
        "site_calibration": "",
        "gate_image": "0.3",
        "gate_text": "0.2",
        "gate_spatial": "0.5",
        "not_met": "GAIN",
        "flags": "low-resolution; burned-in-text",
        "error_code": "",
        "error_message": "",
        "calling_ae": "'=US1",
        "received": "2026-03-04T05:06:07+00:00",
        "created": "2026-03-04T05:06:07.890Z",
        "bundle": "default",
        "bundle_version": "1.1",
        "model_id": "m",
        "reasons": "gain too low: turn the overall gain up",
        **dict.fromkeys(ACQUISITION_COLUMNS, ""),
        "acquisition": "pending",
        "finding_id": "1",
        "review_state": "waiting",
        "review_view": "",
        "review_verdict": "",
        "reviewed_by": "",
        "reviewed": "",
        "second_opinion": "",
        "second_opinion_probability": "",
        "view_classifier": "",
        "view_classifier_probability": "",
    }
    assert (cine["frame"], cine["frames_scored"]) == ("9", "3")
    assert (broken["verdict"], broken["error_code"]) == ("not scored", ErrorCode.TRUNCATED)
    assert broken["error_message"] == "ends early"


def test_findings_of_earlier_versions_have_an_empty_column_of_reasons() -> None:
    body = finding(STILL)
    assert finding_row(body)["reasons"] == ["gain too low: turn the overall gain up"]
    del body["reasons"]
    assert finding_row(body)["reasons"] == []
    assert table_row(finding_row(finding(STILL)))["reasons"] == ["gain too low"]
    assert table_row(finding_row(body))["reasons"] == []
    for columns in (FINDING_COLUMNS, SCORE_COLUMNS, TABLE_COLUMNS, CSV_COLUMNS):
        assert {"reasons", "not_met"} <= set(columns)


def test_all_frames_of_a_cine_with_the_option(site: Site) -> None:
    rows = [row for row in site.rows("--all-frames") if row["sop_instance_uid"] == CINE]
    assert [(row["frame"], row["best_frame"]) for row in rows] == [
        ("1", "false"),
        ("5", "false"),
        ("9", "true"),
    ]
    table = site.results("--all-frames").stdout
    positions = [table.index(f"│ {CINE}            │ {frame} ") for frame in (9, 5, 1)]
    assert positions == sorted(positions)


def test_json_is_the_finding_with_keys_beside_it(site: Site) -> None:
    still, *_, broken = site.findings()
    assert still | finding(STILL) == still
    beside = {
        "exam_id": 1,
        "calling_ae": "=US1",
        "received": "2026-03-04T05:06:07+00:00",
        "superseded": False,
        "best_frame": True,
        "rejected": False,
        "acquisition": {
            **dict.fromkeys(ACQUISITION_KEYS),
            "state": "pending",
            "person_ids": [],
        },
        "finding_id": 1,
        "review": {"state": "waiting", "outcome": None, "view": None, "reader": None, "at": None},
    }
    assert {key: still[key] for key in set(still) - set(finding(STILL))} == beside
    assert broken["error"]["code"] == ErrorCode.TRUNCATED
    assert [each["frame"] for each in site.findings() if "frame" in each] == [1, 1, 5, 9]
    assert len(site.findings("--best-frames")) == 3


def test_a_superseded_revision_counts_once(site: Site) -> None:
    site.score(STILL, [finding(STILL, view="CRL", revision=2)], "p3")
    assert [row["view"] for row in site.rows() if row["sop_instance_uid"] == STILL] == ["CRL"]
    rows = [row for row in site.rows("--all-revisions") if row["sop_instance_uid"] == STILL]
    assert [(row["revision"], row["superseded"]) for row in rows] == [
        ("1", "true"),
        ("2", "false"),
    ]
    of_object = [each for each in site.findings() if each["sop_instance_uid"] == STILL]
    assert [each["superseded"] for each in of_object] == [True, False]
    assert len(site.findings("--current", "--best-frames")) == 3


def test_an_error_that_a_later_content_fixed_is_superseded(site: Site) -> None:
    site.score(BROKEN, [finding(BROKEN, revision=2)], "p4")
    assert [row["verdict"] for row in site.rows() if row["sop_instance_uid"] == BROKEN] == [
        "review"
    ]


def test_an_object_scored_and_then_refused_has_its_verdict_and_the_reason_in_one_row(
    site: Site,
) -> None:
    reason = "no Series Instance UID"
    with site.session() as session:
        quarantine_scored(session, 2, ErrorCode.REPORT_INVALID, reason, site.now)
    of_object = [each for each in site.findings() if each["sop_instance_uid"] == CINE]
    assert [each["frame"] for each in of_object] == [1, 5, 9]
    quarantine_key = {"code": ErrorCode.REPORT_INVALID, "message": reason}
    assert [each["quarantine"] for each in of_object] == [quarantine_key] * 3
    assert not any("error" in each for each in of_object)
    rows = [row for row in site.rows() if row["sop_instance_uid"] == CINE]
    assert [(row["frame"], row["verdict"], row["error_message"]) for row in rows] == [
        ("9", "review", reason)
    ]
    # The broken object alone is not scored.
    assert site.results("--all-frames").stdout.count("not scored") == 1


def test_a_refused_content_gives_way_to_a_later_one_however_that_ended(site: Site) -> None:
    with site.session() as session:
        quarantine_scored(session, 1, ErrorCode.REPORT_INVALID, "no series", site.now)
        broken = site.receive(session, STILL)
        quarantine(session, broken, ErrorCode.TRUNCATED, "ends early", site.now)

    def of_still(*options: str) -> list[tuple[str, str]]:
        rows = [row for row in site.rows(*options) if row["sop_instance_uid"] == STILL]
        return [(row["verdict"], row["error_code"]) for row in rows]

    assert of_still() == [("not scored", ErrorCode.TRUNCATED)]
    assert of_still("--all-revisions") == [
        ("review", ErrorCode.REPORT_INVALID),
        ("not scored", ErrorCode.TRUNCATED),
    ]


def test_a_corrected_patient_id_counts_once_and_under_the_new_one(site: Site) -> None:
    site.score(STILL, [], "p1", patient="P2")
    rows = [row for row in site.rows() if row["sop_instance_uid"] == STILL]
    assert [(row["exam_id"], row["patient_id"]) for row in rows] == [("2", "P2")]
    assert len([each for each in site.findings() if each["sop_instance_uid"] == STILL]) == 1
    for exam, patient in (("1", "P1"), ("2", "P2")):
        for filters in (("--exam", exam), ("--patient", patient)):
            rows = [row for row in site.rows(*filters) if row["sop_instance_uid"] == STILL]
            assert [row["patient_id"] for row in rows] == [patient]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (("--study", "1.2.3"), 3),
        (("--exam", "1"), 3),
        (("--patient", "P1"), 3),
        (("--patient", "jane"), 3),
        (("--patient", "nobody"), 0),
        (("--since", "2026-03-05"), 2),
        (("--until", "2026-03-04"), 1),
        (("--since", "2026-03-05", "--until", "2026-03-05"), 1),
        (("--limit", "1"), 1),
    ],
)
def test_results_are_filtered(site: Site, filters: tuple[str, ...], count: int) -> None:
    assert len(site.rows(*filters)) == count
    assert len(site.findings(*filters, "--best-frames")) == count


DOE, ROE = Operator("Doe^Jane"), Operator("Roe^Richard")


@pytest.fixture
def acquired(site: Site) -> Site:
    """The still is Doe's and Roe's at St. Mary's, the cine Roe's elsewhere; the rest unknown."""
    with site.session() as session:
        for revision_id, facts in (
            (1, Acquisition((DOE, ROE), serial_number="7", institution="St. Mary's")),
            (2, Acquisition((ROE,), serial_number="8", institution="Elsewhere")),
            (3, None),
        ):
            acquisitions.store(session, revision_id, facts, "US1", site.now)
    return site


def ids(site: Site, kind: IdentityKind) -> dict[str | None, str]:
    with site.session() as session:
        every = identities.every(session, kind)
        return {
            each.row.received_name if kind == "person" else each.row.serial_number: each.row.id
            for each in every
        }


def uids(site: Site, *filters: str) -> list[str]:
    return [row["sop_instance_uid"] for row in site.rows(*filters)]


def test_results_are_filtered_by_who_made_them_where_and_with_what(acquired: Site) -> None:
    persons = ids(acquired, IdentityKind.PERSON)
    devices = ids(acquired, IdentityKind.DEVICE)
    doe, roe = persons["Doe^Jane"], persons["Roe^Richard"]
    assert uids(acquired, "--person", doe) == [STILL]
    assert uids(acquired, "--person", roe) == [STILL, CINE]
    assert uids(acquired, "--person", roe, "--device", devices["8"]) == [CINE]
    assert uids(acquired, "--site", "st. mary's") == [STILL]
    assert uids(acquired, "--site", "Unnamed") == [BROKEN]
    assert uids(acquired) == [STILL, CINE, BROKEN]
    still, cine, broken = acquired.rows()
    assert still["person_ids"] == "; ".join(sorted((doe, roe)))
    assert (cine["device_id"], cine["site"]) == (devices["8"], "Elsewhere")
    assert broken["acquisition"] == "unknown"


def test_persons_and_devices_are_filtered_by_name_too(acquired: Site) -> None:
    persons = ids(acquired, IdentityKind.PERSON)
    devices = ids(acquired, IdentityKind.DEVICE)
    with acquired.session() as session:
        identities.rename(session, IdentityKind.DEVICE, devices["8"], "Room 2", "Dr Lee", NOW)
        identities.rename(session, IdentityKind.PERSON, persons["Doe^Jane"], "Ann", "Dr Lee", NOW)
    assert uids(acquired, "--device", "room 2") == [CINE]
    assert uids(acquired, "--person", "Ann") == [STILL]
    for name in ("Richard Roe", "Roe^Richard", "roe, richard"):
        assert uids(acquired, "--person", name) == [STILL, CINE]
    with acquired.session() as session:
        identities.rename(session, IdentityKind.DEVICE, devices["7"], "Room 2", "Dr Lee", NOW)
    several = runner.invoke(app, ["results", "--config", str(acquired.config), "--device=Room 2"])
    assert isinstance(several.exception, UsageError)
    assert str(several.exception) == (
        "--device Room 2: several are called so; give one of " + ", ".join(sorted(devices.values()))
    )


def test_a_site_that_no_image_names_is_told_with_those_that_there_are(acquired: Site) -> None:
    result = runner.invoke(app, ["results", "--config", str(acquired.config), "--site=ST MARYS"])
    assert isinstance(result.exception, QCError)
    assert "there is no site ST MARYS; images are of: Elsewhere, St. Mary's, unnamed" in str(
        result.exception
    )


def test_a_merged_person_is_the_one_merged_into(acquired: Site) -> None:
    persons = ids(acquired, IdentityKind.PERSON)
    doe, roe = persons["Doe^Jane"], persons["Roe^Richard"]
    with acquired.session() as session:
        identities.merge(session, IdentityKind.PERSON, [roe], doe, "Dr Lee", NOW)
    for id in (doe, roe):
        assert uids(acquired, "--person", id) == [STILL, CINE]
    assert {row["person_ids"] for row in acquired.rows("--person", roe)} == {doe}


def test_results_are_filtered_by_view_and_verdict(site: Site) -> None:
    assert uids(site, "--view", "nt") == [STILL, CINE]
    assert uids(site, "--view", "OTHER") == []
    assert [row["frame"] for row in site.rows("--view", "OTHER", "--all-frames")] == ["1"]
    assert uids(site, "--view", "NT", "--view", "CRL", "--verdict", "review") == [STILL, CINE]
    assert uids(site, "--verdict", "standard") == []


@pytest.mark.parametrize(
    ("filters", "kind", "words"),
    [
        (("--person", "p0"), QCError, "there is no person p0; see person list"),
        (("--device", "d0"), QCError, "there is no device d0; see device list"),
        (("--site", "Elsewhere"), QCError, "there is no site Elsewhere; no image names one"),
        (("--view", "HAND"), UsageError, "--view HAND: give one of NT, CRL, HEAD, ABDOMEN, OTHER"),
        (
            ("--verdict", "good"),
            UsageError,
            "--verdict good: give one of standard, non-standard, review",
        ),
    ],
)
def test_a_filter_for_what_there_is_not_says_so(
    site: Site, filters: tuple[str, ...], kind: type[Exception], words: str
) -> None:
    result = runner.invoke(app, ["results", "--config", str(site.config), *filters])
    assert isinstance(result.exception, kind)
    assert words in str(result.exception)


def test_a_table_names_no_patient_and_says_how_many_rows_match(site: Site) -> None:
    rows = site.results("--exam", "1", "--limit", "1").stdout
    assert rows.startswith("exam 1: 3 objects")
    assert "the first 1 findings shown; --limit 0 shows all" in rows
    for private in ("P1", "Doe", "Jane", "A1 "):
        assert private not in rows
    for word in ("view probability", "verdict", "probability", "not met"):
        assert word in rows
    assert "shown" not in site.results("--limit", "3").stdout


def test_help_explains_gates_and_probability() -> None:
    for verb in ("results", "score"):
        rows = " ".join(runner.invoke(app, [verb, "--help"]).output.split())
        assert "they sum to 1" in rows


def test_of_a_cine_the_best_frame_of_each_assessed_view() -> None:
    frames = [
        finding(CINE, 1, "OTHER", None),
        finding(CINE, 2, "CRL", 0.1),
        finding(CINE, 3, "NT", 0.3),
        finding(CINE, 4, "NT", 0.6),
    ]
    assert best_of(frames) == {1, 3}
    assert best_of(frames[:1]) == {0}
    others = [finding(CINE, n, "OTHER", None) for n in (1, 2)]
    assert best_of(others) == {0}
    assert best_of([]) == set()
