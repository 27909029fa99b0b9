"""`qc-daemon report`: an audit for people, and nothing of a patient in it."""

import base64
import io
import json
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select, update
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import QCError
from qc_daemon.cli.app import app
from qc_daemon.dicom.acquisition import Operator
from qc_daemon.operations.audit_reports import (
    FORMATS,
    ReportPeriod,
    Target,
    choose_format,
    write_report,
)
from qc_daemon.operations.reviews import Answer, dispute
from qc_daemon.records.tables import AcquisitionRow, AuditRow, AuditState
from tests.support import pdf
from tests.support.audited_exam import CANARIES, AuditedExam
from tests.support.reviewed_exam import REGION


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditedExam]:
    """For tests that only read."""
    audited = AuditedExam(tmp_path_factory.mktemp("site"))
    yield audited
    audited.reviewed.exam.store.close()


@pytest.fixture
def own_audited(tmp_path: Path) -> Iterator[AuditedExam]:
    """For tests that change it."""
    audited = AuditedExam(tmp_path / "site")
    yield audited
    audited.reviewed.exam.store.close()


def pictures(page: str) -> list[Any]:
    pictures = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in pictures]


@pytest.mark.parametrize("kind", ["person", "device"])
def test_nothing_of_a_patient_is_in_the_report(
    audited: AuditedExam, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    id = audited.person if kind == "person" else audited.device
    texts = [audited.report(format, **{kind: id}).decode() for format in ("html", "json")]
    path = tmp_path / "report.pdf"
    path.write_bytes(audited.report("pdf", **{kind: id}))
    texts.append(pdf.text(path))
    captured = capfd.readouterr()
    texts += [captured.out, captured.err]
    for canary in CANARIES:
        assert not any(canary in text for text in texts), canary
    assert "1.2.826.0.1" not in "".join(texts)


def test_pictures_are_the_tissue_alone(audited: AuditedExam) -> None:
    """In the corner, outside of the region, stands a name in white; tissue is darker."""
    page = audited.report(person=audited.person).decode()
    shown = pictures(page)
    assert len(shown) == 4
    x0, y0, x1, y1 = REGION
    scale = shown[0].shape[1] / (x1 - x0)
    for each in shown:
        assert each.shape[:2] == pytest.approx(((y1 - y0) * scale, (x1 - x0) * scale), abs=scale)
        assert each[: int(2 * scale), : int(30 * scale)].mean() < 180
    assert "Gain too low → Turn the overall gain up" in page
    assert "2: Nuchal translucency, mid-sagittal" in page
    assert "review dispute 2 " in page


def test_pictures_with_text_burned_in_or_that_are_read_blinded_are_left_out(
    own_audited: AuditedExam,
) -> None:
    with own_audited.reviewed.exam.store.begin() as session:
        session.execute(
            update(AcquisitionRow)
            .where(AcquisitionRow.revision_id == 1)
            .values(burned_in_annotation=True)
        )
    dispute(own_audited.settings, 4, Answer("A. Berg", reason="criterion"))
    page = own_audited.report(person=own_audited.person).decode()
    assert len(pictures(page)) == 2
    assert "2 pictures are not shown" in page


def test_pictures_whose_file_is_gone_are_left_out(own_audited: AuditedExam) -> None:
    for path in own_audited.reviewed.paths.values():
        path.unlink()
    page = own_audited.report(person=own_audited.person).decode()
    assert not pictures(page)
    assert "4 pictures are not shown" in page


def test_the_newest_audit_of_the_period_is_reported(own_audited: AuditedExam) -> None:
    own_audited.store_audit("2026-06-29", AuditState.FAILED)
    for start, end, day in (
        (None, None, "2026-06-28"),
        (None, "2026-06-27", "2026-06-27"),
        ("2026-06-26", "2026-06-26", "2026-06-26"),
    ):
        period = ReportPeriod.parse(start, end)
        body = json.loads(own_audited.report("json", period, person=own_audited.person))
        assert body["date"] == day
        assert body["id"] == own_audited.person
        assert body["name"] == "Berg, Anna"
        assert {m["name"] for m in body["subject"]["measures"]} >= {"standard", "completion"}


def test_no_other_persons_counts_or_ids_are_in_the_report_of_a_person(
    own_audited: AuditedExam, tmp_path: Path
) -> None:
    """Others have a hundred times the pictures, with the same shares: no file changes."""
    path = tmp_path / "report.pdf"

    def written() -> dict[str, bytes]:
        return {f: own_audited.report(f, person=own_audited.person) for f in FORMATS}

    before = written()
    path.write_bytes(before["pdf"])
    page = re.sub(r"base64,[A-Za-z0-9+/=]+", "", before["html"].decode())
    texts = [page, before["json"].decode(), pdf.text(path)]
    with own_audited.reviewed.exam.store.begin() as session:
        for row in session.scalars(select(AuditRow)):
            assert row.content is not None
            body = json.loads(row.content)
            others = [s for s in body["subjects"] if s["id"] != own_audited.person]
            assert sum(s["kind"] == "person" for s in others) == 8
            for subject in others:
                for measure in subject["measures"]:
                    multiply(measure, "x", "n")
                multiply(subject, "findings", "exams")
            (own,) = (s for s in body["subjects"] if s["id"] == own_audited.person)
            for device in own["devices"]:
                multiply(device, "device_x", "device_n")
            for measure in own["measures"]:
                multiply(measure.get("limits") or {}, "others")
            row.content = json.dumps(body).encode()
    for text in texts:
        assert not re.search(r"\bq[0-7]\b", text)
    assert written() == before


def multiply(body: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if body.get(key) is not None:
            body[key] *= 100


def test_a_report_says_the_same_each_time(audited: AuditedExam) -> None:
    assert audited.report(person=audited.person) == audited.report(person=audited.person)


@pytest.mark.parametrize("name", ["Berg, Anna", "berg anna"])
def test_a_person_is_known_by_name(audited: AuditedExam, name: str) -> None:
    assert "Image quality: Berg, Anna" in audited.report(person=name).decode()


def test_a_person_without_pictures_in_the_window_has_a_report(own_audited: AuditedExam) -> None:
    own_audited.reviewed.receive(5)
    own_audited.reviewed.set_acquisition(5, operators=(Operator("Neu^Nina"),))
    page = own_audited.report(person="Neu, Nina").decode()
    assert "Not assessable in this period" in page


def test_a_site_is_known_without_case_and_accents(audited: AuditedExam) -> None:
    page = audited.report(site="St. Mary").decode()
    assert "Image quality at the site St. Mary" in page
    assert "Next audit: 2026-06-29" in page


def test_without_a_schedule_no_next_audit_is_named(own_audited: AuditedExam) -> None:
    own_audited.settings.schedule.audit = "off"
    assert "Next audit" not in own_audited.report(person=own_audited.person).decode()


def test_the_report_of_an_exam(audited: AuditedExam) -> None:
    page = audited.report(exam="1").decode()
    body = json.loads(audited.report("json", exam="1"))
    ids = {picture["finding_id"] for picture in body["pictures"]}
    assert ids
    assert "Image quality of exam 1" in page
    assert "Voluson E10" in page
    assert len(pictures(page)) == len(ids)
    for canary in CANARIES:
        assert canary not in page


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"person": "nobody"}, "there is no person nobody; see person list"),
        ({"device": "d0"}, "there is no device d0; see device list"),
        ({"site": "Elsewhere"}, "the audit of 2026-06-28 has no such site; it has: St. Mary"),
        ({"exam": "99"}, "there is no exam 99; see exam list"),
    ],
)
def test_what_there_is_not_is_said_in_a_line(
    audited: AuditedExam, target: dict[str, str], message: str
) -> None:
    with pytest.raises(QCError, match=re.escape(message)):
        audited.report(**target)


def test_a_period_without_an_audit(audited: AuditedExam) -> None:
    period = ReportPeriod.parse("2027-01-01", "2027-01-31")
    with pytest.raises(QCError, match="no audit from 2027-01-01 to 2027-01-31; see audit list"):
        audited.report("html", period, person=audited.person)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("2026-06-02", "2026-06-01", "--to 2026-06-01 lies before --from 2026-06-02"),
        ("june", None, "--from june: give a day"),
        (None, "2026-13-01", "--to 2026-13-01: give a day"),
    ],
)
def test_wrong_periods(start: str | None, end: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ReportPeriod.parse(start, end)


def test_one_target_is_needed() -> None:
    for values in ({"person": None, "device": None}, {"person": "a", "device": "b"}):
        with pytest.raises(UsageError, match="give one of --person, --device"):
            Target.of(**values)
    with pytest.raises(UsageError, match="--person: give which one"):
        Target.of(person=" ")


def test_the_format_is_that_of_the_file() -> None:
    assert choose_format(None, Path("a.PDF")) == "pdf"
    assert choose_format(None, None) == "html"
    assert choose_format(None, Path("report")) == "html"
    assert choose_format("json", Path("a.txt")) == "json"
    with pytest.raises(UsageError, match=r"ends in \.html, \.pdf, \.json, or --format"):
        choose_format(None, Path("a.docx"))
    with pytest.raises(UsageError, match="does not go with --out"):
        choose_format("html", Path("a.pdf"))
    with pytest.raises(UsageError, match="give one of html, pdf, json"):
        choose_format("docx", None)


def test_a_disk_that_is_full_leaves_the_earlier_report(tmp_path: Path) -> None:
    """The kernel refuses all beyond a size, as it does on a full disk."""
    path = tmp_path / "report.html"
    path.write_bytes(b"earlier")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(QCError, match=r"report\.html cannot be written: File too large"):
            write_report(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_writes_a_private_file(audited: AuditedExam, tmp_path: Path) -> None:
    config = tmp_path / "qc-daemon.toml"
    store = audited.settings.store
    config.write_text(f'[store]\nurl = "{store.url}"\nspool = "{store.spool}"\n')
    out = tmp_path / "report.pdf"
    arguments = ["report", "--sonographer", audited.person, "--out", str(out), "-c", str(config)]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.endswith(f"{out}: written\n")
    assert out.read_bytes().startswith(b"%PDF-")
    assert out.stat().st_mode & 0o077 == 0
    missing = CliRunner().invoke(app, [*arguments, "--from", "2027-01-01"])
    assert missing.exit_code != 0
    assert out.read_bytes().startswith(b"%PDF-")


def test_exam_has_no_period() -> None:
    outcome = CliRunner().invoke(app, ["report", "--exam", "1", "--from", "2026-01-01"])
    assert isinstance(outcome.exception, UsageError)
