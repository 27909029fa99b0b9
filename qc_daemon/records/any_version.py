"""Questions that the tables of every version answer, by plain SQL on the columns of the first."""

from sqlalchemy import text
from sqlalchemy.orm import Session


def active_bundle(session: Session) -> tuple[str, str] | None:
    """Folder and model id of the bundle that new exams are scored with; None before the first."""
    query = "SELECT path, model_id FROM active_bundle ORDER BY activated_at DESC, model_id LIMIT 1"
    row = session.execute(text(query)).first()
    return None if row is None else (str(row[0]), str(row[1]))


def count_jobs(session: Session) -> dict[str, int]:
    """The number of jobs in each state that has any."""
    rows = session.execute(text("SELECT state, count(*) FROM job GROUP BY state"))
    return {str(state): int(count) for state, count in rows}


def count_open_exams(session: Session) -> int:
    """The number of exams to which more may come."""
    query = "SELECT count(*) FROM exam WHERE state = 'open'"
    return int(session.execute(text(query)).scalar_one())
