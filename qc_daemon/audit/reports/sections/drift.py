"""Drift of the pictures of a device or site."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from model.criteria.faults import capitalise
from qc_daemon.audit.charts.drawing import Table
from qc_daemon.audit.charts.time_charts import TimePoint, control_chart
from qc_daemon.audit.drift.image_drift import EMBEDDING
from qc_daemon.audit.reports import facts
from qc_daemon.audit.reports.composer import Composer
from qc_daemon.audit.reports.document import Block, ChartBlock, Heading, Paragraph, TableBlock
from qc_daemon.audit.reports.words import SHARE_FEATURES, change_words, feature_words
from qc_daemon.language.wording import Wording

_MOST_CHARTS = 3
_LEAST_Q = 0.001
"""A q-value below this is written as below it."""


def drift_section(composer: Composer) -> Iterator[Block]:
    """Of a device or site: which features of its pictures have moved."""
    w = composer.w
    own = composer.own_drift()
    if not own:
        return
    yield Heading(w.gettext("Drift of the pictures"))
    rows = tuple(
        (
            feature_words(d.feature, w),
            str(d.n),
            # Of an embedding it is another distance.
            "–" if d.feature == EMBEDDING else w.decimal(d.value, 3),
            change_words(d, w),
            _q_words(d.q, w),
            "–" if d.since is None else d.since.isoformat(),
            w.join(_remarks(composer, d)),
        )
        for d in own
    )
    columns = (
        w.gettext("Feature"),
        "n",
        w.gettext("Stability index (PSI)"),
        w.gettext("Mean before → now"),
        "q",
        w.gettext("Since"),
        w.gettext("Remark"),
    )
    yield TableBlock(Table("", columns, rows))
    if any(d.is_against_bundle for d in own):
        yield Paragraph(
            w.gettext(
                "There are no pictures of half a year yet to compare with: rows that say bundle"
                " compare with the pictures that calibrated the bundle, and before is their"
                " mean."
            ),
            is_small=True,
        )
    alarms = [d for d in own if d.is_alarm and d.months]
    alarms.sort(key=lambda d: -(d.value or 0.0))
    for each in alarms[:_MOST_CHARTS]:
        yield _chart(composer, each)
    if any(d.calls_for_calibration for d in own):
        yield Paragraph(
            w.gettext("The drift calls for a new site calibration: see qc-daemon site list.")
        )


def _remarks(composer: Composer, drift: facts.Drift) -> list[str]:
    remarks = [composer.w.gettext("alarm")] if drift.is_alarm else []
    return remarks + ([composer.w.gettext("bundle")] if drift.is_against_bundle else [])


def _chart(composer: Composer, drift: facts.Drift) -> ChartBlock:
    """The feature's means by four weeks, with where chance puts them about the reference."""
    centre = drift.before
    points = [
        TimePoint(
            month.day,
            month.value,
            centre,
            None if centre is None else centre - (month.value - month.low),
            None if centre is None else centre + (month.high - month.value),
            href=""
            if composer.link is None
            else composer.link(month.day, month.day + timedelta(days=27)),
        )
        for month in drift.months
    ]
    chart = control_chart(
        points,
        composer.events(),
        capitalise(feature_words(drift.feature, composer.w)),
        composer.w,
        is_share=drift.feature in SHARE_FEATURES,
        limit_words=composer.w.gettext("where chance puts it (95 %)"),
    )
    return ChartBlock(drift.feature.replace(":", "-"), chart)


def drift_lines(composer: Composer, alarms: Sequence[facts.Drift]) -> Iterator[str]:
    """A sentence for each answer of the models that moved, and one a device for all that moved
    in its pictures."""
    yield from (_drift_words(composer, d) for d in alarms if not d.is_of_pictures)
    of_pictures = [d for d in alarms if d.is_of_pictures]
    for device in sorted({d.id for d in of_pictures}):
        for is_against_bundle in (False, True):
            moved = [
                d
                for d in of_pictures
                if d.id == device and d.is_against_bundle == is_against_bundle
            ]
            if moved:
                yield _pictures_words(composer, device, moved, is_against_bundle=is_against_bundle)


def _pictures_words(
    composer: Composer, device: str, moved: Sequence[facts.Drift], *, is_against_bundle: bool
) -> str:
    """What has moved in the pictures themselves, since when."""
    w = composer.w
    since = min((d.since for d in moved if d.since is not None), default=None)
    changes = [
        f"{feature_words(d.feature, w)} {change_words(d, w)}"
        if d.before is not None
        else feature_words(d.feature, w)
        for d in sorted(moved, key=lambda d: (d.before is None, -(d.value or 0.0)))
    ]
    if is_against_bundle:
        return w.gettext(
            "{device}: the pictures are unlike those that the bundle was calibrated on:"
            " {changes}. Calibrate its site before its probabilities are relied on."
        ).format(device=composer.names.device(device), changes="; ".join(changes))
    return w.gettext(
        "{device}: the pictures themselves changed since {since}: {changes}. Compare gain,"
        " presets, probe and software with what they were before."
    ).format(
        device=composer.names.device(device),
        since="–" if since is None else since.isoformat(),
        changes="; ".join(changes),
    )


def _drift_words(composer: Composer, drift: facts.Drift) -> str:
    since = "–" if drift.since is None else drift.since.isoformat()
    return composer.w.gettext("{device}: drift of the {feature} since {since}.").format(
        device=composer.names.device(drift.id), feature=feature_words(drift.feature, composer.w),
        since=since,
    )  # fmt: skip


def _q_words(q: float | None, w: Wording) -> str:
    """An adjusted p-value; none is 0."""
    return f"< {w.decimal(_LEAST_Q, 3)}" if q is not None and q < _LEAST_Q else w.decimal(q, 3)
