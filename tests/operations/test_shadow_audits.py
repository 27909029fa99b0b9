"""`audit run --bundle`: another bundle in shadow, on pictures that stay as they are."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import select, text
from typer.testing import CliRunner

from detector.anatomy import View
from detector.errors import ErrorCode, QCError
from model.bundle.bundle import Bundle
from model.bundle.extend import add_record
from model.runtime.precision import AMX, Precision, PrecisionRecord
from qc_daemon.cli.app import app
from qc_daemon.operations import nightly
from qc_daemon.operations.audit_reports import ReportPeriod, Target, make_report
from qc_daemon.operations.audits import list_audits, read_audit, run_audit
from qc_daemon.operations.audits import perform as audits_perform
from qc_daemon.operations.bundles import activate_bundle, seed_bundle
from qc_daemon.operations.reviews import Answer, dispute, read_blinded
from qc_daemon.operations.shadow_audits import CHANGE_COLUMNS
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.results import audits
from qc_daemon.records.store import Store
from qc_daemon.records.tables import AuditState, Finding, ShadowFinding
from qc_daemon.score.shadow import ShadowEngine, ShadowResult, ShadowTask
from qc_daemon.settings import Settings, load
from tests.support.bundles import other_bundle
from tests.support.databases import migrate
from tests.support.job_runners import score_runner
from tests.support.receipts import RECEIPT, write_file
from tests.support.reviewed_exam import ReviewedExam
from training.phantom.dicom import exam

DAY = "2026-03-04"
NOW = datetime(2026, 3, 10, 8, 0, tzinfo=UTC)
runner = CliRunner()


def clock() -> datetime:
    return NOW


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return other_bundle(tmp_path_factory.mktemp("bundle") / "mine", bias=-3.0)


class Engine:
    """Calls every picture standard, at a probability that its finding's number gives; counts."""

    def __init__(self, exam: ReviewedExam, stop_after: int | None = None) -> None:
        self._exam, self._stop_after = exam, stop_after
        self.scored: list[int] = []

    def __call__(self, settings: Settings, store: Store, bundle: Bundle) -> ShadowEngine:
        def run(tasks: Iterable[ShadowTask]) -> Iterator[ShadowResult]:
            for task in tasks:
                if len(self.scored) == self._stop_after:
                    raise KeyboardInterrupt
                self.scored.append(task.facts.revision_id)
                yield self._result(store, bundle, task)

        return run

    def _result(self, store: Store, bundle: Bundle, task: ShadowTask) -> ShadowResult:
        path = self._exam.settings.store.spool / task.facts.path
        if not path.is_file():
            return ShadowResult(task, error=QCError(ErrorCode.SPOOL_MISSING, "the file is gone"))
        with store.read() as session:
            body: dict[str, Any] = session.scalars(
                select(Finding.body).where(Finding.revision_id == task.facts.revision_id)
            ).one()
        quality = {"label": "standard", "probability": 0.9 + task.facts.revision_id / 1000}
        changed = body | {
            "bundle": {"name": bundle.id.name, "version": "2", "model_id": bundle.model_id},
            "quality": body["quality"] | quality,
        }
        return ShadowResult(task, (changed,))


@pytest.fixture
def reviewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReviewedExam:
    exam = ReviewedExam(tmp_path / "spool", 6)
    monkeypatch.setenv("QC_DAEMON_STORE__URL", exam.settings.store.url)
    monkeypatch.setenv("QC_DAEMON_STORE__SPOOL", str(exam.settings.store.spool))
    return exam


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()


def compare(reviewed: ReviewedExam, bundle: Path, engine: Engine, **options: Any) -> dict[str, Any]:
    return run_audit(
        reviewed.settings, DAY, bundle=str(bundle), clock=clock, make_engine=engine, **options
    )


def run(*arguments: str) -> Result:
    return runner.invoke(app, ["audit", *arguments])


def stored(settings: Settings) -> list[tuple[Any, ...]]:
    with Store(settings.store.url).read() as session:
        tables = ("finding", "revision", "exam", "job", "report_object", "instance")
        return [tuple(r) for t in tables for r in session.execute(text(f"SELECT * FROM {t}"))]


def test_differences_are_stored_apart_listed_and_shown(
    reviewed: ReviewedExam, bundle: Path
) -> None:
    before = stored(reviewed.settings)
    engine, parts = Engine(reviewed), list[float]()
    content = compare(reviewed, bundle, engine, progress=parts.append)
    assert stored(reviewed.settings) == before
    assert len(engine.scored) == 6
    assert parts == sorted(parts)
    assert content["shadow"]["model_id"] == Bundle.open(bundle).model_id
    # Findings 2, 4 and 6 were called non-standard, and 1, 3 and 5 keep their verdict.
    assert content["all"]["table"] == [[3, 0, 0], [3, 0, 0], [0, 0, 0]]
    assert content["counts"]["verdicts_changed"] == 3
    assert content["largest"] == [6, 5, 4, 3, 2, 1]
    name = f"shadow-{content['shadow']['model_id'][:12]}"
    (listed,) = list_audits(reviewed.settings)
    assert (listed["audit"], listed["date"], listed["state"]) == (name, DAY, "done")
    shown = run("show", DAY, "--audit", name, "--format", "json").stdout
    assert json.loads(shown) == content == read_audit(reviewed.settings, DAY)
    rows = list(csv.DictReader(io.StringIO(run("show", DAY, "--format", "csv").stdout)))
    assert tuple(rows[0]) == CHANGE_COLUMNS
    assert [row["finding_id"] for row in rows] == list("123456")
    table = run("show", DAY).stdout
    assert "6 pictures" in table
    assert "largest changes" in table


def test_a_second_run_scores_nothing_again_and_says_the_same(
    reviewed: ReviewedExam, bundle: Path
) -> None:
    first = compare(reviewed, bundle, Engine(reviewed))
    reviewed.receive(7)
    engine = Engine(reviewed)
    second = compare(reviewed, bundle, engine)
    assert engine.scored == [7]
    assert second["counts"]["compared"] == 7
    engine = Engine(reviewed)
    assert compare(reviewed, bundle, engine) == second != first
    assert engine.scored == []


def test_answers_of_precision_fast_are_not_taken_for_exact_ones(
    reviewed: ReviewedExam, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.runtime.precision._cpu_flags", lambda: frozenset({AMX}))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    record = PrecisionRecord(
        runtime="openvino",
        version=version("openvino"),
        precision="bfloat16",
        parts=("detector",),
        cpu_flag=AMX,
        pictures=1000,
        simulated=0,
        probability_change_p95=0.0,
        probability_change_max=0.0,
        verdict_changes=0,
        view_changes=0,
    )
    fast = add_record(bundle, record, tmp_path / "fast", name=None, version=None).path

    def scored_again(folder: Path, precision: Precision) -> bool:
        reviewed.settings.score.precision = precision
        engine = Engine(reviewed)
        compare(reviewed, folder, engine)
        return bool(engine.scored)

    assert scored_again(fast, "fast")
    assert not scored_again(fast, "fast")
    assert scored_again(fast, "exact")
    assert scored_again(bundle, "fast"), "it has no record and runs exact"
    assert not scored_again(bundle, "exact")


def test_an_interrupted_run_goes_on_where_it_was(reviewed: ReviewedExam, bundle: Path) -> None:
    interrupted = Engine(reviewed, stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        compare(reviewed, bundle, interrupted)
    (listed,) = list_audits(reviewed.settings)
    assert listed["state"] == AuditState.PAUSED
    rest = Engine(reviewed)
    content = compare(reviewed, bundle, rest)
    assert [*interrupted.scored, *rest.scored] == [1, 2, 3, 4, 5, 6]
    assert content["counts"]["compared"] == 6


def test_one_that_is_paused_is_gone_on_with(reviewed: ReviewedExam, bundle: Path) -> None:
    def pause(part: float) -> None:
        if part > 0.5:
            assert run("pause", DAY).exit_code == 0

    engine = Engine(reviewed)
    with pytest.raises(QCError, match="paused or cancelled"):
        compare(reviewed, bundle, engine, progress=pause)
    assert 0 < len(engine.scored) < 6
    assert run("resume", DAY).exit_code == 0
    assert list_audits(reviewed.settings)[0]["state"] == AuditState.WAITING
    assert run("cancel", DAY).exit_code == 0
    assert list_audits(reviewed.settings)[0]["state"] == AuditState.CANCELLED


def test_the_service_s_nightly_audit_goes_before_it(
    reviewed: ReviewedExam, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, store = reviewed.settings, reviewed.exam.store
    order = list[str]()

    class WithNightly(Engine):
        def _result(self, *arguments: Any) -> ShadowResult:
            if len(self.scored) == 2:
                with store.begin() as session:
                    audits.queue(session, audits.NIGHTLY, DAY, NOW)
            return super()._result(*arguments)

    engine = WithNightly(reviewed)
    made = audits_perform

    def perform(*arguments: Any, **options: Any) -> dict[str, Any]:
        order.append(arguments[2].name)
        return made(*arguments, **options, make_engine=engine)

    monkeypatch.setattr("qc_daemon.operations.audits.perform", perform)
    opened = Bundle.open(bundle)
    shadow = audits.ShadowBundle(opened.model_id, str(bundle))
    name = audits.shadow_name(opened.model_id)
    with store.begin() as session:
        audits.restart(session, name, DAY, DAY, NOW, shadow)
    assert nightly.work(settings, store, clock) == 2
    assert order == [name, audits.NIGHTLY, name]
    assert engine.scored == [1, 2, 3, 4, 5, 6]
    assert {each["state"] for each in list_audits(settings)} == {"done"}


def test_pictures_whose_file_is_gone_are_counted_and_named(
    reviewed: ReviewedExam, bundle: Path
) -> None:
    reviewed.paths[2].unlink()
    content = compare(reviewed, bundle, Engine(reviewed))
    assert content["counts"]["compared"] == 5
    left_out = content["left_out"]
    assert left_out["n"] == 1
    assert left_out["counts"][0]["code"] == "spool-file-missing"
    assert [each["finding_id"] for each in left_out["pictures"]] == [2]
    assert "left out: 1" in run("show", DAY).stdout


def test_a_spool_that_is_away_is_no_lost_file(reviewed: ReviewedExam, bundle: Path) -> None:
    settings = reviewed.settings.model_copy(deep=True)
    settings.store.spool = settings.store.spool / "away"
    with pytest.raises(QCError, match="the spool is away"):
        run_audit(settings, DAY, bundle=str(bundle), clock=clock, make_engine=Engine(reviewed))


def test_both_bundles_are_held_against_people(reviewed: ReviewedExam, bundle: Path) -> None:
    dispute(reviewed.settings, 2, Answer("Dr Lee", reason="criterion"))
    read_blinded(reviewed.settings, 2, Answer("Dr Roe", view="NT", verdict="standard"))
    content = compare(reviewed, bundle, Engine(reviewed))
    assert content["readers"]["stored"]["table"] == [[0, 0], [1, 0]]
    assert content["readers"]["shadow"]["table"] == [[1, 0], [0, 0]]
    assert "1 blinded readings" in run("show", DAY).stdout


def test_the_report_shows_the_largest_changes(reviewed: ReviewedExam, bundle: Path) -> None:
    compare(reviewed, bundle, Engine(reviewed))
    for number in range(1, 7):
        reviewed.set_acquisition(number, burned_in_annotation=False)
    reviewed.exam.close()
    while reviewed.exam.report():
        pass
    compare(reviewed, bundle, Engine(reviewed))
    reviewed.paths[3].unlink()
    settings, target = reviewed.settings, Target.of(bundle=str(bundle))
    page = make_report(settings, target, ReportPeriod(), "html").decode()
    assert page.count("data:image/jpeg") == 5
    assert "1 picture may not be shown" in page
    assert "non-standard (12" in page
    assert "Anna-4711" not in page
    assert "St. Anna" not in page
    for language in ("de", "zh"):
        pdf = make_report(settings, target, ReportPeriod(), "pdf", language)
        assert pdf.startswith(b"%PDF")
        assert pdf == make_report(settings, target, ReportPeriod(), "pdf", language)
    as_json = json.loads(make_report(settings, target, ReportPeriod(), "json"))
    assert as_json == read_audit(settings, DAY)
    with pytest.raises(QCError, match="no audit of bundle default"):
        make_report(settings, Target.of(bundle="default"), ReportPeriod(), "html")


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_bundle_that_cannot_be_used_is_one_line(
    reviewed: ReviewedExam, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "broken"
    if fault == "damaged":
        other_bundle(folder)
        card = folder / "MODEL_CARD.md"
        card.unlink()
        card.write_text("another")
    result = run("run", "--date", DAY, "--bundle", str(folder))
    assert isinstance(result.exception, QCError)
    assert "\n" not in result.exception.message
    assert list_audits(reviewed.settings) == []


def test_a_bundle_that_changes_meanwhile_is_not_gone_on_with(
    reviewed: ReviewedExam, tmp_path: Path
) -> None:
    folder = other_bundle(tmp_path / "changing")
    opened = Bundle.open(folder)
    with reviewed.exam.store.begin() as session:
        shadow = audits.ShadowBundle(opened.model_id, str(folder))
        audits.restart(session, audits.shadow_name(opened.model_id), DAY, DAY, NOW, shadow)
    other_bundle_again(folder)
    assert nightly.work(reviewed.settings, reviewed.exam.store, clock) == 0
    (listed,) = list_audits(reviewed.settings)
    assert listed["state"] == AuditState.FAILED
    assert "has changed since" in listed["reason"]


def other_bundle_again(folder: Path) -> None:
    manifest = folder / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"other"', '"later"'))


# With the real models.


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A still, scored with the shipped bundle by the worker."""
    folder = tmp_path_factory.mktemp("scored")
    config = folder / "qc.toml"
    config.touch()
    settings = load(config)
    settings.store.spool.mkdir(parents=True)
    migrate(settings.store.url)
    store = Store(settings.store.url)
    seed_bundle(settings, store)
    dataset = exam(3, views=[View.NT], cine_frames=4)[0]
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    path = write_file(content, settings.store.spool)
    uid = str(dataset.SOPInstanceUID)
    receipt = replace(
        RECEIPT, sop_instance_uid=uid, sha256=path.stem, size=len(content), path=path.name
    )
    with store.begin() as session:
        admit(session, receipt, source_destinations=(), bundle_id=None, now=NOW)
    with score_runner(store, settings) as jobs:
        while jobs.run_once():
            pass
    return settings


def later() -> datetime:
    return datetime.now(UTC).replace(year=2100)


def test_with_the_active_bundle_nothing_differs(scored: Settings) -> None:
    content = run_audit(scored, bundle="default", since="2000-01-01", clock=later)
    assert content["is_active"]
    assert content["left_out"]["n"] == 0
    assert content["counts"]["compared"] == 1
    assert content["changes"] == []
    with Store(scored.store.url).read() as session:
        assert session.scalars(select(ShadowFinding.model_id)).first()


def test_a_picture_too_large_for_memory_is_one_line(
    scored: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("model.judge.Judge.judge", judge)
    third = other_bundle(tmp_path / "third", bias=-1.0)
    with pytest.raises(QCError, match="memory is not enough to judge a picture"):
        run_audit(scored, bundle=str(third), since="2000-01-01", clock=later)


def test_another_calibration_moves_probabilities(scored: Settings, bundle: Path) -> None:
    before = stored(scored)
    content = run_audit(scored, bundle=str(bundle), since="2000-01-01", clock=later)
    assert not content["is_active"]
    assert content["counts"]["changed"] == content["counts"]["compared"] == 1
    assert all(each["change"] < 0 for each in content["changes"])
    assert stored(scored) == before
    activate_bundle(scored, str(bundle))
    again = run_audit(scored, bundle=str(bundle), since="2000-01-01", clock=later)
    assert again["is_active"]
    assert again["changes"] == content["changes"]
