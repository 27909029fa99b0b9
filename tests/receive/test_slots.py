"""Places for associations: counted over processes, freed when one dies."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from qc_daemon.receive.slots import Places

TAKE = """
import sys
from qc_daemon.receive.slots import Places
places = Places(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
print([places.take(title) for title in sys.argv[4:]], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def places() -> Iterator[Places]:
    made = Places.make(4, 2)
    yield made
    made.close()


def other(places: Places, *titles: str) -> "subprocess.Popen[str]":
    """Another process that takes places and keeps them until its input ends."""
    table = [places.descriptor, places.most, places.most_of_ae]
    return subprocess.Popen(
        [sys.executable, "-c", TAKE, *map(str, table), *titles],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=(places.descriptor,),
    )


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_no_more_than_there_are(places: Places) -> None:
    assert [places.take(f"AE{number}") for number in range(5)] == [0, 1, 2, 3, None]
    places.leave(2)
    assert places.take("LATE") == 2


def test_no_more_than_an_ae_may_have(places: Places) -> None:
    assert [places.take("A"), places.take(" A "), places.take("A")] == [0, 1, None]
    assert places.take("B") == 2
    places.leave(0)
    assert places.take("A") == 0


def test_no_cap_for_an_ae() -> None:
    places = Places.make(3, 0)
    assert [places.take("A") for _ in range(4)] == [0, 1, 2, None]
    places.close()


def test_processes_share_the_places(places: Places) -> None:
    assert places.take("A") == 0
    with other(places, "A", "A", "B", "C", "D") as process:
        assert said(process) == "[1, None, 2, 3, None]"
        assert places.take("E") is None
        assert places.held()[process.pid] == 3
        process.kill()
        process.wait()
        assert places.take("E") is None
        assert places.clear(process.pid) == 3
        assert [places.take("A"), places.take("E"), places.take("F")] == [1, 2, 3]


def test_a_long_or_odd_title_is_no_way_around(places: Places) -> None:
    title = "Ä" * 40
    assert [places.take(title) for _ in range(3)] == [0, 1, None]
