"""Score jobs against a real database, spool, decoding child and the default bundle."""

import threading
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from sqlalchemy import delete

from detector.anatomy import View
from detector.errors import ErrorCode, QCError
from model.finding import BundleId
from model.site.calibrate import calibrate_site
from model.site.site_map import SiteMap
from qc_daemon.job_runner import JobRunner
from qc_daemon.observe import log
from qc_daemon.operations.bundles import activate_bundle, seed_bundle
from qc_daemon.operations.identities import merge, rename
from qc_daemon.operations.quarantine import list_quarantined, release_quarantined
from qc_daemon.operations.results import stored_findings
from qc_daemon.records.acquisition import identities
from qc_daemon.records.queue import jobs
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.records.results import image_features, sites
from qc_daemon.records.store import Store
from qc_daemon.records.tables import (
    AcquisitionOperator,
    AcquisitionRow,
    IdentityKind,
    JobKind,
    JobState,
    SiteAction,
)
from qc_daemon.score.acquisition_fill import fill_in_background
from qc_daemon.score.decode import DecodeProcess
from qc_daemon.score.worker import ScoreHandler
from qc_daemon.settings import Settings, load
from tests.support.databases import migrate
from tests.support.dicom_objects import CANARY_NUMBERS, WHO_AND_WHERE
from tests.support.job_runners import score_runner
from tests.support.receipts import RECEIPT, write_file
from tests.support.sites import log_odds_of_site, question, site_samples
from tests.support.waiting import eventually
from training.phantom.dicom import exam


@dataclass
class Scoring:
    """A runner of score jobs with the store and settings that it works on."""

    settings: Settings
    store: Store
    runner: JobRunner

    @property
    def handler(self) -> ScoreHandler:
        (handler,) = self.runner.handlers
        return cast(ScoreHandler, handler)

    def run_once(self) -> bool:
        return self.runner.run_once()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "qc.toml"
    config.write_text("[score]\ncine_frames = 2\n[jobs]\nbackoff_seconds = 0\n")
    settings = load(config)
    settings.store.spool.mkdir(parents=True)
    migrate(settings.store.url)
    return settings


@pytest.fixture
def scoring(settings: Settings) -> Iterator[Scoring]:
    store = Store(settings.store.url)
    seed_bundle(settings, store)
    with score_runner(store, settings) as runner:
        yield Scoring(settings, store, runner)


@pytest.fixture(scope="module")
def objects() -> list[Dataset]:
    return exam(3, views=[View.NT], cine_frames=4)


def receive(scoring: Scoring, dataset: Dataset | bytes, uid: str = "1.2.3") -> int:
    """Put the object where the receiver would; returns its revision's id."""
    if isinstance(dataset, Dataset):
        uid = str(dataset.SOPInstanceUID)
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        dataset = buffer.getvalue()
    path = write_file(dataset, scoring.settings.store.spool)
    receipt = replace(
        RECEIPT, sop_instance_uid=uid, sha256=path.stem, size=len(dataset), path=path.name
    )
    with scoring.store.begin() as session:
        return admit(
            session, receipt, source_destinations=(), bundle_id=None, now=datetime.now(UTC)
        ).revision_id


def test_a_still_gets_one_finding(scoring: Scoring, objects: list[Dataset]) -> None:
    receive(scoring, objects[0])
    assert scoring.run_once()
    assert not scoring.run_once()
    (finding,) = stored_findings(scoring.settings, None, None)
    assert finding["sop_instance_uid"] == objects[0].SOPInstanceUID
    assert finding["frame"] == 1
    assert finding["source"] is None
    assert len(finding["bundle"]["model_id"]) == 64


def test_a_finding_has_its_image_statistics_and_embedding(
    scoring: Scoring, objects: list[Dataset]
) -> None:
    receive(scoring, objects[0])
    assert scoring.run_once()
    with scoring.store.read() as session:
        (features,) = image_features.of_findings(session, {1}).values()
    region = stored_findings(scoring.settings, None, None)[0]["region"]["bbox"]
    assert features.statistics is not None
    assert features.statistics.width == pytest.approx(region[2] - region[0], abs=1)
    assert 0 < features.statistics.mean < 255
    assert features.embedding is not None
    embedding = np.frombuffer(features.embedding, "<f2").astype(float)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-2)


def test_a_cine_gets_a_finding_per_chosen_frame(scoring: Scoring, objects: list[Dataset]) -> None:
    receive(scoring, objects[-1])
    scoring.run_once()
    assert [f["frame"] for f in stored_findings(scoring.settings, None, None)] == [2, 4]


def test_a_cine_with_a_bad_frame_is_scored_without_it(
    scoring: Scoring, objects: list[Dataset]
) -> None:
    cine = Dataset.from_json(objects[-1].to_json())
    cine.file_meta = FileMetaDataset()
    cine.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    cine.compress(RLELossless)
    streams = list(generate_frames(cine.PixelData, number_of_frames=4))
    cine.PixelData = encapsulate([*streams[:1], bytes(512), *streams[2:]])
    receive(scoring, cine)
    scoring.run_once()
    stored = stored_findings(scoring.settings, None, None)
    assert [each["frame"] for each in stored] == [1, 4]
    for each in stored:
        assert "unreadable-frames" in each["flags"]
        assert [bad["frame"] for bad in each["unreadable_frames"]] == [2]


def test_the_same_pixels_in_another_syntax_are_not_scored_again(
    scoring: Scoring, objects: list[Dataset]
) -> None:
    receive(scoring, objects[0])
    changed = Dataset.from_json(objects[0].to_json())
    changed.file_meta = objects[0].file_meta
    changed.PatientName = "CORRECTED^NAME"
    changed.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    receive(scoring, changed)
    while scoring.run_once():
        pass
    (finding,) = stored_findings(scoring.settings, None, None)
    assert finding["revision"] == 1


def test_other_pixels_under_one_uid_are_flagged(scoring: Scoring, objects: list[Dataset]) -> None:
    receive(scoring, objects[0])
    changed = Dataset.from_json(objects[1].to_json())
    changed.file_meta = objects[1].file_meta
    changed.SOPInstanceUID = changed.file_meta.MediaStorageSOPInstanceUID = objects[
        0
    ].SOPInstanceUID
    receive(scoring, changed)
    while scoring.run_once():
        pass
    first, second = stored_findings(scoring.settings, None, None)
    assert (first["revision"], second["revision"]) == (1, 2)
    assert "same-uid-other-content" not in first["flags"]
    assert "same-uid-other-content" in second["flags"]


def test_an_object_without_an_image_is_quarantined_and_can_be_released(scoring: Scoring) -> None:
    revision = receive(scoring, b"this is no image at all")
    scoring.run_once()
    (quarantined,) = list_quarantined(scoring.settings)
    assert quarantined["id"] == revision
    assert quarantined["code"] == ErrorCode.NOT_AN_IMAGE
    assert release_quarantined(scoring.settings, [revision]).count == 1
    assert scoring.run_once()
    assert len(list_quarantined(scoring.settings)) == 1


def test_a_missing_spool_file_alarms_and_its_job_waits(
    scoring: Scoring, objects: list[Dataset]
) -> None:
    receive(scoring, objects[0])
    (file,) = scoring.settings.store.spool.iterdir()
    hidden = file.rename(file.with_suffix(".hidden"))
    scoring.run_once()
    with scoring.store.read() as session:
        (job,) = jobs.listing(session, kinds=[JobKind.SCORE])
    assert (job.state, job.error_code) == (JobState.READY, ErrorCode.SPOOL_MISSING)
    hidden.rename(file)
    assert scoring.run_once()
    assert len(stored_findings(scoring.settings, None, None)) == 1


@pytest.mark.parametrize("when", ["before", "after the check"])
def test_an_altered_file_is_not_scored(scoring: Scoring, objects: list[Dataset], when: str) -> None:
    receive(scoring, objects[0])
    (file,) = scoring.settings.store.spool.iterdir()
    received = file.read_bytes()

    def alter() -> None:
        file.write_bytes(received[:-3] + bytes([received[-3] ^ 1]) + received[-2:])

    find = scoring.handler.originals
    if when == "before":
        alter()
    else:

        def find_then_alter(facts: RevisionFacts) -> Path:
            path = find(facts)
            alter()
            return path

        scoring.handler.originals = find_then_alter
    scoring.run_once()
    with scoring.store.read() as session:
        (job,) = jobs.listing(session, kinds=[JobKind.SCORE])
    assert (job.state, job.error_code) == (JobState.READY, ErrorCode.SPOOL_DAMAGED)
    assert stored_findings(scoring.settings, None, None) == []
    scoring.handler.originals = find
    file.write_bytes(received)
    assert scoring.run_once()
    assert len(stored_findings(scoring.settings, None, None)) == 1


def test_an_original_that_was_fetched_back_is_scored_where_it_lies(
    scoring: Scoring, objects: list[Dataset]
) -> None:
    receive(scoring, objects[0])
    (file,) = scoring.settings.store.spool.iterdir()
    back = file.rename(file.with_suffix(".back"))
    scoring.handler.originals = lambda _facts: back
    assert scoring.run_once()
    assert len(stored_findings(scoring.settings, None, None)) == 1


def test_a_lease_that_another_took_over_stores_nothing(
    scoring: Scoring, objects: list[Dataset]
) -> None:
    """Between claim and finish the lease runs out and somebody else claims the job."""
    receive(scoring, objects[0])

    def usurp() -> None:
        with scoring.store.begin() as session:
            later = datetime.now(UTC) + timedelta(hours=1)
            assert jobs.claim(session, [JobKind.SCORE], "work:other", later, 60) is not None

    judge = scoring.handler.models.judge(None)
    judged = judge.judge

    def judge_and_lose(frame, site=None):  # type: ignore[no-untyped-def]
        usurp()
        return judged(frame)

    judge.judge = judge_and_lose  # type: ignore[method-assign]
    scoring.run_once()
    assert stored_findings(scoring.settings, None, None) == []
    with scoring.store.read() as session:
        (job,) = jobs.listing(session, kinds=[JobKind.SCORE])
    assert job.owner == "work:other"


def test_a_device_that_fails_ends_the_worker_and_costs_the_job_nothing(
    scoring: Scoring, objects: list[Dataset]
) -> None:
    receive(scoring, objects[0])

    def judge(_frame: object, _site: object = None) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    scoring.handler.models.judge(None).judge = judge  # type: ignore[method-assign, assignment]
    with pytest.raises(QCError, match="the device failed: CUDA out of memory"):
        scoring.run_once()
    with scoring.store.read() as session:
        (job,) = jobs.listing(session, kinds=[JobKind.SCORE])
    assert (job.state, job.error_code) == (JobState.READY, ErrorCode.DEVICE_UNAVAILABLE)
    assert (job.attempts, job.deaths, job.alarms) == (0, 0, 1)


def test_a_picture_too_large_for_memory_costs_it_attempts_and_no_other(
    scoring: Scoring, objects: list[Dataset]
) -> None:
    scoring.settings.jobs.max_attempts = 1
    receive(scoring, objects[0])
    judge = scoring.handler.models.judge(None)
    judged = judge.judge

    def judge_nothing(_frame: object, _site: object = None) -> None:
        raise MemoryError

    judge.judge = judge_nothing  # type: ignore[method-assign, assignment]
    assert scoring.run_once()
    with scoring.store.read() as session:
        (job,) = jobs.listing(session, kinds=[JobKind.SCORE])
    assert (job.state, job.error_code) == (JobState.DEAD, ErrorCode.INTERNAL)
    judge.judge = judged  # type: ignore[method-assign]
    receive(scoring, objects[1])
    assert scoring.run_once()
    assert stored_findings(scoring.settings, None, None)


def test_scoring_longer_than_its_lease_stays_with_its_worker(
    scoring: Scoring, objects: list[Dataset]
) -> None:
    """Even one single frame may take longer, and decoding tells nothing between."""
    scoring.settings.jobs.lease_seconds = 0.3
    now = datetime.now(UTC) + timedelta(minutes=1)
    scoring.runner.clock = lambda: now
    receive(scoring, objects[0])
    judge = scoring.handler.models.judge(None)
    judged = judge.judge

    def judge_slowly(frame, site=None):  # type: ignore[no-untyped-def]
        nonlocal now
        for _ in range(4):
            now += timedelta(seconds=0.25)
            end = now + timedelta(seconds=0.3)
            eventually(lambda end=end: score_job().lease_until == end)
            with scoring.store.begin() as session:
                assert jobs.claim(session, [JobKind.SCORE], "work:other", now, 0.3) is None
        return judged(frame)

    def score_job() -> jobs.Job:
        with scoring.store.read() as session:
            (job,) = jobs.listing(session, kinds=[JobKind.SCORE])
        return job

    judge.judge = judge_slowly  # type: ignore[method-assign]
    assert scoring.run_once()
    assert (score_job().state, score_job().deaths) == (JobState.DONE, 0)
    assert len(stored_findings(scoring.settings, None, None)) == 1


def test_an_exam_keeps_the_bundle_it_was_opened_with(scoring: Scoring, tmp_path: Path) -> None:
    """A bundle whose manifest changed since it was activated is refused, not silently used."""
    import shutil

    from detector.errors import QCError
    from qc_daemon.operations.bundles import bundle_folder

    copy = tmp_path / "mine"
    shutil.copytree(bundle_folder("default"), copy)
    manifest = copy / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format":  1'))
    model_id = activate_bundle(scoring.settings, str(copy))
    assert scoring.handler.models.judge(model_id).bundle_id.model_id == model_id
    scoring.handler.models._judges.clear()
    manifest.write_text(manifest.read_text().replace('"format":  1', '"format":   1'))
    with pytest.raises(QCError, match="has changed"):
        scoring.handler.models.judge(model_id)


def test_a_scored_image_has_the_facts_of_its_header_and_no_log_has_one(
    scoring: Scoring,
    objects: list[Dataset],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    image = Dataset.from_json(objects[0].to_json())
    image.file_meta = objects[0].file_meta
    for keyword, value in WHO_AND_WHERE.items():
        setattr(image, keyword, value)
    image.AcquisitionDateTime = "20261129081500"
    log.configure("debug", stream := StringIO())
    caplog.set_level("DEBUG")
    revision_id = receive(scoring, image)
    scoring.run_once()
    with scoring.store.begin() as session:
        row = session.get_one(AcquisitionRow, revision_id)
        persons = identities.every(session, IdentityKind.PERSON)
        (device,) = identities.every(session, IdentityKind.DEVICE)
        assert (row.state, row.institution, row.acquired) == (
            "read",
            "CANARY HOSPITAL",
            "2026-11-29T08:15:00",
        )
        assert (row.patient_size_m, row.patient_weight_kg) == tuple(map(float, CANARY_NUMBERS))
        assert row.device_id == device.row.id
        assert {each.row.received_name: each.images for each in persons} == {
            "CANARY^OPERATOR": 1,
            "CANARY^SECOND": 1,
        }
        # As an older version left it, and to be read again.
        session.execute(delete(AcquisitionOperator))
        session.execute(delete(AcquisitionRow))
    spool = scoring.settings.store.spool
    fill_in_background(scoring.store, spool, DecodeProcess, threading.Event())
    one, other = (each.row.id for each in persons)
    merge(scoring.settings, IdentityKind.PERSON, [one], other, "CANARY Lead")
    rename(scoring.settings, IdentityKind.PERSON, other, "CANARY Two", "CANARY Lead")
    text = "".join((stream.getvalue(), caplog.text, *capfd.readouterr()))
    assert '"scored"' in text
    assert '"acquisitions read"' in text
    assert not any(canary in text for canary in ("CANARY", *CANARY_NUMBERS))


def test_a_site_in_commissioning_is_flagged_until_it_is_calibrated_or_waived(
    scoring: Scoring, objects: list[Dataset]
) -> None:
    """Three objects of one hospital: before anything, calibrated, and after it is retired."""
    receive(scoring, objects[0])
    assert scoring.run_once()
    (before,) = scored(scoring)
    assert before["site"]["kind"] == "none"
    assert "not-commissioned" in before["flags"]
    record = replace(
        calibrate_site(
            site_samples(*log_odds_of_site(np.random.default_rng(0), 150)),
            question(site=before["site"]["id"], bundle=BundleId(**before["bundle"])),
        ),
        map=SiteMap(-2.0, 1.0),
    )
    again = rescore(scoring, objects[0], "1.2.77")
    assert again["quality"] == before["quality"]
    with scoring.store.begin() as session:
        sites.append(
            session,
            before["site"]["id"],
            record.bundle.model_id,
            SiteAction.ACTIVATED,
            datetime.now(UTC),
            record=record,
            decided_by="Dr Weber",
        )
    calibrated = rescore(scoring, objects[0], "1.2.78")
    assert calibrated["site"]["calibration"] == record.id
    assert calibrated["site"]["bundle_probability"] == before["quality"]["probability"]
    assert calibrated["quality"]["probability"] < before["quality"]["probability"]
    assert calibrated["quality"]["raw_probability"] == before["quality"]["raw_probability"]
    assert "not-commissioned" not in calibrated["flags"]
    scoring.settings.score.site_calibration = "off"
    off = rescore(scoring, objects[0], "1.2.79")
    assert "site" not in off
    assert off["quality"] == before["quality"]


def scored(scoring: Scoring) -> list[dict[str, Any]]:
    return stored_findings(scoring.settings, None, None)


def rescore(scoring: Scoring, dataset: Dataset, uid: str) -> dict[str, Any]:
    """The same picture under another UID."""
    other = deepcopy(dataset)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = uid
    receive(scoring, other)
    assert scoring.run_once()
    (finding,) = [f for f in scored(scoring) if f["sop_instance_uid"] == uid]
    return finding
