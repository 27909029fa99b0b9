"""Writes a made-up history: findings, as `results --format jsonl` prints them, and their truth."""

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, time, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from detector.anatomy import View
from detector.console import UsageError
from model.criteria.rules import RULES
from training.phantom.history.draw import OTHER, VIEWS, Exams, Images, draw_exams, draw_images
from training.phantom.history.features import DrawnFeatures, draw_features
from training.phantom.history.plan import (
    FIRST,
    LAST,
    SITE_NAMES,
    SITE_OF_DEVICE,
    Lab,
    day_of,
    few_images_persons,
    make_lab,
)

FINDINGS, TRUTH = "findings.jsonl", "truth.json"
BUNDLE = "phantom-history"
_BAND = (0.4, 0.6)
"""Between these probabilities the verdict is left to a person."""
_FEATURES = 1
_WIDTH, _HEIGHT = 800.0, 600.0
_BOX_OF_VIEW = {"NT": "NT", "CRL": "CRL", "HEAD": "CB", "ABDOMEN": "AS"}


def write_history(out: Path, seed: int, findings: int, *, is_null: bool = False) -> Path:
    """Write the history of this seed to a folder; returns the path of its findings.

    The files depend on the arguments alone. Raises UsageError where the folder has a history
    already, and OSError where it cannot be written.
    """
    path, truth = out / FINDINGS, out / TRUTH
    if truth.exists():
        raise UsageError(f"{out} holds a history already: name another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    known, lines = make_history(seed, findings, is_null=is_null)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(each)}\n" for each in lines)
    partial.replace(path)
    # Written last: a folder without it was interrupted.
    truth.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return path


def make_history(
    seed: int, findings: int, *, is_null: bool = False
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """What is planted, as in the file `truth.json`, and the finding objects."""
    random = np.random.default_rng((seed, int(is_null)))
    lab = make_lab(seed, random, is_null=is_null)
    exams = draw_exams(lab, findings, random)
    images = draw_images(lab, exams, findings, random)
    # By a generator of its own, so that a seed's findings are those that it had without features.
    features = draw_features(
        lab, exams, images, np.random.default_rng((seed, int(is_null), _FEATURES))
    )
    return truth_of(lab, images), make_findings(lab, exams, images, features, random)


def truth_of(lab: Lab, images: Images) -> dict[str, Any]:
    """What is planted, by the ids of the findings; None for each in a null history."""
    planted = lab.planted

    def person(index: int | None) -> str | None:
        return None if index is None else lab.person_ids[index]

    shift = planted.model_shift_day
    drift = planted.drift_begins
    return {
        "drifting_device": None
        if planted.drifting_device is None
        else lab.device_ids[planted.drifting_device],
        "improving_person": person(planted.improving_person),
        "outlier_person": person(planted.outlier_person),
        "case_mix_person": person(planted.case_mix_person),
        "nt_bias_person": person(planted.nt_bias_person),
        "model_shift_date": None if shift is None else day_of(shift).isoformat(),
        "drift_begins": None if drift is None else day_of(drift).isoformat(),
        "bundle_changed": planted.is_new_bundle,
        "persons_of_one_exam": [lab.person_ids[each] for each in few_images_persons(lab)],
        "seed": lab.seed,
        "findings": len(images.exam),
        "from": FIRST.isoformat(),
        "to": LAST.isoformat(),
    }


def make_findings(
    lab: Lab, exams: Exams, images: Images, features: DrawnFeatures, random: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """The finding objects, exam by exam in the order of time."""
    bundles = _bundles(lab)
    n = len(images.exam)
    noise = random.random((n, 4))
    order = {name: [rule.code for rule in RULES[View(name)]] for name in VIEWS}
    outcomes = random.random((n, max(map(len, order.values()))))
    study, facts, exam = "", dict[str, Any](), -1
    for row in range(n):
        if images.exam[row] != exam:
            exam = int(images.exam[row])
            study = "2.25." + str(
                int(sha256(f"exam/{lab.seed}/{exam}".encode()).hexdigest()[:30], 16)
            )
            facts = _facts(lab, exams, exam)
            start = datetime.combine(day_of(int(exams.day[exam])), time())
        moment = start + timedelta(seconds=int(images.second[row]))
        shift = lab.planted.model_shift_day
        is_new = lab.planted.is_new_bundle and shift is not None and exams.day[exam] >= shift
        view = (*VIEWS, View.OTHER.value)[images.view[row]]
        log_odds = float(images.log_odds[row])
        quality: dict[str, Any] = {"label": "review", "probability": None, "raw_probability": None}
        if images.view[row] != OTHER:
            probability = _sigmoid(0.9 * log_odds)
            quality = {
                "label": _verdict(probability),
                "probability": probability,
                "raw_probability": _sigmoid(log_odds),
            }
        received = (moment + timedelta(seconds=20)).isoformat(timespec="seconds")
        image, text = 0.2 + 0.3 * noise[row, 0], 0.2 + 0.2 * noise[row, 1]
        criteria = _criteria(order.get(view, []), bool(images.is_standard[row]), outcomes[row])
        acquired = {"acquired": moment.isoformat(), "acquired_source": "acquisition"}
        yield {
            "source": None,
            "study_instance_uid": study,
            "series_instance_uid": f"{study}.1",
            "sop_instance_uid": f"{study}.1.{images.number[row]}",
            "revision": 1,
            "frame": 1,
            "region": {"index": 0, "bbox": [0.0, 0.0, _WIDTH, _HEIGHT]},
            "bundle": bundles[int(is_new)],
            "view": {"code": view, "probability": round(0.8 + 0.2 * noise[row, 2], 4)},
            "quality": quality,
            "gates": {"image": image, "text": text, "spatial": 1 - image - text},
            "detections": _detections(view, noise[row], log_odds),
            "description": "a made-up finding",
            "criteria": criteria,
            "reasons": _reasons(view, quality["label"], criteria),
            "flags": [],
            "created": f"{received}.000Z",
            "exam_id": exam + 1,
            "calling_ae": "PHANTOM",
            "received": f"{received}+00:00",
            "superseded": False,
            "best_frame": True,
            "acquisition": facts | acquired,
            "rejected": False,
            "image_features": features.to_json(row),
        }


def _bundles(lab: Lab) -> tuple[dict[str, str], dict[str, str]]:
    """The bundle before and after the shift of the models."""
    versions = ("1.0", "1.1")
    return tuple(  # type: ignore[return-value]
        {
            "name": BUNDLE,
            "version": version,
            "model_id": sha256(f"{BUNDLE} {version}".encode()).hexdigest(),
        }
        for version in versions
    )


def _facts(lab: Lab, exams: Exams, exam: int) -> dict[str, Any]:
    """The key `acquisition` of an exam's findings; the moment is of each image."""
    persons = {lab.person_ids[exams.person[exam]]}
    if exams.second_person[exam] >= 0:
        persons.add(lab.person_ids[exams.second_person[exam]])
    device = int(exams.device[exam])
    site = SITE_NAMES[SITE_OF_DEVICE[device]]
    days = int(exams.gestation[exam]) if exams.states_gestation[exam] else None
    length, translucency = (_number(each[exam]) for each in (exams.length, exams.translucency))
    size = weight = None
    if exams.states_size[exam]:
        size, weight = float(exams.size[exam]), float(exams.weight[exam])
    return {
        "state": "read",
        "person_ids": sorted(persons),
        "person_source": "name",
        "device_id": lab.device_ids[device],
        "device_source": "serial",
        "site": site,
        "site_source": "institution-name",
        "department": None,
        "acquired": None,
        "acquired_source": None,
        "gestational_age_days": days,
        "gestational_age_source": None if days is None else "last-menstrual-date",
        "crl_mm": length,
        "crl_source": None if length is None else "report",
        "nt_mm": translucency,
        "nt_source": None if translucency is None else "report",
        "patient_age_years": float(exams.age[exam]),
        "patient_size_m": size,
        "patient_weight_kg": weight,
        "patient_bmi": None if size is None or weight is None else round(weight / size**2, 1),
        "software_versions": None,
        "transducer": None,
        "transducer_type": None,
        "study_description": None,
        "burned_in_annotation": None,
        "performing_physician": None,
        "manufacturer": None,
    }


def _verdict(probability: float) -> str:
    low, high = _BAND
    if low < probability < high:
        return "review"
    return "standard" if probability >= high else "non-standard"


def _criteria(codes: list[str], is_standard: bool, draws: np.ndarray) -> list[dict[str, Any]]:
    """Each criterion of the view: those of a poor picture fail more often."""
    fails = 0.02 if is_standard else 0.22
    criteria: list[dict[str, Any]] = []
    for code, draw in zip(codes, draws.tolist(), strict=False):
        met = None if draw > 0.96 else draw >= fails
        value = None if met is None else round(0.3 + 0.7 * draw if met else 0.3 * draw / fails, 3)
        criteria.append({"code": code, "met": met, "value": value, "unit": "1", "evidence": []})
    return criteria


def _reasons(view: str, verdict: str, criteria: list[dict[str, Any]]) -> list[dict[str, str]]:
    if verdict == "standard" or view == View.OTHER:
        return []
    rules = {rule.code: rule for rule in RULES[View(view)]}
    return [
        {
            "kind": "criterion",
            "code": each["code"],
            "words": f"{rules[each['code']].meaning} not met: {rules[each['code']].fix}",
        }
        for each in criteria
        if each["met"] is False
    ]


def _detections(view: str, noise: np.ndarray, log_odds: float) -> list[dict[str, Any]]:
    """The structure that gives the view its name, surer in a better picture."""
    label = _BOX_OF_VIEW.get(view)
    if label is None:
        return []
    x, y = 200 + 100 * noise[0], 150 + 100 * noise[1]
    confidence = round(_sigmoid(0.25 * log_odds + 1.2 + 0.8 * (noise[3] - 0.5)), 4)
    box = [round(float(each), 1) for each in (x, y, x + 250, y + 150)]
    return [{"label": label, "bbox": box, "confidence": confidence}]


def _sigmoid(value: float) -> float:
    with suppress(OverflowError):
        return 1 / (1 + math.exp(-value))
    return 0.0


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
