"""What a person's share would be with everybody's cases: indirect standardisation.

A logistic regression on the cases of all others says how many of a person's pictures others would
have got standard; hers against that number is her adjusted share. She is left out of her own
benchmark, for a large share of all pictures would be compared with itself.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from qc_daemon.audit.proportions import Proportion, tail

Floats = npt.NDArray[np.float64]

MIN_OF_CATEGORY = 20
"""A category (a device) of fewer pictures among the others is taken as unknown."""
MIN_OTHERS = 100
"""Of fewer pictures of others no benchmark is made."""


@dataclass(frozen=True, slots=True)
class Cases:
    """What pictures were of: (n,) each. `numbers` such as gestational age (None: not known) enter
    with their square; `categories` such as the device as they are."""

    numbers: Mapping[str, Sequence[float | None]]
    categories: Mapping[str, Sequence[Hashable | None]]


@dataclass(frozen=True, slots=True)
class AdjustedShare:
    """A person's share beside what others would have had of the same cases.

    `expected` is their number of successes; None where no benchmark can be made. `adjusted` is the
    share of all pictures times observed over expected, at most 1. `tail` is the smaller exact tail
    of a binomial of the mean expected share, whose variance is at least that of the cases.
    """

    share: Proportion
    overall: float
    expected: float | None

    @property
    def adjusted(self) -> float | None:
        """The share with everybody's cases, 0..1."""
        if not self.expected:
            return None
        return min(1.0, self.overall * self.share.x / self.expected)

    @property
    def tail(self) -> float | None:
        """The smaller exact tail probability, as `proportions.tail`."""
        if self.expected is None or not self.share.n:
            return None
        target = min(max(self.expected / self.share.n, 1e-9), 1 - 1e-9)
        return tail(self.share, target)


def adjust_shares(
    outcomes: npt.ArrayLike, persons: Sequence[Hashable], cases: Cases
) -> dict[Hashable, AdjustedShare]:
    """Of each person: (n,) outcomes 0 or 1 against what the others' cases predict.

    Raises ValueError where outcomes, persons and cases are not equally many.
    """
    y = np.asarray(outcomes, float)
    columns = [*cases.numbers.values(), *cases.categories.values()]
    if any(len(column) != len(y) for column in [persons, *columns]):
        raise ValueError("outcomes, persons and cases are not equally many")
    index = {person: row for row, person in enumerate(dict.fromkeys(persons))}
    number = np.array([index[person] for person in persons])
    overall = float(y.mean()) if len(y) else float("nan")
    shares = {}
    for person, row in index.items():
        is_own = number == row
        share = Proportion(int(y[is_own].sum()), int(is_own.sum()))
        shares[person] = AdjustedShare(share, overall, _expected(y, is_own, cases))
    return shares


def _expected(y: Floats, is_own: npt.NDArray[np.bool_], cases: Cases) -> float | None:
    """How many of the own rows the others would have got right."""
    others = y[~is_own]
    if len(others) < MIN_OTHERS or others.min() == others.max():
        return None
    design = _design(cases, ~is_own)
    if not design.shape[1]:
        return float(others.mean() * is_own.sum())
    # Almost no penalty: only what keeps a category of one outcome finite.
    model = LogisticRegression(C=1e4, max_iter=500).fit(design[~is_own], others)
    return float(model.predict_proba(design[is_own])[:, 1].sum())


def _design(cases: Cases, is_reference: npt.NDArray[np.bool_]) -> Floats:
    """(n, k): numbers standardised by the reference rows, their squares, whether they are unknown;
    a column a category that the reference has enough of, but for its commonest."""
    columns: list[Floats] = []
    for values in cases.numbers.values():
        x = np.array([np.nan if value is None else value for value in values], float)
        known = np.isfinite(x)
        inside = x[known & is_reference]
        if len(inside) < 2 or inside.std() == 0:
            continue
        z = np.where(known, (x - inside.mean()) / inside.std(), 0.0)
        columns += [z, np.where(known, np.square(z) - 1, 0.0), (~known).astype(float)]
    for labels in cases.categories.values():
        names = [str(label) if label is not None else None for label in labels]
        counts: dict[str, int] = {}
        for name, counted in zip(names, is_reference, strict=True):
            if counted and name is not None:
                counts[name] = counts.get(name, 0) + 1
        common = sorted(
            (name for name, count in counts.items() if count >= MIN_OF_CATEGORY),
            key=lambda name: (-counts[name], name),
        )
        columns += [np.array([each == name for each in names], float) for name in common[1:]]
        is_unknown = np.array([each not in common for each in names], float)
        if common and is_unknown.any():
            columns.append(is_unknown)
    varied = [column for column in columns if column[is_reference].std() > 0]
    return np.array(varied).T if varied else np.zeros((len(is_reference), 0))
