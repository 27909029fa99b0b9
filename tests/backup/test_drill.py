"""The restore drill: a backup under load, more load, a stop or a kill, and the backup put back.

Nothing that was acknowledged before the backup is missing, and what came later is named.
"""

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from qc_daemon.backup import restore, save
from qc_daemon.operations.spool import release_orphans
from qc_daemon.records import integrity, schema
from qc_daemon.settings import Settings
from qc_daemon.spool.verification import Condition, examine
from tests.support.dicom_objects import ultrasound
from tests.support.fault_load import PersistentSender
from tests.support.receive_service import receive_service, stored_uids
from tests.support.service import Service
from tests.support.waiting import eventually


class Drill:
    """A service that only receives, through one round after the other."""

    def __init__(self, folder: Path, url: str, seed: int) -> None:
        self.folder = folder
        self.service: Service = receive_service(
            folder, url=url, more="processes = 1", environment={"OMP_NUM_THREADS": "1"}
        )
        self.settings = Settings(store={"url": url, "spool": folder / "spool"})
        self.random = random.Random(seed)
        self.rounds = 0

    def round(self, *, kill: bool) -> None:
        self.rounds += 1
        folder = self.folder / f"backup-{self.rounds}"
        previous = self.rows()
        self.service.start()
        objects = [ultrasound(study=f"1.2.3.{self.rounds}") for _ in range(400)]
        with PersistentSender(self.service.port, objects, pause=0.0) as modality:
            eventually(lambda: modality.acknowledged)
            time.sleep(self.random.uniform(0.0, 0.2))
            acknowledged_before = list(modality.acknowledged)
            manifest = save(self.settings, folder, datetime.now(UTC))
            count = len(modality.acknowledged)
            eventually(lambda: len(modality.acknowledged) > count or modality.finished())
            time.sleep(self.random.uniform(0.0, 0.2))
            if kill:
                self.service.kill()
        if not kill:
            # A receiver that stops lets the association go on to its end.
            assert self.service.stop() == 0
        assert (manifest.missing, manifest.damaged) == ([], [])
        acknowledged = set(modality.acknowledged)
        if not kill:
            self.assert_one_file()

        restoration = restore(self.settings, folder, datetime.now(UTC))

        restored = self.rows()
        assert restoration.missing == ()
        # Nothing that the backup acknowledged is missing, neither row nor bytes …
        assert previous | set(acknowledged_before) <= restored
        self.assert_files_intact()
        # … what came later is named, and nothing else was lost.
        later = {each.sop_instance_uid for each in restoration.later}
        assert acknowledged - restored <= later
        assert not later & restored
        assert later, "no load between backup and end"
        self.assert_sound()
        if self.random.random() < 0.5:
            count = len(restoration.later)
            assert (
                release_orphans(self.settings, [each.sha256 for each in restoration.later]) == count
            )
            assert acknowledged <= self.rows()
            assert restore(self.settings, folder, datetime.now(UTC)).later == restoration.later

    def rows(self) -> set[str]:
        url = self.settings.store.url
        return set() if schema.has_no_tables(url) else set(stored_uids(url))

    def assert_one_file(self) -> None:
        """After a clean stop the database is one file."""
        file = schema.file_of(self.settings.store.url)
        assert file is None or schema.files_of(file) == [file]

    def assert_sound(self) -> None:
        result = integrity.examine(self.settings.store.url, full=True)
        assert (result.is_sound, result.is_full, result.faults) == (True, True, ())
        assert schema.check(self.settings.store.url) is None

    def assert_files_intact(self) -> None:
        engine = create_engine(self.settings.store.url)
        with engine.connect() as connection:
            paths = list(connection.execute(text("SELECT path, sha256 FROM revision")))
        engine.dispose()
        for path, sha256 in paths:
            assert examine(self.settings.store.spool / path, sha256) is Condition.INTACT


@pytest.fixture(params=["sqlite", "postgresql"])
def drill(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Drill]:
    url = f"sqlite:///{tmp_path / 'qc.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    new_drill = Drill(tmp_path, url, seed=20261129)
    yield new_drill
    new_drill.service.end()


def test_a_stopped_and_a_killed_service_are_restored(drill: Drill) -> None:
    drill.round(kill=False)
    drill.round(kill=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_random_rounds(drill: Drill) -> None:
    """50 on SQLite, 20 on PostgreSQL."""
    for _ in range(50 if drill.settings.store.url.startswith("sqlite") else 20):
        drill.round(kill=drill.random.random() < 0.6)
