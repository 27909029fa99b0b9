"""After an upgrade the running service reads who made the images that are stored already."""

from datetime import UTC, datetime
from pathlib import Path

from qc_daemon.records.acquisition import acquisitions, identities
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.store import Store
from qc_daemon.records.tables import IdentityKind, Revision
from tests.support.databases import migrate
from tests.support.dicom_objects import WHO_AND_WHERE, part10, ultrasound
from tests.support.receipts import receipt_of, write_file
from tests.support.service import Service
from tests.support.waiting import eventually

SETTINGS = """
[store]
url = "sqlite:///qc.db"
spool = "spool"
[receive]
port = 0
"""


def test_pending_images_are_read_after_the_start(tmp_path: Path) -> None:
    url, spool = f"sqlite:///{tmp_path / 'qc.db'}", tmp_path / "spool"
    migrate(url)
    store = Store(url)
    for _ in range(3):
        dataset = ultrasound(**WHO_AND_WHERE)
        path = write_file(part10(dataset), spool)
        with store.begin() as session:
            admission = admit(
                session,
                receipt_of(dataset, path, spool),
                source_destinations=(),
                bundle_id="m",
                now=datetime.now(UTC),
            )
            # As an older version left it: decoded, without facts.
            session.get_one(Revision, admission.revision_id).pixel_sha256 = "p"
    service = Service(tmp_path, SETTINGS, roles=("schedule",)).spawn()
    try:
        (line,) = eventually(lambda: service.events("acquisitions read"))
        assert line["count"] == 3
        assert service.stop() == 0
    finally:
        service.end()
    with store.read() as session:
        assert acquisitions.count_states(session) == {"read": 3, "unknown": 0, "pending": 0}
        persons = identities.every(session, IdentityKind.PERSON)
    assert {each.images for each in persons} == {3}
    assert "CANARY" not in service.log_file.read_text()
