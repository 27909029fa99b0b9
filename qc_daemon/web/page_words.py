"""Words of pages, by what is stored: tables, which `python -m tools.catalogue` reads too."""

from qc_daemon.records.received.progress import ExamStatus
from qc_daemon.report.sr import codes
from qc_daemon.report.summary.words import VERDICTS
from qc_daemon.review.state import ReviewStatus

__all__ = [
    "ACTIONS",
    "BOARD_VIEWS",
    "CONTENTS",
    "EVENTS",
    "GATES",
    "MEASUREMENTS",
    "OUTCOMES",
    "REVIEW_VERBS",
    "STATES",
    "TABLES",
    "VERDICTS",
    "VIEWS",
]

STATES = {
    "": "in quarantine",
    ReviewStatus.AUTOMATIC: "not read by a person",
    ReviewStatus.WAITING: "waits for a person",
    ReviewStatus.ACCEPTED: "accepted",
    ReviewStatus.OVERRIDDEN: "overridden",
    ReviewStatus.SECOND_READING: "waits for a blinded reading",
    ReviewStatus.DISAGREEMENT: "readings differ",
    ReviewStatus.RESOLVED: "resolved",
}
VIEWS = {view: code.meaning for view, code in codes.VIEWS.items()}
"""As overlays call them: in the catalogue already."""
BOARD_VIEWS = VERDICTS | {"missing": "MISSING", "pending": "not yet", "hidden": "read by a person"}
OUTCOMES = {"met": "met", "not-met": "not met", "cannot-tell": "cannot tell"}
CONTENTS = {
    None: "not read yet",
    "score": "first ones",
    "header": "as before: only the header differs",
    "other": "other ones than before",
}
"""How the pixels of an image's content relate to those before."""
MEASUREMENTS = {
    "CRL": "crown-rump length",
    "NT": "nuchal translucency",
    "GA": "gestational age",
    "GA-CRL": "gestational age by crown-rump length",
}
GATES = {"image": "image", "text": "text", "layout": "layout"}
EVENTS = {
    "accept": "accepted",
    "override": "overridden",
    "dispute": "disputed",
    "resolve": "resolved",
    "remark": "remarked",
    "unblind": "shown the answers",
    "read": "read",
}
REVIEW_VERBS = {
    "accept": "accept it",
    "override": "say otherwise",
    "read": "have read it blinded",
    "dispute": "dispute it",
    "resolve": "decide between the readings",
    "remark": "remark on it",
}
ACTIONS = {
    "login": "logged in",
    "login-refused": "log-in refused",
    "logout": "logged out",
    "exam": "looked at",
    "picture": "fetched a picture",
    "export": "exported",
    "review": "reviewed",
    "access-log": "read this list",
}
TABLES = (
    STATES,
    BOARD_VIEWS,
    CONTENTS,
    MEASUREMENTS,
    OUTCOMES,
    GATES,
    EVENTS,
    REVIEW_VERBS,
    ACTIONS,
    {each: each for each in ExamStatus},
)
"""Every table with messages of pages; verdicts are in the catalogue already."""
