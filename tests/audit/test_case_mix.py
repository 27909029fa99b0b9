import numpy as np
import pytest
from scipy.special import expit

from qc_daemon.audit.case_mix import Cases, adjust_shares
from qc_daemon.audit.proportions import ALARM, tail


def make_lab(seed, persons=20, pictures=300):
    """Early scans and device B are harder; person 0 has hard cases only, person 1 is worse."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(persons), pictures)
    days = rng.uniform(77, 97, len(who))
    days[who == 0] = rng.uniform(77, 82, pictures)
    device = np.where(rng.random(len(who)) < 0.3, "B", "A")
    device[who == 0] = np.where(rng.random(pictures) < 0.8, "B", "A")
    logit = 2.0 + 0.12 * (days - 87) - 1.0 * (device == "B") - 1.2 * (who == 1)
    y = rng.random(len(who)) < expit(logit)
    return y.astype(int), who.tolist(), days, device


def test_hard_cases_are_no_fault_and_a_worse_person_stays_one():
    y, who, days, device = make_lab(0)
    cases = Cases({"days": days.tolist()}, {"device": device.tolist()})
    shares = adjust_shares(y, who, cases)
    hard, worse = shares[0], shares[1]
    assert tail(hard.share, hard.overall) < ALARM
    assert hard.tail > 0.01
    assert hard.adjusted == pytest.approx(hard.overall, abs=0.05)
    assert worse.tail < ALARM
    assert worse.adjusted < worse.overall - 0.05
    usual = [share.tail for person, share in shares.items() if person > 1]
    assert sum(each < ALARM for each in usual) == 0


def test_without_cases_the_benchmark_is_the_others_share():
    y, who, _, _ = make_lab(1, persons=5)
    shares = adjust_shares(y, who, Cases({}, {}))
    others = np.array([w != 2 for w in who])
    assert shares[2].expected == pytest.approx(y[others].mean() * 300)


def test_unknown_ages_and_a_device_of_one_person_alone_are_taken():
    y, who, days, device = make_lab(2, persons=6)
    ages = [None if k % 3 == 0 else float(d) for k, d in enumerate(days)]
    devices = ["own" if w == 3 else str(d) for w, d in zip(who, device, strict=True)]
    shares = adjust_shares(y, who, Cases({"days": ages}, {"device": devices}))
    assert all(0 < share.expected < share.share.n for share in shares.values())
    assert all(0 <= share.adjusted <= 1 for share in shares.values())


def test_too_few_others_are_no_benchmark():
    shares = adjust_shares([1, 0, 1], ["a", "a", "b"], Cases({}, {}))
    assert shares["a"].expected is None
    assert shares["a"].adjusted is None
    assert shares["a"].tail is None
    assert adjust_shares([], [], Cases({}, {})) == {}


def test_rows_must_match():
    with pytest.raises(ValueError, match="equally many"):
        adjust_shares([1, 0], ["a"], Cases({}, {}))
