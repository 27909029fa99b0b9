"""What bundles say of the pictures that calibrated them."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.anatomy import View
from detector.errors import QCError
from model.bundle.bundle import MANIFEST, locate, read_model_id
from model.bundle.extend import add_record
from model.image_features import STATISTICS
from model.image_reference import KEY, ImageReference, ViewReference
from model.runtime.precision import PrecisionRecord
from qc_daemon.operations.bundles import (
    activate_bundle,
    active_bundle,
    describe_bundle,
    image_references,
)
from qc_daemon.records import schema
from qc_daemon.records.results import bundles
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings

NOW = datetime(2026, 11, 30, tzinfo=UTC)
VIEW = ViewReference(9, np.arange(2), np.ones((2, len(STATISTICS))), np.eye(2, 4, dtype=np.float32))


def write_bundle(folder: Path, reference: Any) -> Path:
    """The manifest of the shipped bundle, with a reference of image features."""
    folder.mkdir()
    manifest = json.loads((locate("default") / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {KEY: reference}))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    url = f"sqlite:///{tmp_path}/qc.db"
    schema.upgrade(url)
    return Store(url)


def activate(store: Store, folder: Path) -> str:
    model_id = read_model_id(folder)
    with store.begin() as session:
        bundles.activate(session, folder.name, str(folder), model_id, NOW)
    return model_id


@pytest.mark.parametrize(
    ("verdict_changes", "words"),
    [(None, "does not record that verdicts agree"), (50, "50 verdicts change"), (0, None)],
)
def test_in_precision_fast_only_a_bundle_that_allows_it_is_activated(
    verdict_changes: int | None, words: str | None, store: Store, tmp_path: Path
) -> None:
    """On whatever CPU: this host need not be the one that scores."""
    settings = Settings(store={"url": f"sqlite:///{tmp_path}/qc.db"})
    settings.store.spool = tmp_path
    settings.score.precision = "fast"
    folder = locate("default")
    if verdict_changes is not None:
        record = PrecisionRecord(
            runtime="openvino",
            version="1.2.3",
            precision="bfloat16",
            parts=("detector",),
            cpu_flag="another",
            pictures=1000,
            simulated=0,
            probability_change_p95=0.0,
            probability_change_max=0.0,
            verdict_changes=verdict_changes,
            view_changes=0,
        )
        folder = add_record(folder, record, tmp_path / "mine", name=None, version=None).path
    if words is None:
        activate_bundle(settings, str(folder))
    else:
        with pytest.raises(QCError, match=f"not activated: .*{words}") as caught:
            activate_bundle(settings, str(folder))
        assert "\n" not in str(caught.value)
    active = active_bundle(store)
    assert (active is None) is (words is not None)
    settings.score.precision = "exact"
    assert activate_bundle(settings, str(folder)) == read_model_id(folder)


def test_bundles_are_asked_for_the_pictures_that_calibrated_them(
    store: Store, tmp_path: Path
) -> None:
    own = ImageReference("0" * 64, {View.NT: VIEW}).to_json()
    model_id = activate(store, write_bundle(tmp_path / "mine", own))
    references = image_references(store, [model_id, "f" * 64])
    assert set(references) == {model_id}
    assert references[model_id].views[View.NT].pictures == 9
    shown = describe_bundle(str(tmp_path / "mine"))
    assert '"kept": 2' in shown
    assert "float16" not in shown
    assert "float16" not in describe_bundle("default")


def test_a_bundle_that_is_damaged_gone_or_another_one_is_no_reference(
    store: Store, tmp_path: Path
) -> None:
    own = ImageReference("0" * 64, {View.NT: VIEW}).to_json()
    damaged = activate(store, write_bundle(tmp_path / "damaged", {"views": {"KNEE": 1}}))
    gone = activate(store, write_bundle(tmp_path / "gone", own))
    (tmp_path / "gone" / MANIFEST).unlink()
    other = activate(store, write_bundle(tmp_path / "other", own | {"data_sha256": "1" * 64}))
    (tmp_path / "other" / MANIFEST).write_text((tmp_path / "damaged" / MANIFEST).read_text())
    assert image_references(store, [damaged, gone, other]) == {}
