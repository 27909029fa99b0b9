"""Which findings a person has to read, and which readings are followed by a second one.

Drawn by a keyed hash of the finding, so that asking again gives the same, and nobody without the
key can foresee it. The probability is stored with the reading: its inverse weighs the reading in
figures about all findings.
"""

import hmac
from collections.abc import Collection
from dataclasses import dataclass

from model.finding import REVIEW
from qc_daemon.review.events import Draw

LEFT_TO_PERSON = "left-to-person"
AT_RANDOM = "random"
NEAR_THRESHOLD = "near-threshold"
FLAGGED = "flag"
DISAGREES = "disagreement"
NEW_PERSON = "new-person"
NEW_DEVICE = "new-device"
OWN_PICTURE = "own-picture"


@dataclass(frozen=True, slots=True)
class Shares:
    """How much is drawn: `first` of the findings that the models are sure of, for a first reading;
    `second` of the first readings, and `risk` of those with a risk, for a second one. `near` is how
    far from one half a probability counts as near the thresholds; `flags` count as a risk."""

    first: float
    second: float
    risk: float
    near: float
    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class DrawnFinding:
    """What drawing goes by: `key` names the finding; the rest is what the models say of it."""

    key: str
    verdict: str
    probability: float | None
    flags: tuple[str, ...]


def draw_first(finding: DrawnFinding, shares: Shares, secret: bytes | None) -> Draw | None:
    """Why a person has to read the finding; None if nobody has to. Without a secret none is drawn
    at random."""
    if finding.verdict == REVIEW:
        return Draw((LEFT_TO_PERSON,), 1.0)
    if secret is not None and _uniform(secret, "first reading", finding.key) < shares.first:
        return Draw((AT_RANDOM,), shares.first)
    return None


def draw_second(
    finding: DrawnFinding,
    shares: Shares,
    secret: bytes,
    *,
    disagrees: bool,
    further: Collection[str] = (),
) -> Draw | None:
    """Why the first reading is followed by a second one; None if it is not.

    `disagrees`: the first reader and the models. `further` risks: NEW_PERSON, NEW_DEVICE, and
    OWN_PICTURE where the reader scanned it: own pictures are scored too high.
    """
    rules = list(_risks(finding, shares, disagrees)) + sorted(further)
    probability = max(shares.second, shares.risk) if rules else shares.second
    if _uniform(secret, "second reading", finding.key) >= probability:
        return None
    return Draw(tuple(rules) or (AT_RANDOM,), probability)


def _risks(finding: DrawnFinding, shares: Shares, disagrees: bool) -> list[str]:
    rules = []
    if finding.probability is not None and abs(finding.probability - 0.5) <= shares.near:
        rules.append(NEAR_THRESHOLD)
    if shares.flags.intersection(finding.flags):
        rules.append(FLAGGED)
    # Where the models left the verdict to a person there is nothing to disagree with.
    if disagrees and finding.verdict != REVIEW:
        rules.append(DISAGREES)
    return rules


def _uniform(secret: bytes, purpose: str, key: str) -> float:
    """A number in [0, 1) that only the secret, the purpose and the key decide."""
    digest = hmac.digest(secret, f"{purpose}\0{key}".encode(), "sha256")
    return int.from_bytes(digest[:7]) / 2**56
