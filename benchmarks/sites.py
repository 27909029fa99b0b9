"""Site calibration on sites made of labelled findings, or of made-up log odds: what it gains, what
it leaves alone, and whether its promise is kept.

Findings must be of networks that never saw the pictures (a cross-validation's, restyled or not), or
of another hospital; labels as `site fit` takes them.

.venv/bin/python benchmarks/sites.py                     # made-up log odds, for the method alone
.venv/bin/python benchmarks/sites.py --evidence benchmarks/out_of_fold.csv
.venv/bin/python benchmarks/sites.py --findings findings.jsonl --labels labels.csv
"""

import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from scipy.special import expit
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from detector.anatomy import View
from model.bundle.bundle import read_manifest
from model.calibration import expected_calibration_error
from model.finding import BundleId
from model.site.calibrate import SiteQuestion, calibrate_site
from model.site.promise import Tolerance, make_promise
from model.site.record import SiteRecord
from model.site.reference import Reference
from model.site.reviewed import find_problem, fit_reviewed
from model.site.samples import Samples, SiteSample
from model.site.site_map import SiteMap
from model.site.unlabelled import fit_unlabelled
from qc_daemon.operations.site_files import label_of, make_sample, read_findings, read_labels
from tests.support.sites import log_odds_of_site, site_samples

Floats = npt.NDArray[np.float64]
SIZES = (40, 100, 400)
LABELS = (0, 10, 20, 50)
REVIEWS = (30, 60, 120, 250)
BAND = (0.4, 0.6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--findings", type=Path, help="finding objects, one a line")
    parser.add_argument("--labels", type=Path, help="CSV: source, frame, label")
    parser.add_argument("--evidence", type=Path, help="CSV that benchmarks/scanners.py --out wrote")
    parser.add_argument("--bundle", default="default", help="its reference is compared with")
    parser.add_argument("--sites", type=int, default=30, help="of each size")
    parser.add_argument("--promises", type=int, default=500, help="sites of each number of reviews")
    arguments = parser.parse_args()
    reference = Reference.from_manifest(read_manifest(arguments.bundle))
    if arguments.evidence is not None:
        pools = read_evidence(arguments.evidence)
    elif arguments.findings is None:
        generator = np.random.default_rng(0)
        pools = {
            "its own hospital": log_odds_of_site(generator, 20_000),
            "lower by 3": log_odds_of_site(generator, 20_000, shift=3.0),
        }
    else:
        pools = {arguments.findings.name: read_pool(arguments.findings, arguments.labels)}
    console = Console(width=160)
    for name, (s, y) in pools.items():
        console.rule(f"{name}: {len(s)} pictures, AUROC {roc_auc_score(y, s):.3f}")
        console.print(calibration_table(s, y, reference, arguments.sites))
        console.print(refusals(s, y, reference, arguments.sites))
        console.print(promise_table(s, y, arguments.promises))
    if arguments.evidence is not None:
        console.print(summary_table(pools, reference, arguments.sites))


def read_evidence(path: Path) -> dict[str, tuple[Floats, Floats]]:
    """Log odds and labels of each kind of pictures, in the file's order."""
    rows: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["pictures"], []).append(
                (float(row["log_odds"]), float(row["standard"]))
            )
    return {name: (np.array(part)[:, 0], np.array(part)[:, 1]) for name, part in rows.items()}


def summary_table(
    pools: dict[str, tuple[Floats, Floats]], reference: Reference | None, sites: int
) -> Table:
    """The median over all kinds of pictures of their sites' median error, 100 pictures a site: with
    each calibration, and with those that the service proposes (`SiteRecord.makes_worse`)."""
    table = Table(
        "labels", "ECE before", "after", "worst kind", "largest median loss", "proposed: after",
        "worst kind", "largest median loss", "held back", "of those that lose 0.02",
        "of those that gain 0.05",
    )  # fmt: skip
    for labels in LABELS:
        medians, rows = [], []
        for s, y in pools.values():
            errors = []
            for seed in range(sites):
                at = np.random.default_rng(seed).permutation(len(s))[:100]
                z, truth = s[at], y[at]
                record = calibrate(z, truth, labels, reference, seed)
                before, after = (
                    expected_calibration_error(each, truth)
                    for each in (expit(z), record.map.probability(z))
                )
                errors.append((before, after, before if record.makes_worse else after))
                rows.append((after - before, record.makes_worse))
            medians.append(np.median(errors, axis=0))
        before, after, proposed = np.array(medians).T
        change, is_held_back = np.array(rows).T
        table.add_row(
            str(labels), f"{np.median(before):.3f}", f"{np.median(after):.3f}",
            f"{after.max():.3f}", f"{(after - before).max():+.3f}", f"{np.median(proposed):.3f}",
            f"{proposed.max():.3f}", f"{(proposed - before).max():+.3f}",
            *(_share(is_held_back[at]) for at in (change > -1, change > 0.02, change < -0.05)),
        )  # fmt: skip
    return table


def _share(is_held_back: Floats) -> str:
    return f"{is_held_back.mean():.0%} of {len(is_held_back)}" if len(is_held_back) else "-"


def read_pool(findings: Path, labels: Path) -> tuple[Floats, Floats]:
    """Log odds and labels of the findings that have one."""
    answers = read_labels(labels)
    rows = [
        make_sample(body, key=str(i), exam=i, is_standard=label_of(body, answers))
        for i, body in enumerate(read_findings(findings))
    ]
    samples = Samples.of(rows).reviewed()
    return samples.log_odds, samples.labels()


def calibrate(
    s: Floats, y: Floats, reviewed: int, reference: Reference | None, seed: int
) -> SiteRecord:
    """The calibration of a site of which some findings were reviewed."""
    chosen = set(np.random.default_rng(seed).permutation(len(s))[:reviewed].tolist())
    rows: list[SiteSample] = [
        replace(row, is_standard=bool(y[i]) if i in chosen else None, view=View.NT)
        for i, row in enumerate(site_samples(s))
    ]
    question = SiteQuestion("site", BundleId("b", "1", "0"), BAND, reference, "", "0")
    return calibrate_site(rows, question)


def calibration_table(s: Floats, y: Floats, reference: Reference | None, sites: int) -> Table:
    """Calibration error and accuracy before and after, on a site's own pictures."""
    table = Table(
        "pictures", "labels", "left alone", "ECE before", "after, median (worst)",
        "largest loss", "accuracy", "after", "AUROC the same",
    )  # fmt: skip
    for size in SIZES:
        if size > len(s):
            continue
        for labels in LABELS:
            rows = []
            for seed in range(sites):
                at = np.random.default_rng(seed).permutation(len(s))[:size]
                z, truth = s[at], y[at]
                record = calibrate(z, truth, labels, reference, seed)
                p, q = record.map.probability(z), expit(z)
                rows.append(
                    (
                        record.kind == "none" or record.map.is_identity,
                        expected_calibration_error(q, truth),
                        expected_calibration_error(p, truth),
                        ((q >= 0.5) == truth).mean(),
                        ((p >= 0.5) == truth).mean(),
                        roc_auc_score(truth, z) == roc_auc_score(truth, p),
                    )
                )
            alone, before, after, accuracy, accuracy_after, same = map(
                np.array, zip(*rows, strict=True)
            )
            table.add_row(
                str(size), str(labels), f"{alone.mean():.0%}", f"{np.median(before):.3f}",
                f"{np.median(after):.3f} ({after.max():.3f})", f"{(after - before).max():+.3f}",
                f"{accuracy.mean():.3f}", f"{accuracy_after.mean():.3f}", f"{same.all()}",
            )  # fmt: skip
    return table


def refusals(s: Floats, y: Floats, reference: Reference | None, sites: int) -> Table:
    """How many sites that tell too little are left alone, without labels."""
    table = Table("site", "pictures", "left alone")
    for name, pool, size in (
        ("all standard", s[y == 1], 100),
        ("all non-standard", s[y == 0], 100),
        ("all standard", s[y == 1], 400),
        ("all non-standard", s[y == 0], 400),
        ("few pictures", s, 20),
    ):
        if size > len(pool):
            continue
        left = 0
        for seed in range(sites):
            z = np.random.default_rng(seed).choice(pool, size, replace=False)
            left += fit_unlabelled(Samples.of(site_samples(z)), reference).map is None
        table.add_row(name, str(size), f"{left} of {sites}")
    return table


def promise_table(s: Floats, y: Floats, sites: int) -> Table:
    """Sites resampled from all pictures, fitted to their reviews alone, and whether all pictures
    keep what is promised there."""
    table = Table("reviews", "promised", "both sides", "kept", "kept where promised", "decided")
    for reviews in REVIEWS:
        promised = both = kept = kept_of_promised = 0
        decided = []
        for seed in range(sites):
            at = np.random.default_rng(seed).choice(len(s), reviews)
            samples = Samples.of(site_samples(s[at], y[at]))
            prior = SiteMap()
            site_map = prior if find_problem(samples) else fit_reviewed(samples, prior)
            promise = make_promise(samples, site_map, BAND, Tolerance())
            high, low = promise.standard.threshold, promise.non_standard.threshold
            p = site_map.probability(s)
            is_kept = (high is None or (y[p >= high] == 0).mean() <= 0.05) and (
                low is None or (y[p <= low] == 1).mean() <= 0.05
            )
            is_promised = high is not None or low is not None
            promised += is_promised
            both += high is not None and low is not None
            kept += is_kept
            kept_of_promised += is_kept and is_promised
            decided.append(1 - promise.left_to_people)
        table.add_row(
            str(reviews), f"{promised} of {sites}", str(both), f"{kept / sites:.1%}",
            f"{kept_of_promised / promised:.1%}" if promised else "-", f"{np.mean(decided):.0%}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()
