"""Routing rules at report time: the SR by the exam's findings, an overlay by its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detector.anatomy import View
from qc_daemon.records.queue import jobs
from qc_daemon.records.tables import JobKind
from qc_daemon.report.source import SourceInstance
from qc_daemon.settings import DestinationSettings, RuleSettings
from tests.support.scored_exam import ScoredExam

Make = Callable[..., Any]


@pytest.fixture
def scored_exam(tmp_path: Path) -> Iterator[ScoredExam]:
    """A PACS that takes SRs and overlays, and a folder that takes what rules give it."""
    deliver_jobs = ScoredExam(tmp_path, ["sr", "overlay"])
    deliver_jobs.settings.destination.append(
        DestinationSettings(name="qa", kind="folder", folder=tmp_path / "qa", objects=[])
    )
    yield deliver_jobs
    deliver_jobs.store.close()


def ruled(scored_exam: ScoredExam, **values: Any) -> None:
    scored_exam.settings.rule.append(RuleSettings(**{"name": "r", "to": ["qa"]} | values))


def routes(scored_exam: ScoredExam) -> list[tuple[str, str]]:
    """Kind and destination of each delivery, in the order they were made."""
    with scored_exam.store.read() as session:
        deliver_jobs = jobs.listing(session, kinds=[JobKind.DELIVER])
    return [
        (delivered.kind, job.destination)
        for delivered, job in zip(scored_exam.sent(), deliver_jobs, strict=True)
    ]


@pytest.mark.parametrize(
    ("rule", "to"),
    [
        ({"view": ["NT"], "verdict": ["non-standard"]}, "qa"),
        ({"view": ["CRL"], "verdict": ["non-standard"]}, "pacs"),
        ({"calling_ae": "voluson?"}, "qa"),
        ({"station": "room 3"}, "qa"),
        ({"study": "*größe*"}, "qa"),
        ({"station": "room 4"}, "pacs"),
        ({"objects": ["overlay"]}, "pacs"),
    ],
)
def test_the_report_goes_where_a_rule_sends_it(
    scored_exam: ScoredExam, us_header: Make, a_finding: Make, rule: dict[str, Any], to: str
) -> None:
    ruled(scored_exam, **{"objects": ["sr"]} | rule)
    one = us_header(StationName="Room 3", StudyDescription="Größe")
    two = us_header(SOPInstanceUID="1.2.3.77")
    scored_exam.receive_image(one)
    scored_exam.receive(
        two, a_finding(SourceInstance.of(two, ""), view=View.CRL, quality="standard")
    )
    scored_exam.close()
    assert scored_exam.report()
    assert [where for kind, where in routes(scored_exam) if kind == "sr"] == [to]


def test_each_overlay_goes_by_its_own_finding(
    scored_exam: ScoredExam, us_header: Make, a_finding: Make
) -> None:
    ruled(scored_exam, objects=["overlay"], verdict=["non-standard"])
    ruled(scored_exam, name="no", objects=["overlay"], to=[], drop=True, view=["OTHER"])
    for number, (view, quality) in enumerate(
        [(View.NT, "non-standard"), (View.CRL, "standard"), (View.OTHER, "review")]
    ):
        header = us_header(SOPInstanceUID=f"1.2.3.{number}")
        scored_exam.receive(
            header, a_finding(SourceInstance.of(header, ""), view=view, quality=quality)
        )
    scored_exam.close()
    assert scored_exam.report()
    assert routes(scored_exam) == [("sr", "pacs"), ("overlay", "qa"), ("overlay", "pacs")]


def test_overlays_without_a_destination_are_not_built(scored_exam: ScoredExam) -> None:
    ruled(scored_exam, objects=["overlay"], to=[], drop=True)
    scored_exam.receive_image()
    scored_exam.close()

    def never(*_arguments: Any) -> Any:
        raise AssertionError("a frame was decoded")

    assert scored_exam.report(never)
    assert routes(scored_exam) == [("sr", "pacs")]


def test_an_amended_report_reaches_who_has_the_first(
    scored_exam: ScoredExam, us_header: Make
) -> None:
    """The exam was fine and its report went to the PACS; now it is not, and goes elsewhere too."""
    ruled(scored_exam, objects=["sr"], verdict=["non-standard"])
    ruled(scored_exam, name="no", objects=["overlay"], to=[], drop=True)
    first, late = us_header(), us_header(SOPInstanceUID="1.2.3.77")
    scored_exam.receive_image(first, quality="standard")
    scored_exam.close()
    assert scored_exam.report()
    scored_exam.receive_image(late)
    scored_exam.close()
    assert scored_exam.report()
    assert routes(scored_exam) == [("sr", "pacs"), ("sr", "qa"), ("sr", "pacs")]
    # One that takes no SR any more is given none.
    scored_exam.settings.destination[0].objects = []
    last = us_header(SOPInstanceUID="1.2.3.78")
    scored_exam.receive_image(last)
    scored_exam.close()
    assert scored_exam.report()
    assert routes(scored_exam)[3:] == [("sr", "qa")]
