"""A receiver in this process, with what it wrote."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from qc_daemon.receive import Receiver, Spool
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, ExamHold, Instance, JobRow, Revision


@dataclass
class RunningReceiver:
    """A running receiver and what it wrote."""

    scp: Receiver
    store: Store
    spool: Spool
    port: int
    database: Path

    def rows(self, table: type) -> list:  # type: ignore[type-arg]
        with self.store.read() as session:
            return list(session.scalars(select(table)))

    def files(self) -> list[Path]:
        return sorted(path for path in self.spool.root.rglob("*") if path.is_file())

    def nothing_recorded(self) -> bool:
        tables = (Exam, Instance, Revision, JobRow, ExamHold)
        return not any(self.rows(table) for table in tables)
