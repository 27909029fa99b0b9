"""The report of a bundle that was tried in shadow: what it judges otherwise than is stored."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from qc_daemon.audit.charts.agreement_table import agreement_chart
from qc_daemon.audit.charts.drawing import Table
from qc_daemon.audit.reports.document import (
    Block,
    Callout,
    ChartBlock,
    Document,
    Heading,
    Items,
    Paragraph,
    Picture,
    Pictures,
    TableBlock,
)
from qc_daemon.audit.reports.words import Names, answer_words
from qc_daemon.language.wording import Wording


def bundle_report(
    content: Mapping[str, Any],
    names: Names,
    created: datetime,
    pictures: Sequence[Picture],
    w: Wording,
) -> Document:
    """What an audit in shadow says (its JSON values), with the pictures of the largest changes that
    may be shown, in their order."""
    counts, shadow, window = content["counts"], content["shadow"], content["window"]
    title = w.gettext("Another bundle in shadow: {name}").format(
        name=f"{shadow['name']} {shadow['version']}"
    )
    blocks: list[Block] = [
        Heading(w.gettext("In short")),
        Callout(
            w.gettext("{changed} of {count} pictures are judged otherwise").format(
                changed=counts["verdicts_changed"], count=counts["compared"]
            ),
            tuple(_in_short(content, w)),
        ),
        *_verdicts(content, w),
        Heading(w.gettext("By view and device")),
        TableBlock(_groups(content, names, w)),
        Paragraph(
            w.gettext(
                "+/−: standard as stored, non-standard in shadow; −/+: the other way. McNemar's"
                " test takes pictures for independent, which those of one exam are not; the"
                " interval of the change is of resampled exams."
            ),
            is_small=True,
        ),
        *_readers(content["readers"], w),
        Heading(w.gettext("Largest changes of the probability")),
        *_largest(content, pictures, w),
        *_left_out(content["left_out"], w),
    ]
    facts = (
        (w.gettext("Period"), f"{window['from']} – {window['to']}"),
        (w.gettext("Audit"), content["date"]),
        (w.gettext("Stored answers"), _stored_bundles(content)),
        (w.gettext("In shadow"), f"{shadow['name']} {shadow['version']}"),
        ("model_id", shadow["model_id"][:12]),
        (w.gettext("Pictures"), str(counts["compared"])),
    )
    return Document(
        title=title,
        language=w.language,
        notice=w.gettext("For the lab's quality control. It judges pictures, not people."),
        facts=facts,
        blocks=tuple(blocks),
        created=created,
        page_of=w.gettext("Page {page} of {pages}"),
        numbers=w.gettext("Numbers of the charts"),
    )


def change_lines(change: Mapping[str, Any], names: Names, w: Wording) -> tuple[str, str]:
    """Two lines below a picture: the stored answer, and that in shadow."""
    return (
        f"{w.gettext('Stored answers')}: {_answer(change['stored'], names, w)}",
        f"{w.gettext('In shadow')}: {_answer(change['shadow'], names, w)}",
    )


def _answer(answer: Mapping[str, Any], names: Names, w: Wording) -> str:
    verdict = _verdict(answer["verdict"], w)
    return f"{names.view(answer['view'])}, {verdict} ({w.percent(answer['probability'])})"


def _verdict(verdict: str, w: Wording) -> str:
    return w.gettext("undecided") if verdict == "review" else answer_words(verdict, w)


def _stored_bundles(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{each['name']} {each['version']}" for each in content["bundles"]) or "–"


def _in_short(content: Mapping[str, Any], w: Wording) -> Iterator[str]:
    group = content["all"]
    test, change = group["mcnemar"], group["change"]
    yield w.gettext(
        "From standard to non-standard: {worse}; from non-standard to standard: {better} (McNemar,"
        " p = {p})."
    ).format(worse=test["stored_only"], better=test["shadow_only"], p=w.decimal(test["p"], 4))
    if change["value"] is not None:
        yield w.gettext(
            "The share of standard pictures changes by {change} points ({low} to {high})."
        ).format(**{name: _points(change[key], w) for name, key in _CHANGE_KEYS.items()})
    if content["is_active"]:
        yield w.gettext("It is the bundle that is active now.")


_CHANGE_KEYS = {"change": "value", "low": "low", "high": "high"}


def _points(share: float | None, w: Wording) -> str:
    return w.decimal(None if share is None else 100 * share, 1)


def _verdicts(content: Mapping[str, Any], w: Wording) -> Iterator[Block]:
    group = content["all"]
    if not group["n"]:
        return
    answers = [_verdict(answer, w) for answer in group["answers"]]
    stored, shadow = w.gettext("Stored answers"), w.gettext("In shadow")
    title = w.gettext("Verdicts of both bundles on the same pictures")
    yield Heading(w.gettext("Verdicts"))
    yield ChartBlock("verdicts", agreement_chart(group["table"], answers, stored, shadow, title, w))


def _groups(content: Mapping[str, Any], names: Names, w: Wording) -> Table:
    groups = [(w.gettext("all"), content["all"])]
    groups += [(names.view(each["view"]), each) for each in content["views"]]
    groups += [(names.device(each["id"]), each) for each in content["devices"]]
    columns = (
        "",
        w.gettext("Pictures"),
        "+/−",
        "−/+",
        "p",
        w.gettext("Change, points"),
        "kappa",
        "AC1",
        w.gettext("Prevalence"),
    )
    return Table("", columns, tuple(_row(name, group, w) for name, group in groups))


def _row(name: str, group: Mapping[str, Any], w: Wording) -> tuple[str, ...]:
    test, change, agreement = group["mcnemar"], group["change"], group["agreement"] or {}
    interval = "–"
    if change["value"] is not None:
        low, high = _points(change["low"], w), _points(change["high"], w)
        interval = f"{_points(change['value'], w)} ({low} – {high})"
    prevalence = agreement.get("prevalence")
    return (
        name,
        str(group["n"]),
        str(test["stored_only"]),
        str(test["shadow_only"]),
        w.decimal(test["p"], 3),
        interval,
        w.decimal(agreement.get("kappa")),
        w.decimal(agreement.get("ac1")),
        w.percent(prevalence[0] if prevalence else None),
    )


def _readers(readers: Mapping[str, Any], w: Wording) -> Iterator[Block]:
    yield Heading(w.gettext("How far both agree with human readers"))
    if readers["stored"] is None:
        yield Paragraph(
            w.gettext("There are no blinded readings in this period to hold both against.")
        )
    else:
        lines = [
            w.gettext("{name}: {observed} of {n} readings agree; kappa {kappa}, AC1 {ac1}").format(
                name=name,
                observed=w.percent(readers[key]["observed"]),
                n=readers[key]["n"],
                kappa=w.decimal(readers[key]["kappa"]),
                ac1=w.decimal(readers[key]["ac1"]),
            )
            for name, key in (
                (w.gettext("Stored answers"), "stored"),
                (w.gettext("In shadow"), "shadow"),
            )
        ]
        yield Items(tuple(lines))
    yield Paragraph(
        w.ngettext(
            "A reading by somebody who saw the models' answer is no evidence: {count} is left out.",
            "Readings by people who saw the models' answer are no evidence: {count} are left out.",
            readers["unblinded"],
        ).format(count=readers["unblinded"]),
        is_small=True,
    )


def _largest(
    content: Mapping[str, Any], pictures: Sequence[Picture], w: Wording
) -> Iterator[Block]:
    total = len(content["largest"])
    if not total:
        yield Paragraph(w.gettext("No probability has changed."))
        return
    if pictures:
        yield Pictures(tuple(pictures))
    missing = total - len(pictures)
    if missing:
        yield Paragraph(
            w.ngettext(
                "{count} picture may not be shown, or its file is gone.",
                "{count} pictures may not be shown, or their files are gone.",
                missing,
            ).format(count=missing),
            is_small=True,
        )


def _left_out(left_out: Mapping[str, Any], w: Wording) -> Iterator[Block]:
    if not left_out["n"]:
        return
    yield Heading(w.gettext("Pictures that could not be scored again"))
    yield Items(
        tuple(f"{each['n']}: {each['code']} ({each['reason']})" for each in left_out["counts"])
    )
    numbers = ", ".join(str(each["finding_id"]) for each in left_out["pictures"][:_MOST_NAMED])
    more = "" if left_out["n"] <= _MOST_NAMED else " …"
    yield Paragraph(f"{w.gettext('Finding')}: {numbers}{more}", is_small=True)


_MOST_NAMED = 50
"""So many findings are named; audit show has them all."""
