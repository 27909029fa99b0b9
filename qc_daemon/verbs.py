"""What an account may do: verbs, and the roles that are sets of them.

A route or a query asks for a verb, never for a role, so that a hospital can name roles of its own.
"""

from collections.abc import Mapping
from enum import StrEnum


class Verb(StrEnum):
    """One thing that an account may do."""

    SEE_OWN = "see-own"
    SEE_ALL = "see-all"
    SEE_PATIENTS = "see-patients"
    SEE_BOARD = "see-board"
    REVIEW = "review"
    DISPUTE = "dispute"
    SEE_OPERATIONS = "see-operations"
    OPERATE = "operate"
    MANAGE_IDENTITIES = "manage-identities"
    ACTIVATE_MODELS = "activate-models"
    SEE_ACCESS = "see-access"
    MANAGE_ACCOUNTS = "manage-accounts"


VERB_WORDS: Mapping[Verb, str] = {
    Verb.SEE_OWN: "findings and pictures of images that its own person made",
    Verb.SEE_ALL: "findings and pictures of everybody's images",
    Verb.SEE_PATIENTS: "names and numbers of patients",
    Verb.SEE_BOARD: "the live board with everybody's exams of the day, without patients",
    Verb.REVIEW: "accept, override, read blinded and resolve",
    Verb.DISPUTE: "dispute a finding and remark on it",
    Verb.SEE_OPERATIONS: "queue, quarantine and destinations, without patients",
    Verb.OPERATE: "retry, cancel, release and dismiss; approve and remove peers; audits",
    Verb.MANAGE_IDENTITIES: "merge, split and rename persons and devices",
    Verb.ACTIVATE_MODELS: "activate bundles and site calibrations",
    Verb.SEE_ACCESS: "who looked at whom",
    Verb.MANAGE_ACCOUNTS: "accounts and their sessions",
}
"""What each verb allows, in words."""

DEFAULT_ROLES: Mapping[str, frozenset[Verb]] = {
    "administrator": frozenset({Verb.MANAGE_ACCOUNTS, Verb.SEE_ACCESS, Verb.SEE_OPERATIONS}),
    "sonographer": frozenset({Verb.SEE_OWN, Verb.SEE_PATIENTS, Verb.DISPUTE}),
    "lead": frozenset(
        {
            Verb.SEE_ALL,
            Verb.SEE_PATIENTS,
            Verb.REVIEW,
            Verb.DISPUTE,
            Verb.MANAGE_IDENTITIES,
            Verb.ACTIVATE_MODELS,
        }
    ),
    "engineer": frozenset({Verb.SEE_OPERATIONS, Verb.OPERATE}),
    "kiosk": frozenset({Verb.SEE_BOARD}),
    "auditor": frozenset({Verb.SEE_ALL, Verb.SEE_PATIENTS, Verb.SEE_ACCESS, Verb.SEE_OPERATIONS}),
}
"""The roles that there are unless `[[web.role]]` says otherwise."""
