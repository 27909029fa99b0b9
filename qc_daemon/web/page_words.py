"""Words of pages, by what is stored: tables, which `python -m tools.catalogue` reads too."""

from qc_daemon.records.received.progress import ExamStatus
from qc_daemon.report.sr import codes
from qc_daemon.report.summary.words import VERDICTS
from qc_daemon.review.state import ReviewStatus

__all__ = [
    "ACTIONS",
    "BOARD_VIEWS",
    "BUNDLE_STATES",
    "CHANGES",
    "CHECKS",
    "COLUMNS",
    "CONTENTS",
    "EVENTS",
    "FIELDS",
    "FIGURES",
    "GATES",
    "KINDS",
    "LOGIN_PROBLEMS",
    "MEASUREMENTS",
    "MOMENTS",
    "NUMBERS",
    "OUTCOMES",
    "REVIEW_VERBS",
    "SITE_STATES",
    "STATES",
    "TABLES",
    "VERDICTS",
    "VIEWS",
]

LOGIN_PROBLEMS = {
    "wrong": "Name or password is wrong.",
    "locked": "Too many wrong passwords. Wait some minutes, or ask an administrator.",
    "unavailable": "The log-in service does not answer. Try again in a moment, or use a password of"
    " this service.",
    "denied": "The log-in service let nobody in.",
    "outdated": "This log-in was begun too long ago, or in another window. Begin it again.",
    "not-accepted": "The log-in service's answer was not accepted. An administrator finds the"
    " reason in the log.",
    "unknown": "You have no account here. Ask an administrator for one.",
    "no-role": "None of your groups has a role here. Ask an administrator for one.",
    "name-taken": "Another account here has your name. An administrator can join the two.",
    "bad-name": "Your name there cannot be an account's name here. Ask an administrator.",
    "waiting": "Your account waits until an administrator lets it in.",
}
"""Why somebody is not let in."""
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
    "report": "read a person's report",
    "change": "changed",
}
KINDS = {"person": "person", "device": "device", "site": "site"}
BUNDLE_STATES = {"active": "active", "was active": "was active", "shipped": "shipped"}
SITE_STATES = {
    "calibrated": "calibrated",
    "waived": "calibration waived",
    "commissioning": "in commissioning",
}
FIGURES = {
    "calibration error": "calibration error",
    "accuracy": "accuracy",
    "log loss": "log loss",
    "called standard": "called standard",
    "left to a person": "left to a person",
    "called non-standard": "called non-standard",
}
CHECKS = {"ok": "in order", "warn": "should be known", "FAIL": "not in order"}
CHANGES = {
    "queue-retry": ("Retry jobs", "These jobs become ready again and are tried at once."),
    "queue-cancel": (
        "Cancel jobs",
        "These jobs are given up. They stay in the list and can be retried.",
    ),
    "quarantine-release": (
        "Score objects again",
        "These objects leave quarantine and are scored again.",
    ),
    "quarantine-dismiss": (
        "Dismiss objects",
        "Nothing more is done about these objects. They stay in quarantine and can be scored"
        " again. Write no patient's name into the reason.",
    ),
    "commitment-retry": ("Report again", "These requests are reported to who made them again."),
    "destination-retry": (
        "Send again",
        "Everything that was given up for this destination is sent again.",
    ),
    "destination-relearn": (
        "Offer again",
        "What this destination did not take is offered to it again.",
    ),
    "peer-add": ("Let a sender store", "This sender may store to us from now on."),
    "peer-approve": (
        "Approve a caller",
        "This caller may store to us from now on, with the certificate that it showed.",
    ),
    "peer-remove": ("Take an approval back", "This sender may store to us no more."),
    "audit-pause": ("Pause the audit", "The audit waits until somebody resumes it."),
    "audit-resume": ("Resume the audit", "The audit goes on where it was."),
    "audit-cancel": ("Cancel the audit", "The audit is given up. It can be run again."),
    "person-merge": (
        "Count a person as another",
        "Images of the first person count as the other's from now on. A split takes that back.",
    ),
    "person-split": (
        "Split a person again",
        "Images of this person count as this person's own again.",
    ),
    "person-rename": ("Rename a person", "This person is called so from now on."),
    "device-merge": (
        "Count a device as another",
        "Images of the first device count as the other's from now on. A split takes that back.",
    ),
    "device-split": (
        "Split a device again",
        "Images of this device count as this device's own again.",
    ),
    "device-rename": ("Rename a device", "This device is called so from now on."),
    "bundle-activate": (
        "Activate a bundle",
        "Exams that are opened from now on are scored with this bundle. What is stored stays.",
    ),
    "site-activate": (
        "Activate a site calibration",
        "New findings of the site get these probabilities and thresholds. What is stored stays.",
    ),
    "site-retire": (
        "Retire a site calibration",
        "Nothing is active at the site any more: new findings are flagged not-commissioned.",
    ),
    "site-waive": (
        "Waive calibration",
        "Verdicts at the site need no calibration for the active bundle: new findings are no"
        " longer flagged not-commissioned.",
    ),
}
"""Title and sentence of each change that an account may make."""
FIELDS = {
    "name": "Name",
    "into": "Other person, other device or new name",
    "address": "Address",
    "network": "Network, in place of the address",
    "certificate": "SHA-256 of its certificate",
    "reason": "Reason, on one line",
}
COLUMNS = {
    "id": "ID",
    "kind": "Kind",
    "destination": "Destination",
    "state": "State",
    "tries": "Tries",
    "attempts": "Tries",
    "not before": "Not before",
    "code": "Code",
    "message": "Message",
    "wait reason": "Waits for",
    "created": "Created",
    "since": "Since",
    "exam_id": "Exam",
    "calling_ae": "Calling AE title",
    "dismissed": "Dismissed",
    "dismissed_by": "Dismissed by",
    "dismissal_reason": "Why dismissed",
    "requested by": "Requested by",
    "transaction": "Transaction",
    "requested": "Requested",
    "reason": "Reason",
    "name": "Name",
    "waiting": "Waiting",
    "not committed": "Not committed",
    "given up": "Given up",
    "delivered": "Delivered",
    "does not take": "Does not take",
    "last error at": "Last error",
    "ae_title": "AE title",
    "address": "Address",
    "certificate": "Certificate",
    "last_seen": "Last seen",
    "called_ae": "Called AE title",
    "date": "Date",
    "audit": "Audit",
    "progress": "Progress",
    "from": "From",
    "updated": "Updated",
    "received_name": "Name in headers",
    "merged_into": "Counts as",
    "images": "Images",
    "first": "First image",
    "last": "Last image",
    "similar_to": "May be the same as",
    "similar_by": "Because of",
    "manufacturer": "Manufacturer",
    "model": "Model",
    "serial_number": "Serial number",
    "station_name": "Station name",
    "model_id": "Model id",
    "version": "Version",
    "family": "Family",
    "role": "Role",
    "agreed": "Agrees with the finding",
    "disagreed": "Does not agree",
    "silent": "Says nothing",
    "site": "Site",
    "calibration": "Calibration",
    "calibrations": "Calibrations",
    "findings": "Findings",
    "reviews": "Reviews",
    "shift": "Shift",
    "promised": "Promised",
    "action": "What",
    "decided_by": "By",
    "decided_at": "At",
    "proposed_at": "Proposed",
}
"""Heads of columns, by the names that commands give them."""
MOMENTS = frozenset(
    {
        "not before",
        "created",
        "since",
        "dismissed",
        "requested",
        "last error at",
        "last_seen",
        "updated",
        "first",
        "last",
        "decided_at",
        "proposed_at",
    }
)
"""Columns that have a moment."""
NUMBERS = frozenset(
    {
        *("id", "tries", "attempts", "exam_id", "images", "progress"),
        *("waiting", "not committed", "given up", "delivered"),
        *("agreed", "disagreed", "silent", "calibrations", "findings", "reviews", "shift"),
    }
)
"""Columns that have a number, which stands at the right."""
TABLES = (
    LOGIN_PROBLEMS,
    STATES,
    BOARD_VIEWS,
    CONTENTS,
    MEASUREMENTS,
    OUTCOMES,
    GATES,
    EVENTS,
    REVIEW_VERBS,
    ACTIONS,
    KINDS,
    BUNDLE_STATES,
    SITE_STATES,
    FIGURES,
    CHECKS,
    {name: title for name, (title, _) in CHANGES.items()},
    {name: sentence for name, (_, sentence) in CHANGES.items()},
    FIELDS,
    COLUMNS,
    {each: each for each in ExamStatus},
)
"""Every table with messages of pages; verdicts are in the catalogue already."""
