"""A made-up history: its findings are findings, its truth names what is planted."""

import json
from collections import Counter
from pathlib import Path

import pytest

from detector.console import UsageError
from model.finding import Finding
from training.phantom.history import write_history

PLANTED = (
    "drifting_device",
    "improving_person",
    "outlier_person",
    "case_mix_person",
    "nt_bias_person",
    "model_shift_date",
)


def _read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_line_is_a_finding(tmp_path: Path) -> None:
    lines = _read(write_history(tmp_path, 5, 800))
    assert len(lines) == 800
    for line in lines:
        finding = Finding.from_json(line).to_json()
        assert {key: line[key] for key in finding} == finding
    assert len({line["sop_instance_uid"] for line in lines}) == 800


@pytest.mark.parametrize("count", [1, 5, 60])
def test_a_short_history_has_as_many_findings_as_asked_for(tmp_path: Path, count: int) -> None:
    assert len(_read(write_history(tmp_path, 3, count))) == count


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_exams(tmp_path: Path) -> None:
    first = write_history(tmp_path / "a", 5, 300)
    assert first.read_bytes() == write_history(tmp_path / "b", 5, 300).read_bytes()
    other = _read(write_history(tmp_path / "c", 6, 300))
    studies = {line["study_instance_uid"] for line in _read(first)}
    assert not studies & {line["study_instance_uid"] for line in other}


def test_the_truth_names_persons_devices_and_a_day_of_the_findings(tmp_path: Path) -> None:
    lines = _read(write_history(tmp_path, 5, 5000))
    truth = json.loads((tmp_path / "truth.json").read_text())
    facts = [line["acquisition"] for line in lines]
    persons = Counter(person for each in facts for person in each["person_ids"])
    assert truth["drifting_device"] in {each["device_id"] for each in facts}
    assert len({truth[key] for key in PLANTED[1:5]}) == 4
    for key in PLANTED[1:5]:
        assert persons[truth[key]] > 100
    assert len(persons) == 50
    assert all(persons[each] < 12 for each in truth["persons_of_one_exam"])
    assert truth["from"] < truth["model_shift_date"] < truth["to"]


def test_nothing_is_planted_in_a_null_history(tmp_path: Path) -> None:
    write_history(tmp_path, 5, 300, is_null=True)
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert [truth[key] for key in PLANTED] == [None] * len(PLANTED)


def test_a_folder_with_a_history_is_left_alone(tmp_path: Path) -> None:
    path = write_history(tmp_path, 5, 10)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="holds a history already"):
        write_history(tmp_path, 6, 10)
    assert path.read_bytes() == before
