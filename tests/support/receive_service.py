"""What the receiving faults share: a service that only receives, and what a sender got of it."""

from pathlib import Path

from sqlalchemy import func, select

from qc_daemon.records.store import Store
from qc_daemon.records.tables import Instance
from tests.support.service import Service

SETTINGS = """
[store]
url = "{url}"
spool = "{spool}"
[receive]
port = 0
network_timeout = {timeout}
{more}
"""


def receive_service(
    folder: Path,
    *,
    url: str = "sqlite:///qc.db",
    spool: str = "spool",
    timeout: float = 30,
    more: str = "",
    roles: tuple[str, ...] = ("receive",),
    environment: dict[str, str] | None = None,
) -> Service:
    """The service, not started."""
    settings = SETTINGS.format(url=url, spool=spool, timeout=timeout, more=more)
    return Service(folder, settings, roles, environment=environment or {})


def stored_uids(url: str) -> list[str]:
    """SOP Instance UIDs in the database, in order of arrival."""
    store = Store(url)
    try:
        with store.read() as session:
            return list(session.scalars(select(Instance.sop_instance_uid).order_by(Instance.id)))
    finally:
        store.close()


def count_rows(url: str, table: type, *where: object) -> int:
    """How many rows there are."""
    store = Store(url)
    try:
        with store.read() as session:
            statement = select(func.count()).select_from(table).where(*where)  # type: ignore[arg-type]
            return session.scalar(statement) or 0
    finally:
        store.close()
