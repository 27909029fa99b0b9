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
from tests.report.test_worker import Clinic

Make = Callable[..., Any]


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    """A PACS that takes SRs and overlays, and a folder that takes what rules give it."""
    made = Clinic(tmp_path, ["sr", "overlay"])
    made.settings.destination.append(
        DestinationSettings(name="qa", kind="folder", folder=tmp_path / "qa", objects=[])
    )
    yield made
    made.store.close()


def ruled(clinic: Clinic, **values: Any) -> None:
    clinic.settings.rule.append(RuleSettings(**{"name": "r", "to": ["qa"]} | values))


def routes(clinic: Clinic) -> list[tuple[str, str]]:
    """Kind and destination of each delivery, in the order they were made."""
    with clinic.store.read() as session:
        made = jobs.listing(session, kinds=[JobKind.DELIVER])
    return [(sent.kind, job.destination) for sent, job in zip(clinic.sent(), made, strict=True)]


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
    clinic: Clinic, us_header: Make, a_finding: Make, rule: dict[str, Any], to: str
) -> None:
    ruled(clinic, **{"objects": ["sr"]} | rule)
    one = us_header(StationName="Room 3", StudyDescription="Größe")
    two = us_header(SOPInstanceUID="1.2.3.77")
    clinic.receive(one, a_finding(SourceInstance.of(one, "")))
    clinic.receive(two, a_finding(SourceInstance.of(two, ""), view=View.CRL, quality="standard"))
    clinic.close()
    assert clinic.report()
    assert [where for kind, where in routes(clinic) if kind == "sr"] == [to]


def test_each_overlay_goes_by_its_own_finding(
    clinic: Clinic, us_header: Make, a_finding: Make
) -> None:
    ruled(clinic, objects=["overlay"], verdict=["non-standard"])
    ruled(clinic, name="no", objects=["overlay"], to=[], drop=True, view=["OTHER"])
    for number, (view, quality) in enumerate(
        [(View.NT, "non-standard"), (View.CRL, "standard"), (View.OTHER, "review")]
    ):
        header = us_header(SOPInstanceUID=f"1.2.3.{number}")
        clinic.receive(header, a_finding(SourceInstance.of(header, ""), view=view, quality=quality))
    clinic.close()
    assert clinic.report()
    assert routes(clinic) == [("sr", "pacs"), ("overlay", "qa"), ("overlay", "pacs")]


def test_overlays_that_go_nowhere_are_not_made(
    clinic: Clinic, us_header: Make, a_finding: Make
) -> None:
    ruled(clinic, objects=["overlay"], to=[], drop=True)
    header = us_header()
    clinic.receive(header, a_finding(SourceInstance.of(header, "")))
    clinic.close()

    def never(*_arguments: Any) -> Any:
        raise AssertionError("a frame was decoded")

    assert clinic.report(never)
    assert routes(clinic) == [("sr", "pacs")]


def test_an_amended_report_reaches_who_has_the_first(
    clinic: Clinic, us_header: Make, a_finding: Make
) -> None:
    """The exam was fine and its report went to the PACS; now it is not, and goes elsewhere too."""
    ruled(clinic, objects=["sr"], verdict=["non-standard"])
    ruled(clinic, name="no", objects=["overlay"], to=[], drop=True)
    first, late = us_header(), us_header(SOPInstanceUID="1.2.3.77")
    clinic.receive(first, a_finding(SourceInstance.of(first, ""), quality="standard"))
    clinic.close()
    assert clinic.report()
    clinic.receive(late, a_finding(SourceInstance.of(late, "")))
    clinic.close()
    assert clinic.report()
    assert routes(clinic) == [("sr", "pacs"), ("sr", "qa"), ("sr", "pacs")]
    # One that takes no SR any more is given none.
    clinic.settings.destination[0].objects = []
    last = us_header(SOPInstanceUID="1.2.3.78")
    clinic.receive(last, a_finding(SourceInstance.of(last, "")))
    clinic.close()
    assert clinic.report()
    assert routes(clinic)[3:] == [("sr", "qa")]
