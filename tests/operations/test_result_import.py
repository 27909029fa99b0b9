"""`qc-daemon results import`: what `results` prints is taken in, and printed again as it was."""

import gc
import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from model.image_features import ImageFeatures
from qc_daemon.cli.app import app
from qc_daemon.operations import result_import
from qc_daemon.operations.result_import import ImportOutcome, import_findings
from qc_daemon.records.acquisition import identities
from qc_daemon.records.received.exams import close_due
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.store import Store
from qc_daemon.records.tables import Exam, Finding, IdentityKind, JobRow, Measurement
from qc_daemon.settings import Settings, load
from tests.support.databases import migrate
from tests.support.image_features import FEATURES
from tests.support.receipts import numbered_receipt
from training.phantom.history import write_history

NOT_OF_SCORE = (
    *("exam_id", "calling_ae", "received", "superseded", "best_frame", "acquisition"),
    *("finding_id", "imported", "rejected", "review", "image_features"),
)
"""What `results` adds to a finding, and `score` does not."""
OWN_KEYS = ("exam_id", "finding_id", "imported", "review")
"""What another database says in its own way."""
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
runner = CliRunner()


@pytest.fixture
def settings(url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("QC_DAEMON_STORE__URL", url)
    migrate(url)
    return load(None)


def printed(*options: str) -> list[dict[str, Any]]:
    result = runner.invoke(app, ["results", "--format", "jsonl", *options])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def without_own(line: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in (*OWN_KEYS, *keys)}


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_results_prints_what_was_imported(settings: Settings, tmp_path: Path) -> None:
    path = write_history(tmp_path, 3, 400)
    assert import_findings(settings, [path]) == ImportOutcome(stored=400)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    stored = {line["sop_instance_uid"]: line for line in printed()}
    assert len(stored) == 400
    for line in lines:
        again = stored[line["sop_instance_uid"]]
        # They are printed where they are asked for.
        assert without_own(again) == without_own(line, "image_features")
        assert again["imported"] is True


def test_what_was_printed_can_be_imported_elsewhere(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_findings(settings, [write_history(tmp_path / "history", 3, 60)])
    first = printed()
    path = write(tmp_path / "printed.jsonl", first)
    url = f"sqlite:///{tmp_path / 'other.db'}"
    migrate(url)
    monkeypatch.setenv("QC_DAEMON_STORE__URL", url)
    assert import_findings(load(None), [path]) == ImportOutcome(stored=60)
    assert list(map(without_own, printed())) == list(map(without_own, first))


def test_image_features_go_with_their_findings(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.loads(line) for line in write_history(tmp_path, 3, 20).read_text().splitlines()]
    del lines[0]["image_features"]
    lines[1]["image_features"] = FEATURES.to_json()
    import_findings(settings, [write(tmp_path / "some.jsonl", lines)])
    assert all("image_features" not in line for line in printed())
    first = printed("--image-features")
    assert ["image_features" in line for line in first].count(False) == 1
    by_uid = {line["sop_instance_uid"]: line for line in first}
    again = by_uid[lines[1]["sop_instance_uid"]]["image_features"]
    assert ImageFeatures.from_json(again) == FEATURES
    path, url = write(tmp_path / "printed.jsonl", first), f"sqlite:///{tmp_path / 'other.db'}"
    migrate(url)
    monkeypatch.setenv("QC_DAEMON_STORE__URL", url)
    import_findings(load(None), [path])
    assert list(map(without_own, printed("--image-features"))) == list(map(without_own, first))


def test_image_features_are_not_for_tables(settings: Settings) -> None:
    result = runner.invoke(app, ["results", "--image-features"])
    assert isinstance(result.exception, UsageError)
    assert "--format jsonl" in str(result.exception)


def test_a_database_is_made_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QC_DAEMON_STORE__URL", f"sqlite:///{tmp_path / 'new.db'}")
    path = write_history(tmp_path, 3, 20)
    result = runner.invoke(app, ["results", "import", str(path)])
    assert result.exit_code == 0, result.output
    assert "a new one, without any exam, is made" in result.output
    assert len(printed()) == 20


def test_a_second_import_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    path = write_history(tmp_path, 3, 50)
    import_findings(settings, [path])
    before = printed()
    assert import_findings(settings, [path]) == ImportOutcome(duplicates=50)
    assert printed() == before


def test_more_findings_of_an_exam_may_come_later(settings: Settings, tmp_path: Path) -> None:
    lines = write_history(tmp_path, 3, 50).read_text().splitlines(keepends=True)
    part, whole = tmp_path / "part.jsonl", tmp_path / "findings.jsonl"
    part.write_text("".join(lines[:11]))
    assert import_findings(settings, [part]).stored == 11
    assert import_findings(settings, [whole]) == ImportOutcome(stored=39, duplicates=11)
    expected = [without_own(json.loads(line), "image_features") for line in lines]
    assert sorted(map(without_own, printed()), key=lambda line: line["sop_instance_uid"]) == sorted(
        expected, key=lambda line: line["sop_instance_uid"]
    )


def test_exams_that_go_on_in_the_next_batch_are_stored_as_in_one(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_history(tmp_path, 3, 60)
    monkeypatch.setattr(result_import, "_BATCH", 7)
    assert import_findings(settings, [path]).stored == 60
    stored = {line["sop_instance_uid"]: line for line in printed()}
    for line in map(json.loads, path.read_text().splitlines()):
        again = stored[line["sop_instance_uid"]]
        assert without_own(again) == without_own(line, "image_features")
    with Store(settings.store.url).read() as session:
        measured = session.execute(select(Measurement.exam_id, Measurement.concept)).all()
    assert len(measured) == len(set(measured)) > 0


def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million findings are taken in as ten thousand are."""
    url = f"sqlite:///{tmp_path / 'qc.db'}"
    migrate(url)
    monkeypatch.setenv("QC_DAEMON_STORE__URL", url)
    monkeypatch.setattr(result_import, "_BATCH", 50)
    settings = load(None)
    text = write_history(tmp_path, 3, 50).read_text()

    path, held = tmp_path / "many.jsonl", list[int]()
    with path.open("w") as file:
        for copy in range(12):
            # Of exams of their own.
            file.write(text.replace('"2.25.', f'"1.{copy}.25.'))

    def measure(_: int) -> None:
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        assert import_findings(settings, [path], progress=measure).stored == 12 * 50
    finally:
        tracemalloc.stop()
    # UIDs and numbers of a finding take half a kilobyte.
    assert max(held) - held[0] < 10 * 50 * 100


def test_nothing_is_reported_or_delivered(settings: Settings, tmp_path: Path) -> None:
    import_findings(settings, [write_history(tmp_path, 3, 50)])
    with Store(settings.store.url).begin() as session:
        assert close_due(session, NOW, 0, 0) == []
        assert session.scalar(select(func.count()).select_from(JobRow)) == 0
        assert set(session.scalars(select(Exam.state))) == {"closed"}
        assert None not in set(session.scalars(select(Exam.imported_at)))


def test_persons_and_devices_can_be_merged(settings: Settings, tmp_path: Path) -> None:
    import_findings(settings, [write_history(tmp_path, 3, 200)])
    ids = sorted({id for line in printed() for id in line["acquisition"]["person_ids"]})
    with Store(settings.store.url).begin() as session:
        identities.merge(session, IdentityKind.PERSON, [ids[0]], ids[1], "Jo Doe", NOW)
    assert ids[0] not in {id for line in printed() for id in line["acquisition"]["person_ids"]}


WRONG = [
    ("no JSON", lambda line: "{", "is no JSON; give what results --format jsonl wrote"),
    ("a list", lambda line: "[]", "is no JSON object"),
    ("no view", lambda line: _less(line, "view"), "lacks the key view"),
    ("a view", lambda line: line | {"view": {"code": "KNEE", "probability": 1}}, "is no finding"),
    ("no UID", lambda line: line | {"sop_instance_uid": None}, "has no sop_instance_uid"),
    ("a frame", lambda line: line | {"frame": 0}, "has a frame that is no number from 1"),
    ("a person", lambda line: _facts(line, person_ids=["a b"]), "person_ids that are no ids"),
    ("a time", lambda line: _facts(line, acquired="noon"), "acquired that is no time"),
    ("a length", lambda line: _facts(line, crl_mm="61"), "crl_mm that is no number"),
    ("a NUL", lambda line: line | {"description": "a\0b"}, "has a NUL character"),
    ("features", lambda line: line | {"image_features": {"embedding": "?"}}, "image_features that"),
    ("a moment", lambda line: line | {"received": 7}, "has a received that is no time"),
]  # fmt: skip


def _less(line: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != key}


def _facts(line: dict[str, Any], **values: Any) -> dict[str, Any]:
    return line | {"acquisition": line["acquisition"] | values}


@pytest.mark.parametrize(
    ("change", "words"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG]
)
def test_a_wrong_line_is_named_and_nothing_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, words: str
) -> None:
    url = f"sqlite:///{tmp_path / 'qc.db'}"
    migrate(url)
    monkeypatch.setenv("QC_DAEMON_STORE__URL", url)
    lines = write_history(tmp_path, 3, 20).read_text().splitlines()
    wrong = change(json.loads(lines[16]))
    lines[16] = wrong if isinstance(wrong, str) else json.dumps(wrong)
    path = tmp_path / "wrong.jsonl"
    path.write_text("\n".join(lines) + "\n")
    result = runner.invoke(app, ["results", "import", str(path)])
    with pytest.raises(UsageError, match="line 17: ") as error:
        import_findings(load(None), [path])
    assert words in str(error.value)
    assert result.exit_code != 0
    with Store(url).read() as session:
        assert session.scalar(select(func.count()).select_from(Finding)) == 0
        assert session.scalar(select(func.count()).select_from(Exam)) == 0


def test_the_same_finding_with_another_content_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in write_history(tmp_path, 3, 5).read_text().splitlines()]
    path = write(tmp_path / "twice.jsonl", [*lines, lines[1] | {"description": "other"}])
    with pytest.raises(UsageError, match="line 6: an earlier line has the same finding otherwise"):
        import_findings(settings, [path])
    assert printed() == []


def test_an_exam_that_was_received_is_not_mixed_with_imported_findings(
    settings: Settings, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in write_history(tmp_path, 3, 5).read_text().splitlines()]
    receipt = numbered_receipt(1, study_instance_uid=lines[0]["study_instance_uid"])
    with Store(settings.store.url).begin() as session:
        admit(session, receipt, source_destinations=[], bundle_id="m", now=NOW)
    path = write(tmp_path / "mixed.jsonl", lines)
    with pytest.raises(UsageError, match="line 1: its exam was received here"):
        import_findings(settings, [path])


def test_a_study_that_comes_later_is_not_shared_with_its_imported_findings(
    settings: Settings, tmp_path: Path
) -> None:
    path = write_history(tmp_path, 3, 5)
    import_findings(settings, [path])
    study = json.loads(path.read_text().splitlines()[0])["study_instance_uid"]
    with Store(settings.store.url).begin() as session:
        receipt = numbered_receipt(1, study_instance_uid=study)
        admit(session, receipt, source_destinations=[], bundle_id="m", now=NOW)
    assert all("other-patient-in-study" not in line["flags"] for line in printed())


def test_an_exam_that_the_command_score_scored_has_a_report(
    settings: Settings, tmp_path: Path
) -> None:
    """`score` prints findings alone: who made the pictures, on which machine, is not known."""
    made = write_history(tmp_path / "history", 3, 12).read_text().splitlines()
    scored = [
        {key: value for key, value in json.loads(line).items() if key not in NOT_OF_SCORE}
        for line in made
    ]
    import_findings(settings, [write(tmp_path / "scored.jsonl", scored)])
    (exam, *_) = sorted({line["exam_id"] for line in printed()})
    own = [line for line in printed() if line["exam_id"] == exam]
    report = runner.invoke(app, ["report", "--exam", str(exam), "--format", "json"])
    assert report.exit_code == 0, report.exception
    pictures = json.loads(report.stdout)["pictures"]
    assert [each["verdict"] for each in pictures] == [line["quality"]["label"] for line in own]
    page = runner.invoke(app, ["report", "--exam", str(exam), "--language", "de"])
    assert "<html" in page.stdout
    for option, message in (("--person", "person list"), ("--device", "device list")):
        wrong = runner.invoke(app, ["report", option, "Anna Berg"])
        assert isinstance(wrong.exception, QCError)
        assert message in str(wrong.exception)


def test_objects_that_were_not_scored_are_left_out(settings: Settings, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in write_history(tmp_path, 3, 5).read_text().splitlines()]
    error = {"sop_instance_uid": "1.2", "error": {"code": "decode-failed", "message": "no"}}
    path = write(tmp_path / "errors.jsonl", [error, *lines])
    assert import_findings(settings, [path]) == ImportOutcome(stored=5, errors=1)
