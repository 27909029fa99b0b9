"""The model card of a bundle, written from its manifest: only metrics that were measured."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from detector.anatomy import BY_CODE, View
from model.finding import NON_STANDARD, REVIEW, STANDARD
from model.site.reference import KEY
from model.spatialclip.network import VIEWS
from training.bundling import data_statements as data
from training.data.heads import HC18
from training.evaluation.ablation import ABLATIONS, ALL_BRANCHES, SINGLE_BRANCHES
from training.evaluation.report import QUALITY, format_interval, format_number
from training.evaluation.select_calibration import (
    ISOTONIC,
    MIN_PER_CLASS,
    MIN_PICTURES,
    TEMPERATURE,
)
from training.evaluation.summary import EVERY_BRANCH, FAULT_NAMED, UNMET_ON_STANDARD
from training.recipes import SpatialClipRecipe

KINDS = (TEMPERATURE, ISOTONIC)
LABELS = (STANDARD, REVIEW, NON_STANDARD)
STYLE_METRICS = ("AUROC", "sensitivity", "specificity")
_HARDEST = 3
FIRST_TRIMESTER_HEADS = f"{HC18}, {View.HEAD.value}"
"""The part of the pictures without a quality label that are heads of 14w0d or less."""
_BACKBONES = {
    "tf_efficientnet_lite0": "the ImageNet features of EfficientNet-Lite0 (Apache-2.0)",
    "sononet16": "those of SonoNet-16 (Baumgartner et al. 2017, Apache-2.0), trained on\n"
    "  second-trimester ultrasound",
}
_PICTURES_UNLIKE = " Pictures unlike those it knows get the flag"


def model_card(facts: Mapping[str, Any]) -> str:
    """Markdown after Mitchell et al. 2019, Model Cards for Model Reporting."""
    # As the manifest has them, so that the card can be written from it again.
    facts = json.loads(json.dumps(facts, sort_keys=True))
    metrics, training = facts["metrics"], facts["training"]
    detector, spatialclip = training["detector"], training["spatialclip"]
    validation = detector["validation"]
    real = metrics.get("detector on real pictures")
    on_real = (
        f"{_which_real(facts, real['pictures'])}: {format_number(real['map50']['value'])},"
        f" {format_interval(real['map50']['interval'])}"
        if real
        else ""
    )
    per_label = "\n".join(
        f"| {label} | {ap:.3f} | {validation['truths'][label]} |"
        + (_of_real(real, label) if real else "")
        for label, ap in sorted(validation["ap50"].items())
    )
    shares = "\n".join(
        f"| {name} | {_format(value)} |"
        for name, value in metrics.items()
        if not isinstance(value, (dict, list))
    )
    calibration = "\n".join(
        f"| {view} | {each['pictures']} | {each['chosen']} | "
        + " | ".join(_format(each.get("log loss", {}).get(kind)) for kind in KINDS)
        + " |"
        for view, each in metrics["calibration"].items()
    )
    validated = "\n".join(
        f"| {name} | {_format(value)} |" for name, value in spatialclip["validation"].items()
    )
    folds, calibrated = facts.get("cross_validation", {}), training.get("calibration", {})
    steps = [detector, training.get("describer", {}), folds, spatialclip, calibrated]
    commands = "\n".join(f"    {step['command']}" for step in steps if step.get("command"))
    return f"""# Model card: {facts["name"]} {facts["version"]}

**{_evidence(facts)} Not for clinical use.**

## Intended use
Quality control of first-trimester (11+0 to 13+6 weeks) ultrasound pictures: which of the views
{", ".join(v for v in facts["views"] if v != "OTHER")} a picture shows, and whether it is a standard
one{_fewer_views(facts)}. It says nothing about the
fetus. The laboratory decides its use; it is not cleared as a medical device.

## Parts
- Detector: YOLO11{detector["recipe"]["scale"]}, {facts["preprocessing"]["detector size"]} px,
  labels: {_labels(facts["vocabulary"])}.{_mirrored(facts, "detector")}
- Describer: a small BioGPT held to the grammar of what was detected.
- SpatialCLIP: a small CLIP with extended text positions, a spatial encoder and a gate. Its image
  tower stands on {_backbone(spatialclip)}; the rest began from
  nothing.{_mirrored(facts, "spatialclip")}

## Verdicts
{_verdicts(facts["thresholds"])}

{_known_by_view(facts)}## Training data
{_training_data(facts)}
## Results
"Standard" is the positive class: sensitivity is the share of standard pictures with P(standard) of
0.5 or more, specificity that of non-standard ones below. Where they are told, nothing is left to a
person.

Detector on held-out groups ({validation["images"]} pictures, mAP50
{validation["map50"]:.3f}{on_real}{_start(facts)}):

| label | AP50 | boxes |{" AP50, real | boxes, real |" if real else ""}
|---|---|---|{"---|---|" if real else ""}
{per_label}

{_boxed_quality(facts)}
SpatialCLIP on held-out groups, before calibration:

| figure | value |
|---|---|
{validated}

When the bundle was made. {_calibration_set(facts)} View accuracy and what lies beyond the outlier
threshold, which was set on these very pictures: {_set_on(facts)}

| figure | value |
|---|---|
{shares}

Which calibration was chosen, by log loss on held-out groups ("all": views without their own).
Isotonic must be better by two standard errors, on {MIN_PICTURES} pictures or more of which
{MIN_PER_CLASS} are of each class:

| view | pictures | chosen | {KINDS[0]} | {KINDS[1]} |
|---|---|---|---|---|
{calibration}
{_cross_validation(facts)}{_criteria(facts)}
Figures on phantoms of unseen seeds: `qc-model evaluate`, see docs/benchmarks.md.

## Limits
{_data_limits(facts)}- {_calibration_by_view(facts)} Elsewhere it is an estimate.{_PICTURES_UNLIKE}
  out-of-distribution and "review".
{_site(facts)}{_compression(facts)}{_notes(facts)}{_simulated_only(facts)}
## Repeat it
{_all_steps(facts)}made the parts (folders outside the project by their last name):

{commands}
"""


def _mirrored(facts: Mapping[str, Any], part: str) -> str:
    is_mirrored = part in facts["preprocessing"].get("mirror images too", ())
    return " It looks at the mirror image too." if is_mirrored else ""


def _backbone(spatialclip: Mapping[str, Any]) -> str:
    """The image networks that the tower stands on, as a sentence names them."""
    recipe = spatialclip.get("recipe", {})
    names = recipe.get("backbone", SpatialClipRecipe().backbone).split("+")
    return " and\n  ".join(_BACKBONES.get(name, name) for name in names)


def _known_by_view(facts: Mapping[str, Any]) -> str:
    """What real pictures say of each view; empty for manifests without pictures that have no
    quality label, whose views are all known alike."""
    cv = facts.get("cross_validation", {})
    views = cv.get("views of unlabelled pictures")
    if not views:
        return ""
    rows = []
    for view in (v for v in facts["views"] if v != View.OTHER):
        is_judged = view in facts["real_views"]
        heads = views.get(FIRST_TRIMESTER_HEADS)
        if is_judged:
            evidence = (
                "out of fold",
                "boxed pictures",
                "boxes; ranges of standard ones",
                "labelled",
            )
        elif view == View.HEAD and heads:
            share = heads["called"][View.HEAD]
            evidence = (
                f"{heads['pictures']} heads of 14w0d or less, called HEAD"
                f" {format_number(share['value'])} ({format_interval(share['interval'])})",
                "skull; falx and choroid plexus of later weeks",
                "simulated",
                "simulated: always `review`",
            )
        else:
            evidence = ("simulated", "simulated", "simulated", "simulated: always `review`")
        rows.append(f"| {view} | {' | '.join(evidence)} |")
    table = "\n".join(rows)
    return f"""## What is known from real pictures
| view | which view it is | structures | criteria | quality |
|---|---|---|---|---|
{table}

"""


def _labels(codes: Sequence[str]) -> str:
    return ", ".join(f"{code} ({BY_CODE[code].meaning})" for code in codes)


def _verdicts(thresholds: Mapping[str, Any]) -> str:
    """From which probabilities and confidences on what is decided."""
    low, high = thresholds["review"]
    detection, layout = thresholds["detection"], thresholds["layout"]
    return f"""P(standard) of {high} and more is "standard", of {low} and less "non-standard",
between them "review". "Review" is also said of a picture whose view is less likely than
{thresholds["view"]:.2f}, that shows none of its structures, or that is out of distribution. Boxes
count from a confidence of {detection} on; SpatialCLIP's layout reads them from {layout} on."""


# Earlier manifests do not count their data. The one that ships was made of the Fetus
# Framework data set; what its card says of it is said of a manifest whose commands name that set.


def _is_of_fetus_framework(facts: Mapping[str, Any]) -> bool:
    """Whether the commands of a manifest that counts nothing name the data set."""
    return "--fetus-framework" in str(facts["training"]["spatialclip"].get("command"))


def _fewer_views(facts: Mapping[str, Any]) -> str:
    views = {view for view in facts["views"] if view != "OTHER"}
    if views <= set(facts["real_views"]):
        return ""
    return "; on real pictures it does so for fewer views (Limits)"


def _training_data(facts: Mapping[str, Any]) -> str:
    if data.is_counted(facts):
        return data.training_data(facts)
    if not _is_of_fetus_framework(facts):
        return "It was not recorded; the commands below name the folders.\n"
    return f"""- Phantoms of the project's simulator for all four views.
- Real mid-sagittal (NT) pictures of the Fetus Framework data set (Cui and Dong 2022,
  doi:10.17632/n2rbrb9t4f.1): {_division(facts)}
  All are of one hospital; no machine, gestational age or patient is known, so that a picture counts
  as a patient but for near duplicates. Quality labels are the data set's.
- Real ultrasound of other organs (tuning half) and shuffled real pictures as "none of the views".
"""


def _which_real(facts: Mapping[str, Any], pictures: int) -> str:
    if data.is_counted(facts):
        return f"; on the {pictures} real boxed ones given to calibrate on"
    return f", of these {pictures} real"


def _start(facts: Mapping[str, Any]) -> str:
    if not facts["training"]["detector"].get("start"):
        return ""
    if data.is_counted(facts):
        return "; what it started from may have seen some of them"
    return "; what it started from may have seen the simulated ones"


def _boxed_quality(facts: Mapping[str, Any]) -> str:
    if data.is_counted(facts):
        return data.boxed_quality(facts)
    if not _is_of_fetus_framework(facts):
        return ""
    return """\
Only standard real pictures are boxed: how well structures are found in non-standard ones is not
known.
"""


def _set_on(facts: Mapping[str, Any]) -> str:
    if data.is_counted(facts):
        return "of the pictures given to calibrate on."
    return """of phantoms and held-out pictures, which no part
learnt from. Other ultrasound SpatialCLIP did learn from, as OTHER."""


def _data_limits(facts: Mapping[str, Any]) -> str:
    if data.is_counted(facts):
        return data.limits(facts)
    if not _is_of_fetus_framework(facts):
        return "- What its parts have seen was not recorded: validate it before use.\n"
    return """\
- NT has seen one data set of one hospital, and no picture of another one has been judged. A linear
  probe on the same ImageNet features fell from an AUROC of 0.968 to 0.65 to 0.72 at a second
  hospital (README of the shared data). Validate it on your own pictures before use.
- Choroid plexuses are named by their side in the picture.
"""


def _site(facts: Mapping[str, Any]) -> str:
    """What site calibration goes by; nothing for bundles that do not say it."""
    if KEY not in facts:
        return ""
    standard, other = (facts[KEY][name] for name in ("standard", "non-standard"))
    return f"""\
- In another hospital its probabilities may be off while its ranking holds: `qc-daemon site fit`
  calibrates them there, and until then findings carry the flag `not-commissioned`. At home,
  {facts[KEY]["pictures"]} pictures out of fold: log odds of standard views {standard["mean"]:.1f}
  (SD {standard["SD"]:.1f}), of others {other["mean"]:.1f} (SD {other["SD"]:.1f}). With enough
  reviews a site's calibration also promises a share of wrong verdicts.
"""


def _compression(facts: Mapping[str, Any]) -> str:
    """What was measured on one data set; newer bundles of it say so by a note."""
    if data.is_counted(facts) or not _is_of_fetus_framework(facts):
        return ""
    return """\
- Compression and the shape of the region tell the class in this data set; training varies both.
  Coarse JPEG copies (quality 75) are judged otherwise; pictures made darker, nearer or of more
  local contrast are told apart less well, grainy ones are calibrated badly: docs/benchmarks.md.
"""


def _all_steps(facts: Mapping[str, Any]) -> str:
    if data.is_counted(facts):
        return "Commands that "
    return """\
All steps, with the phantoms and what the parts started from: training/make_bundle.sh. Those that
"""


def _calibration_set(facts: Mapping[str, Any]) -> str:
    """Which pictures the calibration and its error are of."""
    if data.is_counted(facts):
        return data.calibration_pictures(facts)
    if "cross_validation" not in facts:
        return "Calibration pictures are held out, and no part learnt from them."
    real = facts["cross_validation"]["set 2"]["pictures"]
    return f"""Calibration pictures are phantoms that no part learnt from, and
{real} real ones as the cross-validation's networks judged them; the shipped parts learnt from most
of these."""


def _notes(facts: Mapping[str, Any]) -> str:
    """Notes of whoever made the bundle, as limits."""
    return "".join(f"- {note}\n" for note in facts.get("notes", ()))


def _calibration_by_view(facts: Mapping[str, Any]) -> str:
    if data.is_counted(facts):
        return data.calibration_by_view(facts) + "."
    if "cross_validation" not in facts:
        return "The probability is calibrated on pictures that were not trained on."
    real = facts["cross_validation"]["set 2"]
    return f"""Of {", ".join(facts["real_views"])} the probability is calibrated on what the
  cross-validation's networks said of {real["pictures"]} pictures, {real["standard"]} of them
  standard: another share of them, and the shipped networks, shift it. Of other views it is
  calibrated on phantoms."""


def _criteria(facts: Mapping[str, Any]) -> str:
    """The section of how well each criterion is judged; empty where none was."""
    rates = facts["metrics"].get("criteria", ())
    if not rates:
        return ""
    rows = "\n".join(
        f"| {rate['view']} | {rate['code']} | {rate['met']} | {rate['unmet']}"
        f" | {format_number(rate['sensitivity'])} | {format_number(rate['specificity'])}"
        f" | {format_number(rate['undecided'])} |"
        for rate in rates
    )
    pictures = (
        data.criteria_pictures(facts)
        if data.is_counted(facts)
        else "on the phantoms that their thresholds were fitted on; no real picture tells which it"
        " meets"
    )
    return f"""
Criteria {pictures}.
Here sensitivity is the share of unmet ones found unmet, of those decided ("–": none was):

| view | criterion | met | unmet | sensitivity | specificity | undecided |
|---|---|---|---|---|---|---|
{rows}
{_criteria_on_real(facts)}"""


def _criteria_on_real(facts: Mapping[str, Any]) -> str:
    """The paragraph of how criteria and reasons fit real pictures; empty where it is not known."""
    figures = facts["metrics"].get("criteria on real pictures")
    if not figures:
        return ""
    rows = "\n".join(
        f"| {name} | {format_number(of_set[UNMET_ON_STANDARD]['value'])}"
        f" | {format_number(of_set[FAULT_NAMED]['value'])} |"
        for name, of_set in figures.items()
    )
    outcomes = "\n".join(
        f"| {name} | {code} | {format_number(of_truth['met'])}"
        f" | {format_number(of_truth['not met'])} | {format_number(of_truth['undecided'])} |"
        for name, of_set in figures.items()
        for code, by_truth in of_set["criteria"].items()
        if (of_truth := by_truth.get("standard"))
    )
    return f"""
Real pictures do not tell which criterion they meet. Their boxes fit which structures count as
visible; the measurements of standard ones say how far an end must lie outside. Each picture judged
by networks, calibration and thresholds of the other folds or styles; reasons that deletion finds
come on top. A fault is a criterion or a structure. What P(standard) calls standard and a criterion
does not is left to a person:

| pictures | standard by P, a criterion not met | called non-standard: a fault named |
|---|---|---|
{rows}

Criteria of the truly standard ones, whatever they were called:

| pictures | criterion | met | not met | undecided |
|---|---|---|---|---|
{outcomes}
"""


def _evidence(facts: Mapping[str, Any]) -> str:
    """Which views rest on real pictures."""
    if data.is_counted(facts):
        return data.views_with_real_pictures(facts)
    real = [view for view in facts["views"] if view in facts["real_views"]]
    if not real:
        return "Trained on simulations."
    return f"Only {', '.join(real)} has learnt from real pictures, all of one data set."


def _division(facts: Mapping[str, Any]) -> str:
    """Which pictures which part learnt from."""
    if "cross_validation" in facts:
        sets = facts["cross_validation"].get("sets", {})
        truths = {name: each["labels"]["matrix"] for name, each in sets.items()}
        counted = "; ".join(
            f"{name}: " + ", ".join(f"{sum(n.values())} {truth}" for truth, n in each.items())
            for name, each in truths.items()
        )
        return f"""{counted or "all"}. The detector learns
  from the boxed ones; SpatialCLIP from all, each with the boxes of a smaller detector that had not
  seen it, where serving has the shipped one's. Each held out a tenth."""
    return """set 1 for the detector, set 2 for
  SpatialCLIP, so that it learns from boxes of a detector that did not see its pictures."""


def _of_real(figures: Mapping[str, Any], label: str) -> str:
    """Two more cells: AP50 and boxes in real pictures."""
    ap50 = figures["ap50"].get(label)
    cell = "not annotated" if ap50 is None else f"{ap50:.3f}"
    return f" {cell} | {figures['boxes'].get(label, 0)} |"


def _cross_validation(facts: Mapping[str, Any]) -> str:
    """The figures of cross-validation on real pictures; empty where there was none."""
    if "cross_validation" not in facts:
        return ""
    cv = facts["cross_validation"]
    rows = [(name, cv["set 2"][name]) for name in QUALITY]
    rows += [
        (f"AUROC, {name}", cv["ablation"][name])
        for name in ABLATIONS
        if name != ALL_BRANCHES and name in cv["ablation"]
    ]
    rows += [("detector mAP50, boxed pictures of all sets", cv["detector"]["map50"])]
    rows += [
        (f"AUROC, fold 0, {name}", area)
        for name, area in cv.get("fold 0, nested and not", {}).items()
    ]
    table = "\n".join(
        f"| {name} | {format_number(row['value'])} | {format_interval(row['interval'])} |"
        for name, row in rows
    )
    styles = "\n".join(
        f"| {style} | {way} | {metrics['standard']} | {metrics['non-standard']} | "
        + " | ".join(
            f"{format_number(value['value'])} ({format_interval(value['interval'])})"
            for value in (metrics[name] for name in STYLE_METRICS)
        )
        + " |"
        for style, ways in cv.get("looks left out", {}).items()
        for way in ("look left out", "fold left out")
        if (metrics := ways[way])
    )
    left_out = f"""
A look left out of training (pictures clustered by grey levels, grain and size; no substitute for
another hospital), and the same pictures when only their fold was. Detectors that boxed what
SpatialCLIP learnt from had seen all looks. Probabilities are calibrated on the other looks only,
whose share of standard pictures differs: that shifts sensitivity against specificity, not AUROC.

| look | left out | standard | non-standard | {" | ".join(STYLE_METRICS)} |
|---|---|---|---|---|---|---|
{styles}
{_by_branch(cv) if styles else ""}"""
    return f"""
{cv["folds"]}-fold cross-validation on {cv["set 2"]["pictures"]} real pictures (set 2), each
judged by a SpatialCLIP of the same recipe and a smaller detector that had not seen it. Two things
flatter the figures: the recipe was chosen on these pictures, most of it on two of the folds, and
the detectors that boxed what SpatialCLIP learnt from had seen the fold ("nested": they had not).

| figure | value | 95 % interval |
|---|---|---|
{table}
{left_out if styles else ""}{_by_set(cv.get("sets", {}), cv["detector"].get("ap50", {}))}\
{_of_unlabelled(facts)}"""


def _of_unlabelled(facts: Mapping[str, Any]) -> str:
    """Views and structures of the pictures without a quality label; empty without any."""
    cv = facts["cross_validation"]
    views = cv.get("views of unlabelled pictures")
    if not views:
        return ""
    columns = [str(view) for view in VIEWS]
    rows = "\n".join(
        f"| {name} | {each['pictures']} | "
        + " | ".join(format_number(each["called"][view]["value"]) for view in columns)
        + f" | {format_number(each['called standard']['value'])} |"
        for name, each in views.items()
    )
    structures = "\n".join(
        f"| {name} | {label} | {format_number(ap)} | {each['boxes'].get(label, 0)} |"
        for name, each in cv["detector"].get("unlabelled", {}).items()
        for label, ap in sorted(each["ap50"].items())
    )
    boxes = f"""
Structures found in them, out of fold:

| set | label | AP50 | boxes |
|---|---|---|---|
{structures}
"""
    odds = math.exp(facts.get("view prior", {}).get("log odds of HEAD", 0.0))
    return f"""
Real pictures without a quality label, out of fold: what share was called which view, and what
share a standard NT view. First-trimester heads are few beside later ones, which look nearly alike;
HEAD's odds are multiplied so that both are named wrongly equally often (by {odds:.1f} in this
bundle; in these figures by what the other folds' heads ask for):

| pictures | n | {" | ".join(columns)} | standard NT |
|---|---|{"---|" * (len(columns) + 1)}
{rows}
{boxes if structures else ""}"""


def _by_branch(cv: Mapping[str, Any]) -> str:
    """Metrics by branch on a style that was left out; empty where that was not measured."""
    branches = "\n".join(
        f"| {style} | {way} | "
        + " | ".join(format_number(metrics["ablation"][name]["value"]) for name in ABLATIONS)
        + " |"
        for style, ways in cv.get("looks left out", {}).items()
        for way in ("look left out", "fold left out")
        if "ablation" in (metrics := ways[way])
    )
    if not branches:
        return ""
    return f"""
AUROC on the same pictures, by branch:

| look | left out | {" | ".join(ABLATIONS)} |
|---|---|{"---|" * len(ABLATIONS)}
{branches}
"""


def _by_set(sets: Mapping[str, Any], structures: Mapping[str, float]) -> str:
    """Confusion, views, boxes and mistakes of each set; empty without any.

    `structures` are AP50 by label.
    """
    if not sets:
        return ""
    confusion = "\n".join(
        f"| {name} | {truth} | {sum(labels.values())} | "
        + " | ".join(str(labels.get(label, 0)) for label in LABELS)
        + " |"
        for name, each in sets.items()
        for truth, labels in each["labels"]["matrix"].items()
    )
    mistakes = "\n".join(
        f"| {name} | {mistake} | {wrong['pictures']} | "
        + " | ".join(str(wrong.get(branch, "")) for branch in (*SINGLE_BRANCHES, EVERY_BRANCH))
        + " |"
        for name, each in sets.items()
        for mistake, wrong in each["mistakes"].items()
        if wrong["pictures"]
    )
    by_set = "\n".join(
        f"| {name} | {format_number(each['view accuracy']['value'])}"
        f" | {format_number(each['detector mAP50']['value'])} |"
        for name, each in sets.items()
    )
    hardest = sorted(structures.items(), key=lambda item: item[1])[:_HARDEST]
    worst = (
        "\nHardest to find, by AP50 over all boxed pictures: "
        + ", ".join(f"{label} {ap:.2f}" for label, ap in hardest)
        + ".\n"
        if hardest
        else ""
    )
    return f"""
What these networks called the pictures of each set by P(standard) alone, whatever view they named,
without criteria and without the out-of-distribution score:

| set | are | pictures | {" | ".join(f"called {label}" for label in LABELS)} |
|---|---|---|---|---|---|
{confusion}

| set | right view | detector mAP50 on its boxed pictures |
|---|---|---|
{by_set}
{worst}
Failures, and how many of them each branch alone, and each of the three, would have got wrong too:

| set | failure | pictures | {" | ".join((*SINGLE_BRANCHES, EVERY_BRANCH))} |
|---|---|---|---|---|---|---|
{mistakes}
"""


def _simulated_only(facts: Mapping[str, Any]) -> str:
    """The limits of views that learnt from simulations only; empty without any."""
    views = [v for v in facts["views"] if v not in (*facts["real_views"], "OTHER")]
    if not views:
        return ""
    if data.is_counted(facts):
        return f"""- {", ".join(views)}: too few real pictures calibrate them. On real pictures they
  give no verdict but "review", with the flag no-real-evidence.
"""
    return f"""- {", ".join(views)}: learnt from simulations only. On real pictures they give no
  verdict but "review", with the flag no-real-evidence; the probability beside it is of phantoms.
"""


def _format(value: Any) -> str:
    if value is None:
        return "not compared"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
