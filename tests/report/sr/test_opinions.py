"""Other models' opinions in the structured report: groups of their own, under their own name."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from highdicom.sr import srread

from detector.anatomy import View
from detector.errors import ErrorCode, Flag, QCError
from model.finding import Finding
from model.parts.opinion import (
    LOW_SIMILARITY,
    SECOND_OPINION,
    VIEW_CLASSIFIER,
    Opinion,
    PartId,
)
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.sr.document import build_sr
from qc_daemon.report.sr.parse import parse_findings
from tests.support import sr_reader
from tests.support.report_objects import assert_same_findings, nuchal_finding, source_instance

CREATED = datetime(2026, 1, 2, 9, 30, tzinfo=UTC)
FETAL = PartId("fetalclip", "fetal prompts", "2.1", "ab" * 32)
PLANES = PartId("dual-branch", "planes", "1", "cd" * 32)
SOURCES = [source_instance(SOPInstanceUID=f"1.2.826.0.1.3680043.10.1.1.{n}") for n in (1, 2, 3)]


def with_opinions(number: int, *opinions: Opinion) -> Finding:
    finding = nuchal_finding(SOURCES[number])
    judgement = replace(
        finding.judgement, opinions=opinions, flags=(Flag.VIEW_DISAGREEMENT,) if opinions else ()
    )
    return replace(finding, judgement=judgement)


FINDINGS = [
    with_opinions(
        0,
        Opinion(SECOND_OPINION, FETAL, "Kopf, größer", 0.123456789, (View.HEAD, View.NT)),
        Opinion(VIEW_CLASSIFIER, PLANES, "Stomach", 0.75, (View.ABDOMEN,)),
    ),
    with_opinions(1),
    with_opinions(
        2,
        Opinion(SECOND_OPINION, FETAL, "Femur", 0.5, (), LOW_SIMILARITY),
        Opinion(VIEW_CLASSIFIER, PLANES, "Femur", 1.0, ()),
    ),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sr") / "report.dcm"
    path.write_bytes(to_bytes(build_sr(SOURCES, FINDINGS, revision=1, created=CREATED)))
    return path


def test_a_report_is_read_back_as_what_went_in(path: Path) -> None:
    parsed = parse_findings(path.read_bytes())
    assert_same_findings(parsed, FINDINGS)
    assert [each.judgement.opinions for each in parsed] == [
        each.judgement.opinions for each in FINDINGS
    ]


def test_each_opinion_has_its_own_algorithm_and_the_finding_s_tracking_uid(path: Path) -> None:
    report = build_sr(SOURCES, FINDINGS, revision=1, created=CREATED)
    groups = {
        str(sr_reader.only(group, "DCM 112039").TextValue): group
        for group in sr_reader.groups(report)
    }
    opinions = [name for name in groups if name.startswith("O")]
    assert opinions == ["O1-1", "O1-2", "O3-1", "O3-2"]
    first = groups["O1-1"]
    names = [
        str(sr_reader.only(first, f"DCM {code}").TextValue)
        for code in ("111001", "111003", "111002")
    ]
    assert names == ["qc-daemon part fetalclip fetal prompts", "2.1", f"model_id={'ab' * 32}"]
    uid = "DCM 112040"
    assert sr_reader.only(first, uid).UID == sr_reader.only(groups["F1"], uid).UID
    agrees = [
        sr_reader.only(groups[name], "99QCD OPN-AGREES").ConceptCodeSequence[0].CodeMeaning
        for name in opinions
    ]
    assert agrees == ["Yes", "No", "Undetermined", "Undetermined"]
    makers = [
        str(item.get("ManufacturerModelName", "")) for item in report.ContributingEquipmentSequence
    ]
    assert [name for name in makers if " part " in name] == [
        "qc-daemon part fetalclip fetal prompts",
        "qc-daemon part dual-branch planes",
    ]


def test_validators_find_no_fault(
    path: Path, dciodvfy: Callable[[Path], list[str]], dsrdump: Callable[[Path], str]
) -> None:
    assert dciodvfy(path) == []
    assert "Kopf, größer" in dsrdump(path)
    assert len(srread(path).content.get_image_measurement_groups()) == len(FINDINGS) + 4


def test_an_impossible_probability_is_refused() -> None:
    finding = with_opinions(0, Opinion(SECOND_OPINION, FETAL, "x", float("nan"), ()))
    with pytest.raises(QCError) as caught:
        build_sr(SOURCES[:1], [finding], revision=1, created=CREATED)
    assert caught.value.code is ErrorCode.REPORT_INVALID
