"""Originals are routed at receipt: by sender and header, each to the destinations of its rule."""

from collections.abc import Callable
from typing import Any

import pytest

from qc_daemon.records.tables import JobRow
from qc_daemon.routing import Routes
from qc_daemon.settings import RuleSettings
from tests.support.dicom_objects import ultrasound
from tests.support.peers import store
from tests.support.running_receiver import RunningReceiver


def routed(receiver: RunningReceiver) -> list[str]:
    return sorted(job.destination for job in receiver.rows(JobRow) if job.kind == "deliver")


def routes(**values: Any) -> Routes:
    rule = {"name": "r", "objects": ["source"], "to": ["archive"]} | values
    return Routes([RuleSettings(**rule)], {"source": ["pacs"]})


@pytest.mark.parametrize(
    ("rule", "destinations"),
    [
        ({"calling_ae": "modal*"}, ["archive"]),
        ({"calling_ae": "OTHER"}, ["pacs"]),
        ({"station": "room?3"}, ["archive"]),
        ({"station": "room?4"}, ["pacs"]),
        ({"study": "*größe*", "to": ["archive", "pacs"]}, ["archive", "pacs"]),
        ({"study": "*groesse*"}, ["pacs"]),
        ({"station": "ROOM*", "study": "nothing"}, ["pacs"]),
        ({"station": "ROOM*", "to": [], "drop": True}, []),
        ({"objects": ["sr"]}, ["pacs"]),
    ],
)
def test_a_rule_decides_where_an_original_goes(
    start_receiver: Callable[..., RunningReceiver], rule: dict[str, Any], destinations: list[str]
) -> None:
    receiver = start_receiver(routes=routes(**rule))
    dataset = ultrasound(
        SpecificCharacterSet="ISO_IR 100",
        StationName="Room 3",
        StudyDescription="Messung der Größe",
    )
    assert store(receiver.port, dataset) == [0x0000]
    assert routed(receiver) == destinations


def test_what_goes_nowhere_is_scored_all_the_same(
    start_receiver: Callable[..., RunningReceiver],
) -> None:
    receiver = start_receiver(routes=routes(to=[], drop=True))
    assert store(receiver.port, ultrasound()) == [0x0000]
    assert [job.kind for job in receiver.rows(JobRow)] == ["score"]
