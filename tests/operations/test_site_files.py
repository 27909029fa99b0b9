"""Site calibration from files: findings, labels, what is wrong with them, and `score --site`."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit

from detector.anatomy import View
from detector.console import UsageError
from model.bundle.bundle import read_manifest, read_model_id
from model.finding import BundleId, Finding, Judgement
from model.site.promise import Tolerance
from model.site.record import read_record
from qc_daemon.operations.site_files import Choice, fit_files, parse_choice
from qc_daemon.operations.site_words import describe_record, record_row
from tests.support.command_line import qc_daemon_here
from tests.support.dicom_objects import ultrasound, write
from tests.support.sites import log_odds_of_site
from training.phantom import make

BUNDLE = BundleId("default", read_manifest("default")["version"], read_model_id("default"))


def body(i: int, log_odds: float, **changes: Any) -> dict[str, Any]:
    judgement = Judgement(
        0,
        (0, 0, 9, 9),
        View.NT,
        0.99,
        "review",
        float(expit(log_odds)),
        0.5,
        (0.3, 0.3, 0.4),
        (),
        "",
        (),
    )
    finding = Finding(judgement, BUNDLE, source=f"set/{i}.png", created="2026-11-29T08:00:00.000Z")
    return finding.to_json() | changes


def write_findings(path: Path, bodies: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in bodies))
    return path


def write_labels(path: Path, rows: list[tuple[object, ...]], *columns: str) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns or ("source", "frame", "label"), *rows])
    return path


@pytest.fixture
def site(tmp_path: Path) -> tuple[Path, Path]:
    """150 findings of another hospital, and labels of all of them."""
    s, y = log_odds_of_site(np.random.default_rng(0), 150, shift=3.0)
    findings = write_findings(tmp_path / "findings.jsonl", [body(i, v) for i, v in enumerate(s)])
    rows = [(f"set/{i}.png", 1, "standard" if c else "non-standard") for i, c in enumerate(y)]
    return findings, write_labels(tmp_path / "labels.csv", rows)


def fit(findings: Path, labels: Path | None = None, choice: Choice | None = None) -> Any:
    return fit_files(findings, labels, "default", None, choice or Choice(), Tolerance())


def test_with_and_without_labels(site: tuple[Path, Path]) -> None:
    findings, labels = site
    unlabelled, reviewed = fit(findings), fit(findings, labels)
    assert (unlabelled.kind, unlabelled.findings, unlabelled.reviews) == ("unlabelled", 150, 0)
    assert (reviewed.kind, reviewed.exams, reviewed.reviews) == ("reviewed", 150, 150)
    assert unlabelled.map.shift > 1.5
    assert unlabelled.bundle == BUNDLE
    words = " ".join(describe_record(reviewed))
    for part in ("150 reviewed", "calibration error", "left to a person", "views called standard"):
        assert part in words
    assert record_row(reviewed)["kind"] == "reviewed"


def test_labels_by_sop_instance_without_a_frame(tmp_path: Path) -> None:
    s, y = log_odds_of_site(np.random.default_rng(0), 40)
    bodies = [
        body(i, v, source=None, sop_instance_uid=f"1.2.{i}", study_instance_uid=f"1.3.{i // 2}")
        for i, v in enumerate(s)
    ]
    rows = [(f"1.2.{i}", "Standard" if c else "non-standard") for i, c in enumerate(y)]
    labels = write_labels(tmp_path / "l.csv", rows, "sop_instance_uid", "label")
    record = fit(write_findings(tmp_path / "f.jsonl", bodies), labels)
    assert (record.findings, record.exams, record.reviews) == (40, 20, 40)


def test_what_a_site_calibrated_before_is_fitted_by_the_bundles_own(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    bodies = [json.loads(line) for line in site[0].read_text().splitlines()]
    calibrated = [
        each
        | {"quality": each["quality"] | {"probability": 0.5}}
        | {
            "site": {
                "id": "x",
                "kind": "unlabelled",
                "n": 150,
                "shift": 1.0,
                "bundle_probability": each["quality"]["probability"],
            }
        }
        for each in bodies
    ]
    again = fit(write_findings(tmp_path / "again.jsonl", calibrated))
    assert again.map == fit(site[0]).map


def test_findings_that_cannot_get_a_verdict_are_left_out(tmp_path: Path) -> None:
    bodies = [body(i, 1.0) for i in range(3)]
    bodies[0]["flags"] = ["no-real-evidence"]
    bodies[1]["quality"]["probability"] = None
    bodies.append({"source": "x", "error": {"code": "unreadable-file", "message": "m"}})
    assert fit(write_findings(tmp_path / "f.jsonl", bodies)).findings == 1


def test_choices(tmp_path: Path) -> None:
    bodies = [body(0, 1.0), body(1, 1.0, received="2026-11-30T00:00:00+00:00")]
    bodies[0]["view"]["code"] = "HEAD"
    bodies[0]["acquisition"] = {"device_id": "d1", "site": "St. Mary's"}
    findings = write_findings(tmp_path / "f.jsonl", bodies)
    assert fit(findings, choice=parse_choice("head", None, None)).findings == 1
    assert fit(findings, choice=parse_choice(None, "d1", None)).device == "d1"
    assert fit(findings, choice=parse_choice(None, None, "2026-11-30")).findings == 1
    assert fit(findings).site == "St. Mary's"
    with pytest.raises(UsageError, match="--view KNEE"):
        parse_choice("KNEE", None, None)
    with pytest.raises(UsageError, match="no findings"):
        fit(findings, choice=parse_choice("CRL", None, None))


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        (("path", "label"), [("a", "standard")], "give the columns"),
        (("source", "label"), [("set/1.png", "good")], "line 2: label 'good'"),
        (("source", "frame", "label"), [("set/1.png", "x", "standard")], "frame 'x'"),
        (("source", "label"), [("", "standard")], "no source"),
        (("source", "label"), [("elsewhere.png", "standard")], "no label matches"),
        (("source", "label"), [("set/1.png", "")], "no labels"),
        (
            ("source", "label"),
            [("set/1.png", "standard"), ("set/1.png", "non-standard")],
            "another label",
        ),
    ],
)
def test_labels_that_are_none(
    tmp_path: Path, columns: tuple[str, ...], rows: list[tuple[object, ...]], words: str
) -> None:
    findings = write_findings(tmp_path / "f.jsonl", [body(1, 1.0)])
    with pytest.raises(UsageError, match=words):
        fit(findings, write_labels(tmp_path / "l.csv", rows, *columns))


@pytest.mark.parametrize("line", ["{", "[]", "{}", '"x"', '{"quality": {"probability": 2}}'])
def test_findings_that_are_none(tmp_path: Path, line: str) -> None:
    (tmp_path / "f.jsonl").write_text(line + "\n")
    with pytest.raises(UsageError, match="line 1 is no finding"):
        fit(tmp_path / "f.jsonl")


def test_findings_of_another_bundle(tmp_path: Path) -> None:
    other = body(0, 1.0)
    other["bundle"]["model_id"] = "cd" * 32
    with pytest.raises(UsageError, match="another bundle"):
        fit(write_findings(tmp_path / "f.jsonl", [other]))


def test_labels_that_match_nothing_are_counted_and_named(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    rows: list[tuple[object, ...]] = [(f"set/{i}.png", 1, "standard") for i in range(3)]
    wrong = [("set/1.png", 2, "standard"), *((f"away/{i}.png", "", "standard") for i in range(4))]
    labels = write_labels(tmp_path / "wrong.csv", [*rows, *wrong])
    lines: list[str] = []
    arguments = ("default", None, Choice(), Tolerance())
    record = fit_files(site[0], labels, *arguments, warn=lines.append)
    assert record.reviews == 3
    (line,) = lines
    assert "5 of 8 labels (set/1.png frame 2, away/0.png, away/1.png, and 2 more)" in line
    fit_files(site[0], site[1], *arguments, warn=lines.append)
    # Of another view than was asked for is no slip.
    views = write_findings(
        tmp_path / "views.jsonl",
        [body(0, 1.0), body(1, 1.0, view={"code": "CRL", "probability": 1})],
    )
    labels = write_labels(tmp_path / "both.csv", [("set/0.png", 1, "standard"), rows[1]])
    fit_files(views, labels, "default", None, Choice(View.NT), Tolerance(), warn=lines.append)
    assert len(lines) == 1


@pytest.mark.slow
def test_the_commands(site: tuple[Path, Path], tmp_path: Path) -> None:
    """Fit, show, and score a picture with and without the site: the raw probability stays."""
    findings = site[0]
    out = tmp_path / "site.json"
    named = ("--site", " St. Anna ")
    process = qc_daemon_here("site", "fit", "--findings", findings, "--out", out, *named)
    assert process.returncode == 0, process.stderr
    assert "two classes of log odds" in process.stdout
    shown = qc_daemon_here("site", "show", out, "--format", "json")
    assert json.loads(shown.stdout)["id"] == read_record(out).id

    phantom = make(77, View.NT, standard=True)
    picture = tmp_path / "picture.png"
    Image.fromarray(phantom.pixels).save(picture)
    common = ("--format", "jsonl", "--device", "cpu")
    plain = json.loads(qc_daemon_here("score", picture, *common).stdout)
    here, elsewhere = (
        ultrasound(
            pixels=phantom.pixels.tobytes(),
            Rows=phantom.pixels.shape[0],
            Columns=phantom.pixels.shape[1],
            SamplesPerPixel=3,
            PlanarConfiguration=0,
            PhotometricInterpretation="RGB",
            InstitutionName=institution,
        )
        for institution in ("ST.  ANNA", "St. Anne")
    )
    files = write(tmp_path / "dicom", here, elsewhere)
    process = qc_daemon_here("score", picture, *files, "--site", out, *common)
    with_site, same, other = (json.loads(line) for line in process.stdout.splitlines())
    assert "1 file names another institution than St. Anna" in process.stderr
    assert (same["site"]["kind"], other["site"]["kind"]) == ("unlabelled", "none")
    assert same["quality"]["probability"] > other["quality"]["probability"]
    assert other["site"]["bundle_probability"] == other["quality"]["probability"]
    assert other["site"]["id"] == "St. Anne"
    assert "not-commissioned" in other["flags"]
    assert "not-commissioned" not in same["flags"]
    assert "site" not in plain
    assert with_site["site"]["kind"] == "unlabelled"
    assert with_site["site"]["n"] == 150
    assert with_site["site"]["bundle_probability"] == plain["quality"]["probability"]
    assert with_site["quality"]["raw_probability"] == plain["quality"]["raw_probability"]
    assert with_site["quality"]["probability"] > plain["quality"]["probability"]
    assert "not-commissioned" not in with_site["flags"]


def test_a_site_that_is_not_calibrated_says_so_and_is_no_failure(tmp_path: Path) -> None:
    findings = write_findings(tmp_path / "f.jsonl", [body(i, 1.0) for i in range(5)])
    out = tmp_path / "site.json"
    process = qc_daemon_here("site", "fit", "--findings", findings, "--out", out)
    assert process.returncode == 0, process.stderr
    assert "not enough to tell" in process.stdout
    assert read_record(out).kind == "none"


def test_wrong_use_is_one_line_each(site: tuple[Path, Path], tmp_path: Path) -> None:
    no_site = tmp_path / "x.json"
    no_site.write_text("{}")
    for arguments, words in (
        (("site", "show", no_site), "no site calibration"),
        (("score", tmp_path, "--site", no_site), "no site calibration"),
        (("score", tmp_path, "--site", tmp_path / "none.json"), "cannot be read"),
        (
            ("site", "fit", "--findings", site[0], "--out", no_site, "--confidence", "2"),
            "confidence",
        ),
    ):
        process = qc_daemon_here(*arguments)
        assert process.returncode == 2, process.stdout
        assert words in process.stderr
        assert len(process.stderr.strip().splitlines()) == 1


def test_a_calibration_of_another_bundle_is_not_applied(
    site: tuple[Path, Path], tmp_path: Path
) -> None:
    record = fit(site[0])
    out = tmp_path / "site.json"
    other = replace(record, bundle=replace(record.bundle, model_id="ef" * 32))
    out.write_text(json.dumps(other.to_json()))
    process = qc_daemon_here("score", tmp_path, "--site", out)
    assert process.returncode == 2
    assert f"was fitted on bundle default {BUNDLE.version} (efef" in process.stderr


@pytest.mark.parametrize("text", ["Source;FRAME;label\r\n", "source\tframe\tLabel\n"])
def test_labels_as_spreadsheets_write_them(site: tuple[Path, Path], text: str) -> None:
    findings, labels = site
    expected = fit(findings, labels)
    rows = list(csv.reader(labels.open(newline="")))[1:]
    delimiter = text[6]
    lines = [delimiter.join((name, f"{frame}.0", label)) for name, frame, label in rows]
    labels.write_text("\ufeff" + text + "\r\n".join(lines), encoding="utf-8", newline="")
    assert fit(findings, labels).data_sha256 == expected.data_sha256


def test_a_wrong_label_is_named_with_its_line(site: tuple[Path, Path]) -> None:
    findings, labels = site
    labels.write_text("source,frame,label\nset/0.png,1,standard\nset/1.png,1,good\n")
    with pytest.raises(UsageError, match="line 3: label 'good'"):
        fit(findings, labels)


def test_a_finding_counts_once_and_a_superseded_one_not(site: tuple[Path, Path]) -> None:
    findings, labels = site
    expected = fit(findings, labels)
    text = findings.read_text()
    old = body(7, 5.0, superseded=True)
    findings.write_text(text + text + json.dumps(old) + "\n")
    again = fit(findings, labels)
    assert (again.findings, again.reviews) == (150, 150)
    assert again.data_sha256 == expected.data_sha256
