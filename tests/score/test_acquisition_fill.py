"""Facts of images that an older version scored, read from the spool after the start."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from detector.errors import ErrorCode, QCError
from qc_daemon.operations.acquisitions import count_acquisitions, fill_acquisitions
from qc_daemon.records.acquisition import acquisitions, identities
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.store import Store
from qc_daemon.records.tables import AcquisitionRow, IdentityKind, Revision
from qc_daemon.score.acquisition_fill import Filled, fill, fill_in_background
from qc_daemon.score.decode import DecodeProcess
from qc_daemon.settings import Settings
from tests.support.databases import migrate
from tests.support.dicom_objects import part10, ultrasound
from tests.support.receipts import receipt_of, write_file

NOW = datetime(2026, 11, 29, tzinfo=UTC)
COUNT = 7


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(
        store={"url": f"sqlite:///{tmp_path / 'qc.db'}", "spool": tmp_path / "spool"}
    )
    migrate(settings.store.url)
    return settings


@pytest.fixture
def store(settings: Settings) -> Store:
    """Images as an older version left them: decoded, without facts; the second's file is gone and
    the third's is damaged."""
    store = Store(settings.store.url)
    for number in range(1, COUNT + 1):
        dataset = ultrasound(OperatorsName=f"Doe^{number % 2}")
        path = write_file(part10(dataset), settings.store.spool)
        receipt = receipt_of(dataset, path, settings.store.spool)
        with store.begin() as session:
            admission = admit(session, receipt, source_destinations=(), bundle_id="m", now=NOW)
            session.get_one(Revision, admission.revision_id).pixel_sha256 = "p"
        if number == 2:
            path.unlink()
        if number == 3:
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    return store


def counts(store: Store) -> dict[str, int]:
    with store.read() as session:
        return acquisitions.count_states(session)


def test_all_are_read_and_what_is_gone_is_unknown(settings: Settings, store: Store) -> None:
    assert fill_acquisitions(settings, with_unknown=False).startswith(
        "5 images were read; of 2 the file is gone"
    )
    assert count_acquisitions(settings) == {"read": 5, "unknown": 2, "pending": 0}
    with store.read() as session:
        persons = identities.every(session, IdentityKind.PERSON)
        states = [session.get_one(AcquisitionRow, n).state for n in range(1, COUNT + 1)]
    assert {each.row.received_name: each.images for each in persons} == {"Doe^0": 2, "Doe^1": 3}
    assert states[1:3] == ["unknown", "unknown"]
    assert fill_acquisitions(settings, with_unknown=False) == "nothing is left to be read"


def test_a_file_that_came_back_is_read_when_told(settings: Settings, store: Store) -> None:
    fill_acquisitions(settings, with_unknown=False)
    with store.begin() as session:
        revision = session.get_one(Revision, 2)
        path = settings.store.spool / revision.path
        content = part10(ultrasound(OperatorsName="Roe^R"))
        path = write_file(content, settings.store.spool)
        revision.path = path.name
    assert fill_acquisitions(settings, with_unknown=True).startswith("1 image was read; of 1")
    assert counts(store) == {"read": 6, "unknown": 1, "pending": 0}


def test_it_stops_at_once_and_goes_on_where_it_was(settings: Settings, store: Store) -> None:
    stop = threading.Event()

    class Stopping(DecodeProcess):
        """Stops the fill after the second image."""

        calls = 0

        def acquisition(self, path: Path, sha256: str | None = None) -> object:
            self.calls += 1
            if self.calls == 2:
                stop.set()
            return super().acquisition(path, sha256)

    with Stopping() as decoder:
        assert fill(store, settings.store.spool, decoder, stop) == Filled(1, 1)
        assert counts(store)["pending"] == COUNT - 2
        assert fill(store, settings.store.spool, decoder, threading.Event()) == Filled(4, 1)
    assert counts(store)["pending"] == 0


def test_without_the_spool_nothing_is_called_unknown(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    settings.store.spool.rename(tmp_path / "away")
    with pytest.raises(QCError) as caught:
        fill_acquisitions(settings, with_unknown=False)
    assert caught.value.code is ErrorCode.SPOOL_MISSING
    with DecodeProcess() as decoder, pytest.raises(QCError, match="away"):
        fill(store, settings.store.spool, decoder, threading.Event())
    assert counts(store)["pending"] == COUNT


def test_in_the_background_it_ends_when_all_are_read(settings: Settings, store: Store) -> None:
    fill_in_background(store, settings.store.spool, DecodeProcess, threading.Event())
    assert counts(store)["pending"] == 0

    def no_decoder() -> DecodeProcess:
        raise AssertionError("nothing is left to be read")

    fill_in_background(store, settings.store.spool, no_decoder, threading.Event())
