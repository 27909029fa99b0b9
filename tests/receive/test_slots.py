"""Association slots: counted over processes, freed when one dies."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from qc_daemon.receive.slots import AssociationSlots

TAKE = """
import sys
from qc_daemon.receive.slots import AssociationSlots
slots = AssociationSlots(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
print([slots.reserve(title) for title in sys.argv[4:]], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def slots() -> Iterator[AssociationSlots]:
    slots = AssociationSlots.create(4, 2)
    yield slots
    slots.close()


def other(slots: AssociationSlots, *titles: str) -> "subprocess.Popen[str]":
    """Another process that takes slots and keeps them until its input ends."""
    table = [slots.descriptor, slots.limit, slots.limit_per_ae]
    return subprocess.Popen(
        [sys.executable, "-c", TAKE, *map(str, table), *titles],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=(slots.descriptor,),
    )


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_no_more_than_there_are(slots: AssociationSlots) -> None:
    assert [slots.reserve(f"AE{number}") for number in range(5)] == [0, 1, 2, 3, None]
    slots.release(2)
    assert slots.reserve("LATE") == 2


def test_no_more_than_an_ae_may_have(slots: AssociationSlots) -> None:
    assert [slots.reserve("A"), slots.reserve(" A "), slots.reserve("A")] == [0, 1, None]
    assert slots.reserve("B") == 2
    slots.release(0)
    assert slots.reserve("A") == 0


def test_no_cap_for_an_ae() -> None:
    slots = AssociationSlots.create(3, 0)
    assert [slots.reserve("A") for _ in range(4)] == [0, 1, 2, None]
    slots.close()


def test_processes_share_the_slots(slots: AssociationSlots) -> None:
    assert slots.reserve("A") == 0
    with other(slots, "A", "A", "B", "C", "D") as process:
        assert read_line(process) == "[1, None, 2, 3, None]"
        assert slots.reserve("E") is None
        assert slots.count_by_process()[process.pid] == 3
        process.kill()
        process.wait()
        assert slots.reserve("E") is None
        assert slots.clear(process.pid) == 3
        assert [slots.reserve("A"), slots.reserve("E"), slots.reserve("F")] == [1, 2, 3]


def test_a_long_or_odd_title_is_no_way_around(slots: AssociationSlots) -> None:
    title = "Ä" * 40
    assert [slots.reserve(title) for _ in range(3)] == [0, 1, None]
