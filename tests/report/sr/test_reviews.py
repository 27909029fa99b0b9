"""A person's verdict in the structured report: beside the models', tied to it, read back apart."""

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.dataset import Dataset

from detector.anatomy import View
from model.finding import Finding
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.sr.document import build_sr
from qc_daemon.report.sr.parse import parse_findings, parse_reviews
from qc_daemon.review.events import EventKind
from qc_daemon.review.reasons import REASONS
from qc_daemon.review.state import ReviewState, current_state
from tests.support import pixelmed, sr_reader
from tests.support.report_objects import (
    assert_same_findings,
    nuchal_finding,
    reviewed,
    source_instance,
)

CREATED = datetime(2026, 1, 2, 9, 30, 0, 250000, tzinfo=UTC)
AT = datetime(2026, 1, 2, 9, 25, 1, 500000, tzinfo=UTC)


def outcome(**changes: Any) -> ReviewState:
    values: dict[str, Any] = {
        "at": AT,
        "criteria": (("CRIT-GAIN", True), ("CRIT-NASAL", None), ("CRIT-NT", False)),
        "remark": "her mother is Jane",
    }
    return reviewed(**values | changes)


SOURCES = [
    source_instance(SOPInstanceUID=f"1.2.826.0.1.3680043.10.1.1.{n}", TimezoneOffsetFromUTC="+0100")
    for n in range(1, 7)
]
FINDINGS = [nuchal_finding(source) for source in SOURCES]
STATES = [
    outcome(),
    None,
    outcome(kind=EventKind.ACCEPT, verdict="non-standard", criteria=(), reason=None, reader="Ng^A"),
    outcome(view=View.OTHER, verdict=None, reader="Müller^Änne", is_blinded=True, criteria=()),
    outcome(kind=EventKind.RESOLVE, reader="王^小明", reason="other"),
    current_state([]),
]


@pytest.fixture(scope="module")
def report() -> Dataset:
    return build_sr(SOURCES, FINDINGS, revision=2, created=CREATED, reviews=STATES)


@pytest.fixture(scope="module")
def path(report: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sr") / "report.dcm"
    path.write_bytes(to_bytes(report))
    return path


def test_models_findings_and_persons_verdicts_come_back_apart(path: Path) -> None:
    again = dcmread(path)
    assert_same_findings(parse_findings(again), FINDINGS)
    reviews = parse_reviews(again)
    assert [each.number for each in reviews] == [1, 3, 4, 5]
    states = [state for state in STATES if state is not None and state.outcome is not None]
    for parsed, state in zip(reviews, states, strict=True):
        event = state.outcome
        assert event is not None
        for name in ("kind", "view", "verdict", "criteria", "reason", "reader", "at", "is_blinded"):
            assert getattr(parsed, name) == getattr(event, name), name


def test_the_persons_group_has_the_models_tracking_uid_and_a_human_observer(path: Path) -> None:
    groups = {
        sr_reader.only(group, "DCM 112039").TextValue: group
        for group in sr_reader.groups(dcmread(path))
    }
    person, models = groups["P1"], groups["F1"]
    uid = "DCM 112040"
    assert sr_reader.only(person, uid).UID == sr_reader.only(models, uid).UID
    assert sr_reader.only(person, uid).UID != sr_reader.only(groups["F2"], uid).UID
    observer = sr_reader.only(person, "DCM 121005")
    assert observer.ConceptCodeSequence[0].CodeValue == "121006"
    assert observer.RelationshipType == "HAS OBS CONTEXT"
    name = sr_reader.only(person, "DCM 121008")
    assert (name.ValueType, name.PersonName) == ("PNAME", "Dr Lee")
    assert person.ObservationDateTime == "20260102102501.500000+0100"
    # The models' groups have the document's observer, the device.
    assert sr_reader.children(models, "DCM 121005") == []
    assert person.ContentTemplateSequence[0].TemplateIdentifier == "1501"
    assert sr_reader.children(person, "DCM 111001") == []


def test_the_document_stays_unverified_and_has_no_remark(path: Path) -> None:
    dataset = dcmread(path)
    assert dataset.VerificationFlag == "UNVERIFIED"
    assert "VerifyingObserverSequence" not in dataset
    assert b"mother" not in path.read_bytes()


def test_other_readers_find_the_models_findings_as_before(path: Path) -> None:
    assert len(sr_reader.findings(dcmread(path))) == len(FINDINGS)


def test_a_report_without_a_verdict_is_what_it_was() -> None:
    plain = build_sr(SOURCES, FINDINGS, revision=2, created=CREATED)
    empty = build_sr(SOURCES, FINDINGS, revision=2, created=CREATED, reviews=[None] * len(FINDINGS))
    assert to_bytes(plain) == to_bytes(empty)
    assert parse_reviews(plain) == []


@pytest.mark.parametrize("zone", ["+0000", "-0330", "+1400"])
def test_the_moment_of_a_verdict_is_in_the_zone_of_the_source(
    zone: str, tmp_path: Path, dsrdump: Callable[[Path], str]
) -> None:
    source = source_instance(TimezoneOffsetFromUTC=zone)
    findings = [nuchal_finding(source)]
    report = build_sr([source], findings, revision=1, created=CREATED, reviews=[outcome()])
    path = tmp_path / "report.dcm"
    path.write_bytes(to_bytes(report))
    assert [each.at for each in parse_reviews(path.read_bytes())] == [AT]
    process = subprocess.run(["dsrdump", path], capture_output=True, text=True, check=True)
    assert "ObservationDateTime" not in process.stderr


def review_code(finding: Finding, state: ReviewState) -> str:
    report = build_sr(SOURCES[:1], [finding], revision=1, created=CREATED, reviews=[state])
    (group,) = (
        each
        for each in sr_reader.groups(report)
        if sr_reader.only(each, "DCM 112039").TextValue == "P1"
    )
    item = sr_reader.only(group, "99QCD REVIEW")
    return str(item.ConceptCodeSequence[0].CodeValue)


def test_the_code_says_how_the_person_stands_to_what_the_models_say() -> None:
    (source,) = SOURCES[:1]
    models = nuchal_finding(source)
    undecided = nuchal_finding(source, quality="review")
    same: dict[str, Any] = {"verdict": "non-standard", "criteria": (), "reason": None}
    assert review_code(models, outcome()) == "RVW-OVERRIDDEN"
    # A blinded reader knows no answer to contradict: what he adds to the same one is no override.
    blinded = same | {"is_blinded": True, "criteria": (("CRIT-NASAL", True),)}
    assert review_code(models, outcome(**blinded)) == "RVW-ACCEPTED"
    blinded["criteria"] = (("CRIT-GAIN", True),)
    assert review_code(models, outcome(**blinded)) == "RVW-OVERRIDDEN"
    assert review_code(undecided, outcome(**same)) == "RVW-DECIDED"
    assert review_code(undecided, outcome(view=View.CRL)) == "RVW-OVERRIDDEN"
    assert review_code(undecided, outcome(kind=EventKind.RESOLVE)) == "RVW-RESOLVED"
    (parsed,) = parse_reviews(
        build_sr([source], [undecided], revision=1, created=CREATED, reviews=[outcome()])
    )
    assert parsed.kind is EventKind.OVERRIDE


def test_every_reason_and_kind_has_a_code() -> None:
    for reason in REASONS:
        state = outcome(reason=reason)
        report = build_sr(SOURCES[:1], FINDINGS[:1], revision=1, created=CREATED, reviews=[state])
        assert [each.reason for each in parse_reviews(report)] == [reason]


def test_validators_find_no_fault(
    path: Path, dciodvfy: Callable[[Path], list[str]], dsrdump: Callable[[Path], str]
) -> None:
    assert dciodvfy(path) == []
    text = dsrdump(path)
    assert 'PNAME:(,,"Person Observer Name")="Dr Lee"' in text
    process = subprocess.run(["dsrdump", path], capture_output=True, text=True, check=True)
    complaints = [line for line in process.stderr.splitlines() if "ISO_IR 192" not in line]
    assert complaints == []
    assert len(srread(path).content.get_image_measurement_groups()) == len(FINDINGS) + 4


@pytest.mark.slow
def test_pixelmed_finds_no_fault(path: Path) -> None:
    if not pixelmed.present():
        pytest.skip("PixelMed's validator is not here")
    (lines,) = pixelmed.validate([path]).values()
    unknown = [
        line for line in lines if line.startswith("Error") and "context group 100" not in line
    ]
    assert unknown == []
    for line in lines:
        assert "121005" not in line or "not in template" in line


def test_findings_of_the_models_are_untouched() -> None:
    before = [finding.to_json() for finding in FINDINGS]
    build_sr(SOURCES, FINDINGS, revision=2, created=CREATED, reviews=STATES)
    assert [finding.to_json() for finding in FINDINGS] == before
    assert all(isinstance(finding, Finding) for finding in FINDINGS)
