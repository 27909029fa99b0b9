"""A site calibration in words, and as a record of one value a key."""

from typing import Any

from detector.plain_text import decimals
from model.site.figures import Figures
from model.site.promise import describe
from model.site.record import NONE, SiteRecord


def describe_record(record: SiteRecord) -> list[str]:
    """What a person wants to know of it, a plain sentence a line."""
    lines = [
        f"site {record.site}, calibration {record.id}: {record.kind}, {record.reason}",
        f"bundle {record.bundle.name} {record.bundle.version} ({record.bundle.model_id[:12]});"
        f" {record.findings} findings of {record.exams} exams, {record.reviews} reviewed",
    ]
    if record.kind != NONE:
        lines.append(_describe_shift(record))
    if record.before is not None and record.after is not None:
        lines += [
            _describe_figures("before", record.before),
            _describe_figures("after", record.after),
        ]
    if record.makes_worse:
        lines.append(f"not proposed: {describe_worse(record)}; review more findings")
    low, high = record.thresholds
    lines.append(f"left to a person: probabilities between {decimals(low)} and {decimals(high)}")
    if record.promise is not None:
        lines += describe(record.promise)
        if record.promise.views:
            lines.append(f"reviewed views: {', '.join(record.promise.views)}; of others no promise")
    return lines


def describe_worse(record: SiteRecord) -> str:
    """By which figures a calibration that `makes_worse` does; empty for another one."""
    if not record.makes_worse or record.before is None or record.after is None:
        return ""
    pairs = (
        ("calibration error", record.before.calibration_error, record.after.calibration_error),
        ("log loss", record.before.log_loss, record.after.log_loss),
    )
    words = [
        f"{name} {after.value:.3f} in place of {before.value:.3f}"
        for name, before, after in pairs
        if before is not None and after is not None
    ]
    return f"with exams left out in turn it is worse than the bundle as it is ({', '.join(words)})"


def record_row(record: SiteRecord) -> dict[str, Any]:
    """The record with one value a key, for lists."""
    promise = record.promise
    return {
        "id": record.id,
        "site": record.site,
        "kind": record.kind,
        "view": None if record.view is None else record.view.value,
        "device": record.device,
        "bundle": record.bundle.name,
        "bundle_version": record.bundle.version,
        "findings": record.findings,
        "exams": record.exams,
        "reviews": record.reviews,
        "shift": round(record.map.shift, 3),
        "promised": [
            name
            for name, side in (
                ()
                if promise is None
                else (("standard", promise.standard), ("non-standard", promise.non_standard))
            )
            if side.is_promised
        ],
        "reason": record.reason,
        "created": record.created,
    }


def _describe_shift(record: SiteRecord) -> str:
    if record.map.is_identity:
        return "probabilities stay as the bundle gives them"
    interval = record.shift_interval
    within = (
        "" if interval is None else f" (without labels {interval[0]:+.1f} to {interval[1]:+.1f})"
    )
    return (
        f"log odds of a standard view {record.map.shift:+.2f} at the threshold{within}, slope"
        f" {record.map.slope:.2f}; the order of the pictures stays"
    )


def _describe_figures(when: str, figures: Figures) -> str:
    words = []
    for name, figure in (
        ("calibration error", figures.calibration_error),
        ("accuracy", figures.accuracy),
        ("log loss", figures.log_loss),
    ):
        if figure is None:
            continue
        interval = figure.interval
        within = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
        words.append(f"{name} {figure.value:.3f}{within}")
    standard, review, other = figures.called
    return (
        f"{when}, of {figures.reviews} reviews: {', '.join(words)}; standard {standard:.0%},"
        f" review {review:.0%}, non-standard {other:.0%}"
    )
