"""Audits of made-up histories: what is planted is named, and nobody else.

The seeds are none that the audit was tuned on.
"""

import json
import math
import re
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest

from qc_daemon.audit.audit import AuditRules, criteria_version, make_audit
from qc_daemon.audit.nuchal import NuchalCurve
from qc_daemon.audit.readings import ReadingPair, Readings
from qc_daemon.audit.rows import Rows, RowsBuilder
from qc_daemon.audit.statistics.history import LimitKey, PointLimits, history, share_points
from qc_daemon.records.results.audits import encode
from tests.support.histories import (
    VIEWS,
    WINDOW_DAYS,
    audit_history,
    audit_of,
    false_alarms,
    misses,
    rows_of,
)
from training.phantom.history import make_history


@pytest.fixture(scope="module")
def truth_and_rows() -> tuple[dict[str, Any], Rows]:
    truth, lines = make_history(501, 20_000)
    return truth, rows_of(lines)


@pytest.fixture(scope="module")
def rows(truth_and_rows: tuple[dict[str, Any], Rows]) -> Rows:
    return truth_and_rows[1]


@pytest.fixture(scope="module")
def small() -> Rows:
    """Of a history that is too short to find all that is planted."""
    return rows_of(make_history(502, 1200)[1])


@pytest.fixture(scope="module")
def content(rows: Rows) -> dict[str, Any]:
    return audit_of(rows).content


def subject(content: dict[str, Any], id: str) -> dict[str, Any]:
    return next(each for each in content["subjects"] if each["id"] == id)


def measure(content: dict[str, Any], id: str, name: str) -> dict[str, Any]:
    return next(each for each in subject(content, id)["measures"] if each["name"] == name)


def test_everything_planted_is_named_and_the_case_mix_person_is_not(
    truth_and_rows: tuple[dict[str, Any], Rows], content: dict[str, Any]
) -> None:
    assert misses(truth_and_rows[0], content) == []


def test_the_case_mix_person_would_be_called_without_her_cases(
    truth_and_rows: tuple[dict[str, Any], Rows], content: dict[str, Any]
) -> None:
    own = measure(content, truth_and_rows[0]["case_mix_person"], "standard")
    assert own["unadjusted"]["flag"] == "alarm"
    assert own["flag"] is None
    assert own["adjusted"]["value"] > own["value"] + 0.05


def test_an_alarm_says_what_others_had_of_the_same_cases(
    truth_and_rows: tuple[dict[str, Any], Rows], content: dict[str, Any]
) -> None:
    own = measure(content, truth_and_rows[0]["outlier_person"], "standard")
    assert own["flag"] == "alarm"
    assert own["rule"] == "false-discovery"
    assert own["low"] < own["value"] < own["high"] < own["limits"]["low_alarm"]
    assert own["value"] == pytest.approx(own["x"] / own["n"], abs=1e-6)
    assert own["adjusted"]["q"] <= 0.01
    assert 0 < own["power"] <= 1


def test_a_flag_names_rule_limit_models_and_criteria(
    truth_and_rows: tuple[dict[str, Any], Rows], content: dict[str, Any]
) -> None:
    outlier = truth_and_rows[0]["outlier_person"]
    flag = next(f for f in subject(content, outlier)["flags"] if f["measure"] == "standard")
    limits = measure(content, outlier, "standard")["limits"]
    assert flag["rule"] == "false-discovery"
    assert flag["limit"] == {key: limits[key] for key in ("target", "low_alarm", "high_alarm")}
    assert flag["model_id"] == content["bundle"]["model_id"]
    assert flag["criteria_version"] == content["criteria_version"]
    assert re.fullmatch("[0-9a-f]{16}", content["criteria_version"])
    assert content["criteria_version"] != criteria_version("another bundle")
    trend = next(
        f
        for f in subject(content, truth_and_rows[0]["improving_person"])["flags"]
        if f["measure"] == "trend"
    )
    assert trend["limit"] is None


def test_a_sum_begins_again_after_its_signal(
    truth_and_rows: tuple[dict[str, Any], Rows], content: dict[str, Any]
) -> None:
    own = measure(content, truth_and_rows[0]["outlier_person"], "standard")["cusum"]
    # One image adds the logarithm of the odds ratio at most.
    largest = own["limit"] + math.log(own["ratio"])
    assert own["limit"] < max(own["upper"]) <= largest
    assert sum(each > own["limit"] for each in own["upper"]) > 1


def test_a_drift_calls_for_a_new_calibration_and_says_since_when(
    truth_and_rows: tuple[dict[str, Any], Rows], content: dict[str, Any]
) -> None:
    truth = truth_and_rows[0]
    drift = next(
        each for each in content["drift"] if each["flag"] and each["feature"] == "log-odds"
    )
    assert drift["id"] == truth["drifting_device"]
    assert drift["calibrate"] is True
    assert drift["shift"] < -0.5
    begin = date.fromisoformat(truth["drift_begins"])
    assert abs(date.fromisoformat(drift["since"]) - begin) < timedelta(days=150)


def test_a_drift_of_the_pictures_says_what_changed_from_what_to_what(
    truth_and_rows: tuple[dict[str, Any], Rows], content: dict[str, Any]
) -> None:
    truth = truth_and_rows[0]
    drift = next(
        each for each in content["drift"] if each["flag"] and each["feature"] == "image:mean"
    )
    assert drift["id"] == truth["drifting_device"]
    assert drift["after"] - drift["before"] == pytest.approx(14, abs=4)
    assert drift["calibrate"] is False
    assert drift["months"][0]["value"] == pytest.approx(drift["before"], abs=3)
    assert drift["months"][-1]["value"] == pytest.approx(drift["after"], abs=3)
    assert drift["words"] == (
        f"image statistics of device {drift['id']} changed since about {drift['since']}:"
        f" mean grey level {drift['before']:.0f} → {drift['after']:.0f}"
    )


def test_a_persons_points_are_of_enough_pictures(content: dict[str, Any], rows: Rows) -> None:
    lengths = set()
    for each in content["subjects"]:
        for one in each["measures"]:
            own = one["own_trend"]
            if own is None:
                continue
            assert each["kind"] == "person"
            lengths.add(own["weeks"])
            assert all(point["n"] >= own["least"] for point in own["points"])
            assert own["least"] == (10 if one["name"] == "nt-bias" else 20)
            for point in own["points"]:
                begin, end = (date.fromisoformat(point[name]) for name in ("from", "to"))
                assert begin.weekday() == 0
                assert (end - begin).days + 1 == 7 * own["weeks"]
                assert end <= date.fromordinal(int(rows.day.max()))
    assert lengths == {4, 13}


def test_limits_of_a_persons_points_stay() -> None:
    quarter = np.repeat(np.arange(8_100, 8_108), 30)
    outcome = (np.arange(len(quarter)) % 5 > 0).astype(float)
    of = ("person", "p1", "standard/13-weeks", dict[int, str]())
    points, _, limits = history(share_points(outcome, quarter), {}, *of, weeks=13)
    key = LimitKey("person", "p1", "standard/13-weeks", points[3]["from"])
    assert key in limits
    stored = {**limits, key: PointLimits(0.5, 0.25, 0.75)}
    again, _, new = history(share_points(outcome, quarter), stored, *of, weeks=13)
    assert new == {}
    point = again[3]
    assert (point["centre"], point["low_limit"], point["high_limit"]) == (0.5, 0.25, 0.75)
    assert again[:3] + again[4:] == points[:3] + points[4:]


def test_a_bias_of_few_exams_has_less_power_than_of_many(content: dict[str, Any]) -> None:
    judged = sorted(
        (one["n"], one["power"])
        for each in content["subjects"]
        if each["kind"] == "person"
        for one in each["measures"]
        if one["name"] == "nt-bias" and one["judged"]
    )
    assert all(0 < power < 1 for _, power in judged)
    few, many = judged[0], judged[-1]
    assert few[0] * 2 < many[0]
    assert few[1] * 2 < many[1]


def test_a_change_of_the_models_is_nobodys(content: dict[str, Any]) -> None:
    [change] = content["changes"]
    assert change["devices"][0] >= 7
    assert change["shift"] == pytest.approx(-0.9, abs=0.4)
    assert change["p"] < 0.001


def test_nobody_is_judged_by_fewer_than_thirty(content: dict[str, Any]) -> None:
    few = 0
    for each in content["subjects"]:
        for one in each["measures"]:
            if one["n"] < 30:
                few += 1
                assert not one["judged"]
                assert one["flag"] is None
                assert one["power"] is None
    assert few > 100


def test_the_same_rows_give_the_same_bytes_in_whatever_order_they_were_read(
    small: Rows,
) -> None:
    content = audit_of(small).content
    _, lines = make_history(502, 1200)
    backwards = audit_of(rows_of(reversed(list(lines)))).content
    # What was read first has other numbers in that database.
    for each in (*content["subjects"], *backwards["subjects"]):
        each.pop("examples", None)
    assert encode(backwards) == encode(content)


def test_limits_that_were_stored_stay(small: Rows) -> None:
    first = audit_of(small)
    key = next(key for key in first.limits if key.measure == "standard" and key.kind == "person")
    old = PointLimits(0.5, 0.25, 0.75)
    again = audit_of(small, {**first.limits, key: old})
    assert again.limits == {}
    points = measure(again.content, key.subject, "standard")["history"]
    [point] = [each for each in points if each["from"] == key.starts_on]
    assert (point["centre"], point["low_limit"], point["high_limit"]) == (0.5, 0.25, 0.75)
    others = [each for each in points if each["from"] != key.starts_on]
    before = measure(first.content, key.subject, "standard")["history"]
    assert others == [each for each in before if each["from"] != key.starts_on]


def test_weeks_are_whole_and_each_has_its_limits(content: dict[str, Any], rows: Rows) -> None:
    last = date.fromordinal(int(rows.day.max()))
    points = content["group"]["measures"][0]["history"]
    assert len(points) > 90
    for each in points:
        begin, end = date.fromisoformat(each["from"]), date.fromisoformat(each["to"])
        assert begin.weekday() == 0
        assert end - begin == timedelta(days=6)
        assert end <= last
        assert each["low_limit"] <= each["centre"] <= each["high_limit"]
        assert each["low"] <= each["value"] <= each["high"]


def test_a_persons_devices_stand_beside_her(content: dict[str, Any]) -> None:
    for each in content["subjects"]:
        if each["kind"] == "person" and each["findings"]:
            assert sum(device["share"] for device in each["devices"]) == pytest.approx(1, abs=1e-4)
            for device in each["devices"]:
                assert device["x"] <= device["n"] <= device["device_n"]


def test_a_cited_curve_is_named_and_judged_by(small: Rows) -> None:
    last = int(small.day.max())
    curve = NuchalCurve(-0.55, 0.0165, -0.00009, "made up for this test")
    rules = AuditRules(last - WINDOW_DAYS + 1, last, VIEWS, curve=curve)
    content = make_audit(small, rules, stored={}).content
    assert content["rules"]["nt_curve"] == {"kind": "cited", "citation": "made up for this test"}
    bias = [
        one["value"]
        for each in content["subjects"]
        if each["kind"] == "person"
        for one in each["measures"]
        if one["name"] == "nt-bias" and one["n"] >= 3
    ]
    assert np.median(bias) == pytest.approx(0, abs=0.03)


def test_a_lab_without_findings_has_an_audit(rows: Rows) -> None:
    empty = RowsBuilder().build()
    content = make_audit(empty, AuditRules(739_000, 739_364, VIEWS), stored={}).content
    assert content["subjects"] == []
    assert content["counts"]["findings"] == 0
    json.dumps(content, allow_nan=False)


@pytest.mark.parametrize("findings", [1, 3, 40, 300])
def test_a_few_findings_name_nobody(findings: int) -> None:
    _, content = audit_history(202, findings)
    assert false_alarms(content) == []
    json.dumps(content, allow_nan=False)


def test_agreement_is_of_blinded_readings_with_the_raw_table(small: Rows) -> None:
    pairs = [ReadingPair("standard", "standard", exam) for exam in range(40)]
    pairs += [ReadingPair("standard", "non-standard", exam) for exam in range(5)]
    pairs += [ReadingPair("non-standard", "non-standard", exam) for exam in range(40, 50)]
    last = int(small.day.max())
    readings = Readings(model_first=pairs, unblinded=7)
    rules = AuditRules(last - 27, last, VIEWS)
    table = make_audit(small, rules, stored={}, readings=readings).content["agreement"]
    assert table["first_second"] is None
    own = table["model_first"]
    assert own["table"] == [[40, 5], [0, 10]]
    assert (own["n"], own["exams"], own["left_out"]) == (55, 50, 7)
    assert own["kappa_low"] < own["kappa"] < own["kappa_high"]
    assert own["kappa"] < own["ac1"]


def test_an_audit_ends_where_its_step_raises(small: Rows) -> None:
    parts = []

    def step(part: float) -> None:
        parts.append(part)
        if part > 0.3:
            raise InterruptedError

    last = int(small.day.max())
    with pytest.raises(InterruptedError):
        make_audit(small, AuditRules(last - 364, last, VIEWS), stored={}, step=step)
    assert parts == sorted(parts)


def test_keys_of_limits_are_those_of_the_history(small: Rows) -> None:
    audit = audit_of(small)
    limits, group = audit.limits, audit.content["group"]["measures"][0]
    key = LimitKey("group", "", group["name"], group["history"][-1]["from"])
    assert limits[key].centre == group["history"][-1]["centre"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(301, 311))
def test_other_histories_of_thirty_thousand(seed: int) -> None:
    truth, content = audit_history(seed, 30_000)
    assert misses(truth, content) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_false_alarms_come_at_the_stated_rate() -> None:
    """Of 200 labs in which nothing is wrong each family calls somebody in at most 1 %, of trends in
    5 %: more than 6 (17) of 200 have a probability below 0.02 at that rate."""
    counts = dict[str, int]()
    for seed in range(2001, 2201):
        _, content = audit_history(seed, 10_000, is_null=True)
        for family in false_alarms(content):
            counts[family] = counts.get(family, 0) + 1
    assert counts.pop("trends", 0) <= 17
    assert max(counts.values(), default=0) <= 6, counts
