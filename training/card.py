"""The model card of a bundle, written from its manifest: only figures that were measured."""

from collections.abc import Mapping
from typing import Any

from training.choice import ISOTONIC, TEMPERATURE

KINDS = (TEMPERATURE, ISOTONIC)


def model_card(facts: Mapping[str, Any]) -> str:
    """Markdown after Mitchell et al. 2019, Model Cards for Model Reporting."""
    metrics, training = facts["metrics"], facts["training"]
    detector, spatialclip = training["detector"], training["spatialclip"]
    validation = detector["validation"]
    per_label = "\n".join(
        f"| {label} | {ap:.3f} | {validation['truths'][label]} |"
        for label, ap in sorted(validation["ap50"].items())
    )
    shares = "\n".join(
        f"| {name} | {_shown(value)} |"
        for name, value in metrics.items()
        if name not in ("criteria", "calibration")
    )
    calibration = "\n".join(
        f"| {view} | {each['pictures']} | {each['chosen']} | "
        + " | ".join(_shown(each.get("log loss", {}).get(kind)) for kind in KINDS)
        + " |"
        for view, each in metrics["calibration"].items()
    )
    held_out = "\n".join(
        f"| {name} | {_shown(value)} |" for name, value in spatialclip["validation"].items()
    )
    commands = "\n".join(
        f"    {part['command']}" for part in training.values() if part.get("command")
    )
    return f"""# Model card: {facts["name"]} {facts["version"]}

**Trained mostly on simulations. Not for clinical use.**

## Intended use
Quality control of first-trimester (11+0 to 13+6 weeks) ultrasound pictures: which of the views
{", ".join(v for v in facts["views"] if v != "OTHER")} a picture shows, and whether it is a standard
one. It says nothing about the fetus. The laboratory decides its use; it is not cleared as a medical
device.

## Parts
- Detector: YOLO11{detector["recipe"]["scale"]}, {facts["preprocessing"]["detector size"]} px,
  labels {", ".join(facts["vocabulary"])}.
- Describer: a small BioGPT held to the grammar of what was detected.
- SpatialCLIP: a small CLIP with extended text positions, a spatial encoder and a gate. Its image
  tower stands on the ImageNet features of EfficientNet-Lite0 (Apache-2.0); the rest began from
  nothing.

## Training data
- Phantoms of the project's simulator for all four views.
- Real mid-sagittal (NT) pictures of the Fetus Framework data set (Cui and Dong 2022,
  doi:10.17632/n2rbrb9t4f.1): set 1 for the detector, set 2 for SpatialCLIP, so that SpatialCLIP
  learns from boxes of a detector that did not see its pictures.
- Real ultrasound of other organs (tuning half) and shuffled real pictures as "none of the views".

## Results
Detector on held-out groups ({validation["images"]} pictures, mAP50 {validation["map50"]:.3f}):

| label | AP50 | boxes |
|---|---|---|
{per_label}

SpatialCLIP on held-out groups, before calibration:

| figure | value |
|---|---|
{held_out}

Calibration pictures (none was trained on):

| figure | value |
|---|---|
{shares}

Which calibration was chosen, by log loss on held-out groups ("all": views without their own):

| view | pictures | chosen | {KINDS[0]} | {KINDS[1]} |
|---|---|---|---|---|
{calibration}

Figures on phantoms of unseen seeds: `qc-model evaluate`, see docs/benchmarks.md.

## Limits
- NT has seen one data set of one region; the detector has seen real pictures of set 1 only, which
  are all standard views. Pictures of other hospitals may fare worse: this was not measured.
- Choroid plexuses are named by their side in the picture.
- The probability is calibrated on a mix of phantoms and held-out real NT pictures; elsewhere it is
  an estimate. Pictures unlike those it knows get the flag out-of-distribution and "review".
{_simulated_only(facts)}
## Repeat it
{commands}
"""


def _simulated_only(facts: Mapping[str, Any]) -> str:
    """What is said of views that know simulations only; empty where there are none."""
    views = [v for v in facts["views"] if v not in (*facts["real_views"], "OTHER")]
    if not views:
        return ""
    return f"""- {", ".join(views)}: learnt from simulations only. On real pictures they give no
  verdict but "review", with the flag no-real-evidence.
"""


def _shown(value: Any) -> str:
    if value is None:
        return "not compared"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
