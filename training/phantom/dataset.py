"""Phantoms as files: PNG with a SpatialCLIP JSON, or DICOM exams with their truth."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from rich.progress import track

from detector.anatomy import BY_CODE, View
from training.data.dataset_folder import SAMPLES, TRUTH, write_listing
from training.phantom.dicom import exam_with_truth
from training.phantom.simulate import VIEWS, Phantom, make

T = TypeVar("T")

DATASET = "phantoms of qc-model"
SEEDS_PER_SET = 1_000_000
"""Picture i of set s has phantom seed s * SEEDS_PER_SET + i, so that sets share no picture."""


def write_dataset(
    out: Path,
    count: int,
    seed: int,
    views: Sequence[View] = VIEWS,
    other_share: float = 0.0,
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Write `count` PNG pictures and `samples.json` (SpatialCLIP samples, with their truth), and
    the tables that the other families read: `labels.csv` with the view as class and whether it is
    standard as usable, `captions.csv` with the descriptions. Each picture is of another patient.

    `views` take turns, half of each standard; a share of `other_share` shows view OTHER.
    The result depends on the arguments alone, not on `workers`.

    Raises:
        ValueError: a count below 1 or above SEEDS_PER_SET, no view, or a share outside 0..1.
    """
    if not 1 <= count <= SEEDS_PER_SET:
        raise ValueError(f"the count must be within 1 and {SEEDS_PER_SET}, not {count}")
    if not views or not 0 <= other_share <= 1 or workers < 1:
        raise ValueError(
            "at least one view, one worker and a share of OTHER within 0 and 1 are needed"
        )
    (out / "images").mkdir(parents=True, exist_ok=True)
    job = partial(_write_picture, out, seed, views_of(count, seed, views, other_share))
    samples = list(_with_progress(_run_jobs(job, count, workers), count, "phantoms", progress))
    _write_tables(out, samples)
    return write_listing(out, SAMPLES, samples)


def _write_tables(out: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    labels, captions = [], []
    for sample in samples:
        path, patient, view = sample["image_path"], str(sample["seed"]), sample["view"]
        usable = int(sample["class_label"] == "standard")
        labels.append((path, patient, view, view, usable))
        # Of what shows nothing there is nothing to say.
        if sample["description"]:
            captions.append((Path(path).name, sample["description"], patient))
    for name, header, rows in (
        ("labels.csv", ("file", "patient", "plane", "class", "usable"), labels),
        ("captions.csv", ("filename", "Caption", "patient"), captions),
    ):
        with (out / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])


def views_of(count: int, seed: int, views: Sequence[View], other_share: float) -> tuple[View, ...]:
    """The view of each picture of a set."""
    is_other = np.random.default_rng(seed).random(count) < other_share
    return tuple(View.OTHER if is_other[i] else views[i % len(views)] for i in range(count))


def write_exams(
    out: Path,
    count: int,
    seed: int,
    views: Sequence[View] = VIEWS,
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Write `count` exams as DICOM, one folder each, and `truth.json`: one entry per frame.

    Raises:
        ValueError: a count below 1 or above SEEDS_PER_SET, or no view.
    """
    if not 1 <= count <= SEEDS_PER_SET or not views or workers < 1:
        raise ValueError(f"needed: 1 to {SEEDS_PER_SET} exams, a view and a worker at least")
    out.mkdir(parents=True, exist_ok=True)
    job = partial(_write_exam, out, seed, tuple(views))
    exams = _with_progress(_run_jobs(job, count, workers), count, "phantom exams", progress)
    return write_listing(out, TRUTH, [frame for frames in exams for frame in frames])


def truth_of(phantom: Phantom) -> dict[str, Any]:
    """The phantom's truth in plain JSON values."""
    return {
        "origin": "simulated",
        "dataset": DATASET,
        "class_label": "standard" if phantom.standard else "non-standard",
        "coordinates": [
            {"label": code, "bbox": list(box), "confidence": 1.0} for code, box in phantom.boxes
        ],
        "view": phantom.view.value,
        "defects": [defect.value for defect in phantom.defects],
        "criteria": dict(phantom.criteria),
        "seed": phantom.seed,
        "spacing_mm": phantom.spacing_mm,
        "region": list(phantom.region),
    }


def describe(phantom: Phantom) -> str:
    """A noun phrase of the visible structures, in the vocabulary's words; empty if none is."""
    names = [BY_CODE[code].meaning for code, _ in phantom.boxes]
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + "".join(names[-1:])


def _write_picture(out: Path, seed: int, views: tuple[View, ...], index: int) -> dict[str, Any]:
    phantom = make(seed * SEEDS_PER_SET + index, views[index])
    name = f"images/{index:06d}.png"
    # Fast compression: speckle hardly compresses, and thousands are written.
    if not cv2.imwrite(
        str(out / name), phantom.pixels[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 2]
    ):
        raise OSError(f"cannot write {name}")
    return {"image_path": name, "description": describe(phantom), **truth_of(phantom)}


def _write_exam(out: Path, seed: int, views: tuple[View, ...], index: int) -> list[dict[str, Any]]:
    folder = out / f"exam-{index:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    frames: list[dict[str, Any]] = []
    for dataset, phantoms in exam_with_truth(seed * SEEDS_PER_SET + index, views=views):
        name = f"{folder.name}/IM{int(dataset.InstanceNumber):04d}.dcm"
        dataset.save_as(out / name, enforce_file_format=True)
        frames += [
            {
                "path": name,
                "sop_instance_uid": str(dataset.SOPInstanceUID),
                "frame": number,
                **truth_of(phantom),
            }
            for number, phantom in enumerate(phantoms, 1)
        ]
    return frames


def _run_jobs(job: Callable[[int], T], count: int, workers: int) -> Iterator[T]:
    if workers == 1:
        yield from map(job, range(count))
        return
    # Spawned, since a forked child may inherit locks of numerical libraries.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(job, range(count), chunksize=8)


def _with_progress(items: Iterator[T], count: int, what: str, progress: bool) -> Iterator[T]:
    yield from track(items, f"Making {what}", total=count, disable=not progress)
