"""Mutated PDUs and data sets against a receiver of real processes on real sockets.

A failing case is written to a file (QC_FUZZ_OUT, else the test's folder) and played again with
QC_FUZZ_REPLAY=FILE; QC_FUZZ_SEED gives the default suite another seed.
"""

import asyncio
import hashlib
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from detector.errors import FAILURE_CLASS, FailureClass, QCError
from qc_daemon.audit_trail.chain import chain_name
from qc_daemon.audit_trail.verification import verify
from qc_daemon.receive.identifiers import data_set_offset
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Instance, Revision
from qc_daemon.score.decode import DecodeProcess
from qc_daemon.score.obgyn_report import STRUCTURED_REPORTS
from tests.support import fuzzing
from tests.support.dicom_objects import ultrasound
from tests.support.environment import ROOT
from tests.support.fuzzing import Case, Channel, DataCase, LostError, Seed, WireCase, WireResult
from tests.support.service import Service
from tests.support.waiting import eventually
from training.phantom.dicom import exam

SEED = int(os.environ.get("QC_FUZZ_SEED", "20261122"))
NETWORK_TIMEOUT = 2.0
# A bound on hanging, far above the network timeout: the machine may be busy.
PATIENCE = float(os.environ.get("QC_FUZZ_PATIENCE", "60"))
A_ROUND = int(os.environ.get("QC_FUZZ_CASES", "5000"))
QUICK_ROUND = int(os.environ.get("QC_FUZZ_CASES", "2000"))
WIRE_PART = 0.2
AT_ONCE = 50
PER_ASSOCIATION = 200
EXPECTED = {0x0000, 0xA700, 0xA900, 0xC000}

SETTINGS = f"""
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
network_timeout = {NETWORK_TIMEOUT}
max_associations = 128
max_associations_per_ae = 0
"""


@dataclass
class Target:
    """A receiver under fire, and how it was before."""

    service: Service
    home: Path
    out: Path
    acknowledged: dict[str, str] = field(default_factory=dict)
    before: Counter[str] = field(default_factory=Counter)
    pids: set[int] = field(default_factory=set)

    @property
    def port(self) -> int:
        return self.service.port

    def receivers(self) -> list[psutil.Process]:
        assert self.service.process is not None
        children = psutil.Process(self.service.process.pid).children(recursive=True)
        return [child for child in children if "receive" in child.cmdline()]

    def level(self) -> Counter[str]:
        """Threads and file handles of all receivers together."""
        level: Counter[str] = Counter()
        for process in self.receivers():
            level["threads"] += process.num_threads()
            level["handles"] += process.num_fds()
        return level

    def outside(self) -> set[Path]:
        """Files beside what a receiver may write: spool, database, log, audit log."""
        folder = self.service.folder
        return {
            path
            for path in folder.rglob("*")
            if path.is_file()
            and not path.is_relative_to(folder / "spool")
            and not path.is_relative_to(folder / "audit-log")
            and not path.name.startswith(("qc.", "log-"))
        }

    def fail(self, case: Case, why: str) -> None:
        path = self.out / f"{type(case).__name__}-{case.number}.json"
        fuzzing.write_case(case, path)
        pytest.fail(f"{why}; replay with QC_FUZZ_REPLAY={path}")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    folder, home = tmp_path / "receiver", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    out = Path(os.environ.get("QC_FUZZ_OUT", tmp_path))
    environment = {"HOME": str(home), "TMPDIR": str(home), "QC_LOG": "info"}
    service = Service(folder, SETTINGS, ("receive",), environment=environment)
    running_target = Target(service.start(), home, out)
    yield running_target
    service.end()


@pytest.fixture(scope="session")
def pool() -> list[Seed]:
    """The shared data where it is there; our own objects always."""
    shared = Path(os.environ.get("QC_SHARED_DATA", ROOT.parent / "shared" / "data"))
    own = [ultrasound(), *exam(5, cine_frames=2)[:2]]
    return fuzzing.seeds(shared if (shared / "index.csv").is_file() else None, own)


def attack(
    target: Target, pool: list[Seed], data: list[DataCase], wire: list[WireCase]
) -> Counter[str]:
    """Send everything, then hold the receiver to its promises."""
    warm(target, pool)
    tally: Counter[str] = Counter()
    send_data(target, pool, data, tally)
    for result in asyncio.run(fuzzing.run_cases(target.port, wire, AT_ONCE, PATIENCE)):
        note(target, result, tally)
    # It takes a sound object after all that, from a sender that knows nothing of it.
    sound = [DataCase(-1, each) for each in pool[:1]]
    send_data(target, pool, sound, tally)
    assert_unharmed(target)
    assert_all_stored(target)
    return tally


def warm(target: Target, pool: list[Seed]) -> None:
    """Fill the pools that a receiver keeps, and remember its level."""
    request = fuzzing.associate([(fuzzing.VERIFICATION, "1.2.840.10008.1.2")])
    calls = [WireCase(0, "warm", [request, fuzzing.RELEASE], True, "half") for _ in range(AT_ONCE)]
    asyncio.run(fuzzing.run_cases(target.port, calls, AT_ONCE, PATIENCE))
    send_data(target, pool, [DataCase(0, pool[0])], Counter())
    settle(target, Counter(threads=10_000, handles=10_000))
    target.before = target.level()
    target.pids = {process.pid for process in target.receivers()}


def send_data(target: Target, pool: list[Seed], cases: list[DataCase], tally: Counter[str]) -> None:
    channel: Channel | None = None
    for count, case in enumerate(cases, 1):
        status = None
        for attempt in (1, 2):
            try:
                channel = channel or Channel(target.port, pool)
                status = channel.store(case.seed, count)
                break
            except (LostError, OSError) as error:
                # The first time may be the network timeout, on a machine that stood still.
                channel = None
                if attempt == 2:
                    target.fail(case, f"association lost over a data set: {error}")
        if status not in EXPECTED | {None}:
            target.fail(case, f"status {status:04X}")
        if status == 0:
            key = hashlib.sha256(case.seed.data).hexdigest()
            target.acknowledged[key] = case.seed.instance
        tally["context refused" if status is None else f"{status:04X}"] += 1
        if channel is not None and count % PER_ASSOCIATION == 0:
            channel.close()
            channel = None
    if channel is not None:
        channel.close()


def note(target: Target, result: WireResult, tally: Counter[str]) -> None:
    if result.hung:
        target.fail(result.case, f"the receiver kept the connection open {PATIENCE:g} s")
    tally[f"{result.case.what}, {result.case.end}"] += 1
    tally["acknowledged on the wire"] += len(result.acknowledged)
    for instance in result.acknowledged:
        # By name: which of the mutated bytes were its data set only the receiver can say.
        target.acknowledged[f"instance {instance}"] = instance


def settle(target: Target, limit: Counter[str]) -> None:
    """Wait until no association is left: threads stand still at or below the limit."""
    last: list[Counter[str]] = []

    def still() -> bool:
        last.append(target.level())
        return len(last) > 3 and last[-1] == last[-4] and last[-1] <= limit

    eventually(still, PATIENCE)


def assert_unharmed(target: Target) -> None:
    # A pool may hold a few connections more than after the warm-up, three files each.
    limit = Counter(
        threads=target.before["threads"] + 2 * len(target.pids),
        handles=target.before["handles"] + 16 * len(target.pids),
    )
    settle(target, limit)
    assert {process.pid for process in target.receivers()} == target.pids
    for event in ("process died", "crashed", "object not taken"):
        assert target.service.events(event) == []
    assert list(target.home.iterdir()) == []
    assert target.outside() == set()
    assert verify(target.service.folder / "audit-log" / chain_name()).problems == []


def assert_all_stored(target: Target) -> None:
    """Every acknowledged object has its row and its bytes; every file its hash for a name."""
    store = Store(f"sqlite:///{target.service.folder / 'qc.db'}")
    spool = target.service.folder / "spool"
    with store.read() as session:
        rows = session.execute(
            select(Instance.sop_instance_uid, Revision.sha256, Revision.path).join(
                Revision, Revision.instance_id == Instance.id
            )
        ).all()
    store.close()
    stored: dict[str, str] = {}
    for row in rows:
        content = (spool / row.path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row.sha256 == Path(row.path).stem
        data = content[data_set_offset(spool / row.path) :]
        stored[hashlib.sha256(data).hexdigest()] = row.sop_instance_uid
        stored[f"instance {row.sop_instance_uid}"] = row.sop_instance_uid
    assert target.acknowledged.items() <= stored.items()
    # What was being received is dropped when its association is over.
    eventually(lambda: not list((spool / "incoming").iterdir()), PATIENCE)
    files = {path.relative_to(spool).as_posix() for path in spool.rglob("*") if path.is_file()}
    # That the service runs is said by files of its own.
    files = {each for each in files if each != "service.lock" and not each.startswith("services/")}
    assert files == {row.path for row in rows}


def assert_each_ends(target: Target, sample: int, seed: int) -> Counter[str]:
    """The decode stage says of each stored object what it is or why it can be nothing."""
    with Store(f"sqlite:///{target.service.folder / 'qc.db'}").read() as session:
        rows = session.execute(select(Revision.path, Revision.sop_class_uid)).all()
    sample_rows = random.Random(seed).sample(rows, min(sample, len(rows)))
    ends: Counter[str] = Counter()
    with DecodeProcess(megabytes=1024, seconds=PATIENCE) as decoder:
        for row in sample_rows:
            path = target.service.folder / "spool" / row.path
            try:
                if row.sop_class_uid in STRUCTURED_REPORTS:
                    decoder.measurements(path)
                else:
                    decoder.summary(path)
                ends["read"] += 1
            except QCError as error:
                ends[error.code.value] += 1
    quarantine_codes = {
        code.value for code, what in FAILURE_CLASS.items() if what is FailureClass.QUARANTINE
    }
    assert set(ends) <= quarantine_codes | {"read"}
    return ends


def cases(seed: int, pool: list[Seed], count: int) -> tuple[list[DataCase], list[WireCase]]:
    wire = int(count * WIRE_PART)
    return (
        [fuzzing.data_case(seed, number, pool) for number in range(count - wire)],
        [fuzzing.wire_case(seed, number, pool) for number in range(wire)],
    )


@pytest.mark.skipif("QC_FUZZ_REPLAY" in os.environ, reason="one case is being replayed")
def test_two_thousand_mutations(target: Target, pool: list[Seed]) -> None:
    print(f"seed {SEED}")
    tally = attack(target, pool, *cases(SEED, pool, QUICK_ROUND))
    print(dict(sorted(tally.items())))
    assert tally["0000"] > QUICK_ROUND // 10
    assert tally["A900"] > 0
    assert tally["C000"] > 0
    print(dict(assert_each_ends(target, 150, SEED)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1, 21))
def test_a_hundred_thousand_mutations(target: Target, pool: list[Seed], seed: int) -> None:
    """Twenty seeds of five thousand; `pytest --last-failed` or `-k` goes on with those left."""
    tally = attack(target, pool, *cases(seed, pool, A_ROUND))
    print(dict(sorted(tally.items())))
    print(dict(assert_each_ends(target, 500, seed)))


@pytest.mark.skipif("QC_FUZZ_REPLAY" not in os.environ, reason="QC_FUZZ_REPLAY names no case")
def test_replay(target: Target, pool: list[Seed]) -> None:
    case = fuzzing.read_case(Path(os.environ["QC_FUZZ_REPLAY"]))
    data = [case] if isinstance(case, DataCase) else []
    wire = [case] if isinstance(case, WireCase) else []
    attack(target, [*pool, *(each.seed for each in data)], data, wire)
