"""Reports of an audit as the engine makes it, of a history whose truth is known."""

from datetime import UTC, datetime
from typing import Any

import pytest

from qc_daemon.audit.reports.composer import Composer
from qc_daemon.audit.reports.document import Callout, ChartBlock, Document
from qc_daemon.audit.reports.facts import AuditFacts
from qc_daemon.audit.reports.html import report_html
from qc_daemon.audit.reports.person import person_report
from qc_daemon.audit.reports.place import place_report
from qc_daemon.audit.reports.words import Names
from qc_daemon.language.wording import Wording
from tests.support.charts import check_chart
from tests.support.histories import audit_history

CREATED = datetime(2026, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def history() -> tuple[dict[str, Any], AuditFacts]:
    truth, content = audit_history(3, 12_000)
    # What the operation adds: the date, and of examples where their pictures are.
    for subject in content["subjects"]:
        for name, ids in subject.get("examples", {}).items():
            subject["examples"][name] = [{"finding_id": id} for id in ids]
    return truth, AuditFacts.from_json(content | {"date": content["window"]["to"]})


def report(audit: AuditFacts, kind: str, id: str) -> Document:
    subject = audit.subject(kind, id)
    assert subject is not None
    composer = Composer(audit, subject, id, Names({}, {}), Wording())
    make = person_report if kind == "person" else place_report
    return make(composer, CREATED)


def called(document: Document) -> list[str]:
    titles = [block.title for block in document.blocks if isinstance(block, Callout)]
    return [title for title in titles if "Nothing" not in title]


def test_a_report_names_the_flag_and_the_case_mix_is_taken_out(
    history: tuple[dict[str, Any], AuditFacts],
) -> None:
    truth, audit = history
    outlier = called(report(audit, "person", truth["outlier_person"]))
    assert any(title.startswith("Standard views: ") for title in outlier)
    assert any(
        title.startswith("NT: bias")
        for title in called(report(audit, "person", truth["nt_bias_person"]))
    )
    assert not called(report(audit, "person", truth["case_mix_person"]))


def test_every_subject_has_a_report_whose_charts_are_sound(
    history: tuple[dict[str, Any], AuditFacts],
) -> None:
    _, audit = history
    chosen = [s for s in audit.subjects if s.kind != "person"]
    chosen += [s for s in audit.subjects if s.kind == "person"][::6]
    assert {s.kind for s in chosen} == {"person", "device", "site"}
    for subject in chosen:
        document = report(audit, subject.kind, subject.id)
        charts = [block for block in document.blocks if isinstance(block, ChartBlock)]
        assert charts
        for block in charts:
            check_chart(block.chart)
        text = report_html(document)
        assert not {s.id for s in audit.others(subject) if s.kind == "person"} & set(text.split())
