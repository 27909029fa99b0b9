"""`qc-daemon results --like`: stored pictures by the cosine of their embeddings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from model.image_features import ImageFeatures
from qc_daemon.operations.similar_images import nearest
from qc_daemon.records.results import findings
from qc_daemon.records.store import Store
from qc_daemon.settings import load
from tests.support.command_line import Completed, qc_daemon_here
from tests.support.databases import migrate
from tests.support.records import Records


class Gallery:
    """A database of objects, each with findings whose embeddings are given."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "qc.toml"
        self.config.write_text("")
        url = load(self.config).store.url
        migrate(url)
        self.records = Records(Store(url))

    def add(
        self,
        uid: str,
        *embeddings: Sequence[float] | None,
        views: Sequence[str] = ("NT",),
        model_id: str = "model-1",
        sha256: str | None = None,
    ) -> None:
        digest = {} if sha256 is None else {"sha256": sha256}
        admission = self.records.image(sop_instance_uid=uid, **digest)
        bodies = [
            self.records.finding(
                frame=number,
                model_id=model_id,
                sop_instance_uid=uid,
                view={"code": views[(number - 1) % len(views)], "probability": 0.9},
            )
            for number in range(1, len(embeddings) + 1)
        ]
        features = [
            None if each is None else ImageFeatures(None, np.asarray(each, "<f2").tobytes())
            for each in embeddings
        ]
        with self.records.store.begin() as session:
            findings.store(session, admission.revision_id, bodies, self.records.now, features)

    def run(self, *arguments: str) -> Completed:
        return qc_daemon_here("results", "--config", self.config, *arguments)

    def like(self, *arguments: str) -> list[dict[str, Any]]:
        done = self.run("--format", "jsonl", "--like", *arguments)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def order(self, *arguments: str) -> list[tuple[str, int]]:
        return [(each["sop_instance_uid"], each["frame"]) for each in self.like(*arguments)]


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    gallery = Gallery(tmp_path)
    gallery.add("1.1", (1, 0, 0))
    gallery.add("1.2", (0, 1, 0), (0.6, 0.8, 0), (0.96, 0.28, 0), views=("NT", "NT", "HEAD"))
    gallery.add("1.3", (0.8, 0.6, 0), views=("CRL",))
    gallery.add("1.4", (-1, 0, 0))
    # Nearer than all others, but of other models; and one that an older version stored.
    gallery.add("1.5", (1, 0, 0), model_id="model-2")
    gallery.add("1.6", None)
    return gallery


def test_other_objects_come_by_their_most_similar_frame(gallery: Gallery) -> None:
    rows = gallery.like("1.1")
    assert [(each["sop_instance_uid"], each["frame"]) for each in rows] == [
        ("1.2", 3),
        ("1.3", 1),
        ("1.4", 1),
    ]
    assert [each["similarity"] for each in rows] == pytest.approx([0.96, 0.8, -1], abs=1e-3)


def test_all_frames_lists_each(gallery: Gallery) -> None:
    assert gallery.order("1.1", "--all-frames") == [
        ("1.2", 3),
        ("1.3", 1),
        ("1.2", 2),
        ("1.2", 1),
        ("1.4", 1),
    ]


def test_a_frame_of_a_cine_may_be_asked_for(gallery: Gallery) -> None:
    # (0, 1, 0) is like 1.3 (0.6), then orthogonal to 1.1 and 1.4: those in the order of arrival.
    assert gallery.order("1.2/1") == [("1.3", 1), ("1.1", 1), ("1.4", 1)]


def test_filters_and_limit_leave_the_order(gallery: Gallery) -> None:
    assert gallery.order("1.1", "--view", "NT") == [("1.2", 2), ("1.4", 1)]
    assert gallery.order("1.1", "--limit", "1") == [("1.2", 3)]


def test_a_table_and_a_csv_have_the_similarity(gallery: Gallery) -> None:
    table = gallery.run("--like", "1.1").stdout.splitlines()
    assert table[0].strip() == "similar images"
    assert "│ 0.96 " in next(line for line in table if "1.2" in line)
    header, first, *_ = gallery.run("--like", "1.1", "--format", "csv").stdout.splitlines()
    assert header.endswith(",similarity")
    assert float(first.rpartition(",")[2]) == pytest.approx(0.96, abs=1e-3)


def test_what_is_superseded_is_left_out(gallery: Gallery) -> None:
    gallery.add("1.3", (0, 0, 1), sha256="f" * 64)
    assert ("1.3", 1) in gallery.order("1.1")
    rows = gallery.like("1.1")
    assert [e["similarity"] for e in rows if e["sop_instance_uid"] == "1.3"] == [0]
    # The query too is the newest content.
    assert {each["similarity"] for each in gallery.like("1.3")} == {0}


@pytest.mark.parametrize(
    ("like", "status", "message"),
    [
        ("9.9", 1, "no image 9.9 was scored"),
        ("1.2/7", 1, "frame 7 of it was not scored; these were: 1, 2, 3"),
        ("1.6", 1, "no embedding of it is stored"),
        ("1.2/0", 2, "give SOP_UID or SOP_UID/FRAME"),
        ("1.2/x", 2, "give SOP_UID or SOP_UID/FRAME"),
        ("/1", 2, "give SOP_UID or SOP_UID/FRAME"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    gallery: Gallery, like: str, status: int, message: str
) -> None:
    done = gallery.run("--like", like)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@given(
    arrays.arrays(
        np.float16, st.tuples(st.integers(1, 40), st.just(3)), elements=st.floats(-1, 1, width=16)
    )
)
def test_the_search_is_exact_in_blocks(rows: np.ndarray[Any, np.dtype[np.float16]]) -> None:
    query = np.array([0.5, -0.25, 1], "<f2")
    stored = [(number, row.astype("<f2").tobytes()) for number, row in enumerate(rows)]
    stored.insert(len(rows) // 2, (99, b"\0\0"))  # Of another length.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qc_daemon.operations.similar_images._BLOCK", 7)
        ids, cosines = nearest(query.tobytes(), stored)
    lengths = np.linalg.norm(rows.astype(float), axis=1)
    expected = rows.astype(float) @ query.astype(float) / np.maximum(lengths, 1e-12)
    expected /= np.linalg.norm(query.astype(float))
    assert sorted(ids.tolist()) == list(range(len(rows)))
    assert cosines == pytest.approx(expected[ids], abs=1e-5)
    assert (np.diff(cosines) <= 0).all()
