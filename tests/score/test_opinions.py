"""Parts asked in the worker: their answers are stored with the finding, and one that stands for
another view turns the verdict to review."""

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from detector.anatomy import View
from detector.errors import ErrorCode, Flag, QCError
from model.bundle.bundle import Bundle
from model.bundle.extend import extend
from model.finding import REVIEW, Finding
from qc_daemon.operations.bundles import activate_bundle, seed_bundle
from qc_daemon.operations.doctor_checks.parts import check_parts
from qc_daemon.operations.results import stored_findings
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.store import Store
from qc_daemon.records.tables import OpinionRow
from qc_daemon.score.models import JudgeCache
from qc_daemon.settings import Settings, SettingsError, load
from tests.support.command_line import qc_daemon_here
from tests.support.databases import migrate
from tests.support.job_runners import score_runner
from tests.support.parts import dual_branch_part, fetalclip_part
from tests.support.receipts import RECEIPT, write_file
from training.phantom.dicom import exam


@pytest.fixture(scope="module")
def nuchal() -> Dataset:
    return exam(3, views=[View.NT])[0]


def settings_of(folder: Path, **score: str) -> tuple[Path, Settings]:
    config = folder / "qc.toml"
    lines = "".join(f'{name} = "{value}"\n' for name, value in score.items())
    config.write_text(f"[score]\n{lines}[jobs]\nbackoff_seconds = 0\n")
    settings = load(config)
    settings.store.spool.mkdir(parents=True, exist_ok=True)
    migrate(settings.store.url)
    return config, settings


def receive(store: Store, settings: Settings, dataset: Dataset) -> None:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    path = write_file(buffer.getvalue(), settings.store.spool)
    receipt = replace(
        RECEIPT,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        sha256=path.stem,
        size=len(buffer.getvalue()),
        path=path.name,
    )
    with store.begin() as session:
        admit(session, receipt, source_destinations=(), bundle_id=None, now=datetime.now(UTC))


def test_opinions_are_stored_and_a_disagreement_leaves_the_verdict_to_a_person(
    tmp_path: Path, nuchal: Dataset
) -> None:
    fetalclip_part(tmp_path / "fetal", {"face": ["NT", "HEAD"], "belly": "NT"})
    planes = dual_branch_part(tmp_path / "planes", answer="Stomach")
    # Folders resolve from the settings file.
    config, settings = settings_of(
        tmp_path, second_opinion="./fetal", view_classifier=f"{planes.path}"
    )
    store = Store(settings.store.url)
    seed_bundle(settings, store)
    receive(store, settings, nuchal)
    assert check_parts(settings) == (
        "fetal: second-opinion, not asked yet; planes: view-classifier, not asked yet"
    )
    with score_runner(store, settings) as runner:
        assert runner.run_once()
    (body,) = stored_findings(settings, None, None)
    assert body["view"]["code"] == "NT"
    assert body["quality"]["label"] == REVIEW
    assert Flag.VIEW_DISAGREEMENT in body["flags"]
    second, classifier = body["opinions"]
    assert (second["role"], second["agrees"], second["part"]["family"]) == (
        "second-opinion",
        True,
        "fetalclip",
    )
    assert (classifier["class"], classifier["views"], classifier["agrees"]) == (
        "Stomach",
        ["ABDOMEN"],
        False,
    )
    assert classifier["part"]["model_id"] == planes.id.model_id
    assert Finding.from_json(body).to_json() == body
    with store.read() as session:
        rows = session.scalars(select(OpinionRow).order_by(OpinionRow.role)).all()
        assert [(row.role, row.label, row.agrees) for row in rows] == [
            ("second-opinion", second["class"], True),
            ("view-classifier", "Stomach", False),
        ]
    assert "planes: view-classifier, agrees in 0 of 1 finding, silent in 0" in check_parts(settings)
    table = qc_daemon_here("results", "--config", config).stdout
    assert "view-classifier: Stomach" in table
    (row,) = csv.DictReader(
        io.StringIO(qc_daemon_here("results", "--config", config, "--format", "csv").stdout)
    )
    assert (row["view_classifier"], row["second_opinion"]) == ("Stomach", second["class"])
    store.close()


def test_without_a_disagreement_the_verdict_is_the_bundle_s_own(
    tmp_path: Path, nuchal: Dataset
) -> None:
    """Also of files, and with the part in the bundle itself."""
    planes = dual_branch_part(tmp_path / "planes")
    extend(Bundle.open("default").path, [planes.path], tmp_path / "mine", name="mine", version="1")
    image = tmp_path / "image.dcm"
    nuchal.save_as(image, enforce_file_format=True)
    config, _ = settings_of(tmp_path, bundle=f"{tmp_path / 'mine'}", view_classifier="planes")
    alone = _score(image)
    beside = _score(image, "--config", str(config))
    assert [each["class"] for each in beside["opinions"]] == ["Nasal triangle"]
    assert beside["opinions"][0]["agrees"] is True
    assert "opinions" not in alone
    for key in ("view", "quality", "criteria", "detections", "flags", "reasons"):
        assert beside[key] == alone[key]
    assert alone["quality"]["label"] != REVIEW, "else a disagreement would not show"


def _score(*arguments: object) -> dict[str, Any]:
    done = qc_daemon_here("score", *map(str, arguments), "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return dict(json.loads(line))


def test_a_name_that_the_active_bundle_lacks_is_one_line_and_an_older_bundle_goes_on(
    tmp_path: Path,
) -> None:
    _, settings = settings_of(tmp_path, second_opinion="planes")
    store = Store(settings.store.url)
    seed_bundle(settings, store)
    with pytest.raises(
        QCError, match=r"score\.second_opinion: bundle default has no part 'planes'"
    ):
        JudgeCache(store, settings.score).load_active()
    with pytest.raises(QCError, match="it has: none"):
        check_parts(settings)
    planes = dual_branch_part(tmp_path / "planes")
    mine = extend(
        Bundle.open("default").path, [planes.path], tmp_path / "mine", name=None, version=None
    )
    activate_bundle(settings, str(mine.path))
    models = JudgeCache(store, settings.score)
    assert [each.role for each in models.judge(None).opinion_models] == ["second-opinion"]
    # An exam that was opened with the former bundle is scored to its end with it.
    former = models.judge(Bundle.open("default").model_id)
    assert former.opinion_models == ()
    store.close()


def test_a_damaged_part_stops_the_worker_with_its_reason(tmp_path: Path) -> None:
    planes = dual_branch_part(tmp_path / "planes")
    (planes.path / "MODEL_CARD.md").write_text("other")
    _, settings = settings_of(tmp_path, view_classifier="./planes")
    store = Store(settings.store.url)
    seed_bundle(settings, store)
    with pytest.raises(QCError, match=r"MODEL_CARD\.md has another hash") as caught:
        JudgeCache(store, settings.score).load_active()
    assert caught.value.code is ErrorCode.BUNDLE_MISMATCH
    store.close()


def test_a_setting_that_names_nothing_is_refused(tmp_path: Path) -> None:
    for value in ("", ".hidden"):
        (tmp_path / "qc.toml").write_text(f'[score]\nbackbone = "{value}"\n')
        with pytest.raises(SettingsError, match=r"score.backbone.*name a part of the bundle"):
            load(tmp_path / "qc.toml")
