"""Sites in the service: fitted from what is stored, activated, retired, waived, and promises."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from scipy.special import expit
from sqlalchemy import func, select
from typer.testing import CliRunner

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import QCError
from model.bundle.bundle import read_model_id
from model.site.names import site_of
from model.site.promise import Tolerance
from model.site.record import SiteRecord
from model.site.site_map import SiteMap
from model.site.use import SiteUse
from qc_daemon.cli.app import app
from qc_daemon.dicom.acquisition import Acquisition
from qc_daemon.operations import sites as operations
from qc_daemon.operations.bundles import seed_bundle
from qc_daemon.operations.doctor import examine
from qc_daemon.operations.site_files import Choice
from qc_daemon.records.acquisition import acquisitions, identities
from qc_daemon.records.queue.jobs import finish
from qc_daemon.records.results import findings, reviews, sites
from qc_daemon.records.store import Store
from qc_daemon.records.tables import AcquisitionRow, IdentityKind, JobKind, SiteAction
from qc_daemon.review.events import Draw, Event, EventKind
from qc_daemon.settings import load
from tests.support.databases import migrate
from tests.support.records import START, Records
from tests.support.sites import log_odds_of_site

MODEL = read_model_id("default")
runner = CliRunner()


class Service:
    """A store with scored images of hospitals, and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "qc.toml"
        self.config.write_text("")
        self.settings = load(self.config)
        self.settings.store.spool.mkdir(parents=True)
        migrate(self.settings.store.url)
        self.store = Store(self.settings.store.url)
        seed_bundle(self.settings, self.store)
        self.records = Records(self.store)

    def score(
        self,
        institution: str,
        pictures: int,
        *,
        shift: float = 3.0,
        seed: int = 0,
        serial: str | None = None,
    ) -> None:
        """Images of one exam each, as a hospital's scanner shows them."""
        s, self.labels = log_odds_of_site(np.random.default_rng(seed), pictures, shift=shift)
        for i, log_odds in enumerate(s):
            admission = self.records.image(study_instance_uid=f"1.2.9.{seed}.{i}")
            while (job := self.records.claim(JobKind.SCORE)) is not None:
                assert job.revision_id is not None
                body = self.records.finding(
                    model_id=MODEL,
                    sop_instance_uid=job.subject,
                    quality={
                        "label": "review",
                        "probability": float(expit(log_odds)),
                        "raw_probability": 0.5,
                    },
                )
                with self.store.begin() as session:
                    acquisition = Acquisition(institution=institution, serial_number=serial)
                    acquisitions.store(
                        session, admission.revision_id, acquisition, "VOLUSON", START
                    )
                    findings.store(session, admission.revision_id, [body], START)
                    assert finish(session, job, self.records.now)

    def review(self, verdicts: dict[int, str], draw: Draw | None = None) -> None:
        """A first reading of these findings, which settles them."""
        with self.store.begin() as session:
            for finding_id, verdict in verdicts.items():
                event = Event(
                    number=1,
                    kind=EventKind.OVERRIDE,
                    reader="Dr Weber",
                    at=self.records.now,
                    revision=1,
                    model_id=MODEL,
                    view=View.NT,
                    verdict=verdict,
                    reason="other",
                    reader_number=1,
                    draw=draw,
                )
                assert reviews.append(session, finding_id, event)

    def review_all(self, start: int = 1) -> None:
        words = ("non-standard", "standard")
        self.review({start + i: words[int(y)] for i, y in enumerate(self.labels)})

    def run(self, *arguments: str) -> Result:
        return runner.invoke(app, ["site", *arguments, "--config", str(self.config)])

    def say(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.exception or result.output
        return result.stdout

    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.say("history", "--format", "json").splitlines()]

    def listed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.say("list", "--format", "json").splitlines()]

    def doctor(self) -> str:
        (line,) = [c for c in examine(self.settings) if c.name == "sites"]
        return f"{line.word}: {line.message}"

    def active(self, site: str) -> sites.ActiveSite:
        with self.store.read() as session:
            return sites.active(session, site_of(site), MODEL)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.store.close()


def test_from_proposal_to_retirement(service: Service) -> None:
    service.score("St. Mary's", 80)
    assert "not calibrated" in service.doctor()
    assert "St. Mary's" in service.doctor()
    assert "two classes of log odds" in service.say("fit", "--site", "ST MARY'S")
    (proposed,) = service.history()
    # As its first image writes it, whoever asks.
    assert proposed["site"] == "St. Mary's"
    assert (proposed["action"], proposed["kind"], proposed["findings"]) == (
        "proposed",
        "unlabelled",
        80,
    )
    assert service.active("St. Mary's").is_commissioning
    (row,) = service.listed()
    assert (row["site"], row["state"], row["images"]) == ("St. Mary's", "commissioning", 80)
    assert (row["proposed_at"], row["calibrations"]) == (proposed["decided_at"], [])
    shown = json.loads(service.say("show", proposed["calibration"], "--format", "json"))
    assert shown["id"] == proposed["calibration"]

    service.say("activate", proposed["calibration"], "--by", "Dr Weber")
    (record,) = service.active("St. Mary's").records
    assert record.id == proposed["calibration"]
    assert service.doctor().startswith("ok")
    (row,) = service.listed()
    assert (row["state"], row["calibrations"]) == ("calibrated", [record.id])
    assert (row["shift"], row["reviews"]) == (round(record.map.shift, 3), 0)
    assert row["proposed_at"] is None

    assert "St. Mary's" in service.say("retire", "ST MARY S", "--by", "Dr Weber")
    assert service.active("St. Mary's") == sites.ActiveSite()
    assert [each["action"] for each in service.history()] == ["proposed", "activated", "retired"]
    assert service.history()[1]["decided_by"] == "Dr Weber"

    service.say("waive", "St. Mary's", "--by", "Dr Weber")
    assert not service.active("St. Mary's").is_commissioning
    assert service.doctor().startswith("ok")
    assert [each["state"] for each in service.listed()] == ["waived"]


def test_reviews_are_what_it_is_fitted_to(service: Service) -> None:
    service.score("Here", 80)
    service.review_all()
    record = operations.fit_stored(service.settings, None, Choice(), Tolerance())
    assert (record.kind, record.reviews, record.exams) == ("reviewed", 80, 80)
    assert record.map.shift > 1


def test_each_site_is_its_own(service: Service) -> None:
    service.score("Here", 40, seed=1)
    service.score("There", 50, seed=2)
    refused(service.run("fit"), "2 sites")
    refused(service.run("fit", "--site", "nowhere"), "no findings of site nowhere")
    assert operations.propose_all(service.settings, service.store) == 2
    assert operations.propose_all(service.settings, service.store) == 0
    assert {each["site"] for each in service.history()} == {"Here", "There"}
    assert service.active("Here").is_commissioning


def test_a_named_site_is_that_of_all_images(service: Service) -> None:
    service.score("Here", 20, seed=1)
    service.score("There", 20, seed=2)
    service.settings.score.site = "Both"
    assert operations.propose_all(service.settings, service.store) == 1
    assert operations.commissioning_sites(service.settings, service.store) == ["Both"]


def test_auto_activates_what_is_calibrated(service: Service) -> None:
    service.score("Here", 80)
    service.score("Small", 10, seed=3)
    service.settings.score.site_calibration = "auto"
    assert operations.propose_all(service.settings, service.store) == 2
    assert service.active("Here").records
    assert service.active("Small").is_commissioning


def test_what_makes_its_own_figures_worse_is_not_proposed(service: Service, tmp_path: Path) -> None:
    """Twenty reviews of a hospital that the bundle is right at (seed 4 pulls it away)."""
    service.score("Here", 20, shift=0.0, seed=4)
    service.review_all()
    file = tmp_path / "site.json"
    said = service.say("fit", "--out", str(file))
    (line,) = (each for each in said.splitlines() if each.startswith("not proposed"))
    assert "worse than the bundle as it is" in line
    assert "calibration error" in line
    assert "log loss" in line
    assert service.say("show", str(file)).count("not proposed") == 1
    record = SiteRecord.from_json(json.loads(file.read_text()))
    assert record.before is not None
    assert record.after is not None
    assert service.history() == []
    service.settings.score.site_calibration = "auto"
    assert operations.propose_all(service.settings, service.store) == 0
    assert service.history() == []
    refused(
        service.run("activate", str(file), "--by", "Dr Weber"), "not activated", "--even-if-worse"
    )
    assert service.active("Here").is_commissioning
    service.say("activate", str(file), "--by", "Dr Weber", "--even-if-worse")
    assert [each.id for each in service.active("Here").records] == [record.id]


def test_a_decision_made_again_says_so_and_adds_nothing(service: Service) -> None:
    service.score("Here", 80)
    service.say("fit")
    (proposed,) = service.history()
    activate = ("activate", proposed["calibration"], "--by", "Dr Weber")
    assert "is active for new findings" in service.say(*activate)
    assert "is active already" in service.say(*activate)
    waive = ("waive", "Here", "--by", "Dr Weber")
    assert "no longer flagged" in service.say(*waive)
    assert "is waived already" in service.say(*waive)
    assert [each["action"] for each in service.history()] == ["proposed", "activated", "waived"]
    service.say("retire", "Here", "--by", "Dr Weber")
    refused(service.run("retire", "Here", "--by", "Dr Weber"), "nothing active")
    # Since it was taken back it counts anew.
    assert "is active for new findings" in service.say(*activate)
    assert "is active already" in service.say(*activate)


def test_a_calibration_of_a_device_is_not_activated_twice(service: Service) -> None:
    service.score("Here", 60, seed=1, serial="SN-1")
    service.score("Here", 60, seed=2, serial="SN-2")
    with service.store.read() as session:
        column = AcquisitionRow.device_id
        devices = list(session.scalars(select(column).group_by(column).order_by(column)))
    ids = []
    for device in devices:
        record = operations.fit_stored(service.settings, None, Choice(device=device), Tolerance())
        ids.append(record.id)
        assert "for new findings" in service.say("activate", record.id, "--by", "Dr Weber")
    # The other device's came later, and says nothing of this one.
    assert "active already" in service.say("activate", ids[0], "--by", "Dr Weber")
    with service.store.begin() as session:
        first, second = map(str, devices)
        identities.merge(session, IdentityKind.DEVICE, [first], second, "Dr Lee", START)
    # Of what is one device now the one activated last counts.
    assert "active already" in service.say("activate", ids[1], "--by", "Dr Weber")
    assert "for new findings" in service.say("activate", ids[0], "--by", "Dr Weber")
    assert service.active("Here").records[0].id == ids[0]


def test_a_broken_promise_is_said(service: Service) -> None:
    service.score("Here", 300, shift=0.0)
    service.review_all()
    record = operations.fit_stored(service.settings, None, Choice(), Tolerance())
    assert record.promise is not None
    assert record.promise.non_standard.is_promised
    operations.activate(service.settings, record.id, "Dr Weber", lambda: service.records.wait(60))
    assert operations.broken_promises(service.settings, service.store) == []
    service.records.wait(60)
    service.score("Here", 60, shift=9.0, seed=9)
    service.review(dict.fromkeys(range(301, 361), "standard"))
    (broken,) = operations.broken_promises(service.settings, service.store)
    assert broken.wrong > 10
    assert "promise broken" in service.doctor()
    # A waiver leaves the calibration active, and with it what is promised.
    service.say("waive", "Here", "--by", "Dr Weber")
    assert operations.broken_promises(service.settings, service.store) == [broken]
    service.say("retire", "Here", "--by", "Dr Weber")
    assert operations.broken_promises(service.settings, service.store) == []


def test_reviews_stand_for_as_many_findings_as_they_were_drawn_from(service: Service) -> None:
    """All wrong ones were read as they were in doubt, the right ones one in twenty."""
    service.score("Here", 300, shift=0.0)
    service.review_all()
    record = operations.fit_stored(service.settings, None, Choice(), Tolerance())
    operations.activate(service.settings, record.id, "Dr Weber", lambda: service.records.wait(60))
    service.records.wait(60)
    service.score("Here", 80, shift=9.0, seed=9)
    wrong, right = range(301, 317), range(317, 381)
    service.review(dict.fromkeys(wrong, "standard"), Draw(("left-to-person",), 1.0))
    service.review(dict.fromkeys(right, "non-standard"), Draw(("random",), 0.05))
    checks = dict(operations.check_promises(service.settings, service.store))
    check = checks["Here: non-standard"]
    assert check.called > 60
    assert check.wrong > 10
    assert check.is_consistent


def refused(result: Result, *words: str) -> None:
    assert isinstance(result.exception, UsageError), result.exception or result.output
    line = str(result.exception)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_wrong_use(service: Service, tmp_path: Path) -> None:
    refused(service.run("show", "abc"), "no calibration with this id")
    refused(service.run("activate", "abc", "--by", "Dr Weber"), "site history")
    refused(service.run("retire", "Here", "--by", "Dr Weber"), "nothing active")
    refused(service.run("waive", "Here", "--by", "7"), "--by")
    refused(service.run("fit"), "no stored findings")
    refused(service.run("fit", "--labels", str(service.config)), "--findings")
    service.score("Here", 5)
    service.say("fit")
    (small,) = service.history()
    refused(service.run("activate", small["calibration"], "--by", "Dr Weber"), "changes nothing")


def test_a_calibration_of_another_bundle_is_not_activated(service: Service, tmp_path: Path) -> None:
    service.score("Here", 80)
    record = operations.fit_stored(service.settings, None, Choice(), Tolerance())
    other = replace(record, bundle=replace(record.bundle, model_id="ab" * 32))
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other.to_json()))
    refused(service.run("activate", str(path), "--by", "Dr Weber"), "another bundle")


def test_a_merged_device_is_the_one_that_it_counts_for(service: Service) -> None:
    service.score("Here", 3, seed=1, serial="SN-1")
    service.score("Here", 4, seed=2, serial="SN-2")
    with service.store.begin() as session:
        column = AcquisitionRow.device_id
        first, second = session.scalars(select(column).group_by(column).order_by(func.count()))
        assert first is not None
        assert second is not None
        identities.merge(session, IdentityKind.DEVICE, [first], second, "Dr Lee", START)
    for device in (first, second):
        record = operations.fit_stored(service.settings, None, Choice(device=device), Tolerance())
        assert (record.findings, record.device) == (7, second)
    unknown = service.run("fit", "--device", "d000")
    assert isinstance(unknown.exception, QCError)
    assert "device list" in str(unknown.exception)


def test_a_calibration_of_a_device_outlives_its_merge(service: Service) -> None:
    """It was fitted before somebody said that two machines are one."""
    service.score("Here", 12, seed=1, serial="SN-1")
    service.score("Here", 12, seed=2, serial="SN-2")
    with service.store.read() as session:
        rows = session.execute(
            select(AcquisitionRow.revision_id, AcquisitionRow.device_id).order_by(
                AcquisitionRow.revision_id
            )
        ).all()
    first, (last, second) = rows[0].device_id, rows[-1]
    choice = Choice(device=first)
    small = operations.fit_stored(service.settings, None, choice, Tolerance())
    offsets = SiteMap(-1.0, 1.0, devices={str(first): 0.5})
    record = replace(small, kind="reviewed", map=offsets, by_view={View.NT: 12})

    def activate(record: SiteRecord) -> None:
        with service.store.begin() as session:
            sites.append(session, "Here", MODEL, SiteAction.ACTIVATED, START, record=record)

    def use() -> SiteUse:
        with service.store.read() as session:
            devices = sites.device_ids(session, last)
        return SiteUse("Here", service.active("Here").records, devices[0], aliases=devices[1:])

    activate(record)
    assert use().applied(View.NT) is None
    with service.store.begin() as session:
        identities.merge(session, IdentityKind.DEVICE, [str(first)], str(second), "Lead", START)
    applied = use().applied(View.NT)
    assert applied is not None
    assert applied.id == record.id
    # With the offset of the machine that it knew.
    assert use().probability(1.0, 0.5, View.NT) == pytest.approx(float(expit(1.0 - 1.0 + 0.5)))
    # What is fitted for the merged one later counts in its place.
    later = replace(record, device=str(second), findings=24)
    activate(later)
    assert use().applied(View.NT) == later
    activate(record)
    assert use().applied(View.NT) == record


def test_a_waiver_for_a_site_without_images_is_a_slip(service: Service) -> None:
    service.say("waive", "Here", "--by", "Dr Weber")
    service.score("St. Mary's", 1)
    refused(service.run("waive", "St. Marys", "--by", "Dr Weber"), "there are: St. Mary's")


def test_a_calibration_for_a_site_without_images_has_a_warning(
    service: Service, tmp_path: Path
) -> None:
    service.score("St. Mary's", 80)
    record = operations.fit_stored(service.settings, None, Choice(), Tolerance())
    for site, told in (("unnamed", True), ("ST. MARY'S", False)):
        path = tmp_path / "site.json"
        path.write_text(json.dumps(replace(record, site=site).to_json()))
        result = service.run("activate", str(path), "--by", "Dr Weber")
        assert result.exit_code == 0, result.output
        assert f"site {site}: calibration" in result.stdout
        said = result.stderr
        assert ("there are: St. Mary's" in said and "--site" in said) is told, said
        assert len(said.splitlines()) == int(told)
