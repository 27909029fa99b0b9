"""Audits, persons and devices: to whom they are shown, with charts that lead to their findings."""

import html
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from qc_daemon.digest.message import Digest, mail_message
from qc_daemon.language.wording import Wording
from qc_daemon.operations import identities
from qc_daemon.operations.access_log import AccessFilter, list_access
from qc_daemon.operations.identities import list_devices, list_persons
from qc_daemon.records.tables import AuditRow, AuditState
from tests.support import pdf
from tests.support.audit_json import audit_json
from tests.support.web_site import CANARY_FAMILY, JANE, MARKUP, WebSite

DAY = "2026-06-28"


@pytest.fixture(scope="module")
def site(shared_site: WebSite) -> Iterator[WebSite]:
    """An audit is of Jane, eight others and the device; Ada is not in it."""
    settings = shared_site.exam.settings
    persons = {row["received_name"]: row["id"] for row in list_persons(settings)}
    (device,) = [row["id"] for row in list_devices(settings)]
    text = json.dumps(audit_json({"p1": 120, **{f"q{i}": 40 + i for i in range(8)}}))
    text = text.replace('"p1"', f'"{persons[JANE]}"').replace('"d1"', f'"{device}"')
    content = json.loads(text)
    subject = next(each for each in content["subjects"] if each["id"] == persons[JANE])
    subject["examples"] = {
        "good": [{"finding_id": 1, "view": "NT"}, {"finding_id": 3, "view": "NT"}],
        "instructive": [{"finding_id": 2, "view": "NT"}],
    }
    now = shared_site.exam.now
    rows = [
        AuditRow(name="nightly", local_date=DAY, state=AuditState.DONE),
        AuditRow(name="nightly", local_date="2026-06-29", state=AuditState.WAITING),
    ]
    rows[0].content = json.dumps(content).encode()
    for row in rows:
        row.created_at = row.updated_at = now
    with shared_site.exam.store.begin() as session:
        session.add_all(rows)
    shared_site.numbers = {"jane": persons[JANE], "device": device} | {
        "ada": next(id for name, id in persons.items() if name != JANE)
    }
    return shared_site


def test_a_sonographer_sees_her_own_report_and_nobody_elses(site: WebSite) -> None:
    client, numbers = site.browser("sonographer"), site.numbers
    people = client.get("/people").text
    assert numbers["jane"] in people
    assert numbers["ada"] not in people
    page = client.get(f"/people/{numbers['jane']}").text
    assert page.count("<svg") > 4
    assert "Private: for the person it is about" in page
    assert "/findings/1/boxes.png" in page
    # An example of somebody else's image is not hers to see.
    assert "/findings/3" not in page
    for path in (f"/people/{numbers['ada']}", f"/people/{numbers['ada']}/report.json"):
        assert client.get(path).status_code == 404
    for path in ("/devices", f"/devices/{numbers['device']}"):
        assert client.get(path).status_code == 403
    audit = client.get(f"/audits/{DAY}").text
    assert numbers["jane"] in audit
    assert "/people/q1" not in audit
    assert "/devices/" not in audit


def test_the_link_of_a_private_mail_leads_to_the_report(site: WebSite) -> None:
    jane = site.numbers["jane"]
    digest = Digest("jane@example.org", "nightly", DAY, jane)
    text = mail_message(digest, "qc@example.org", "https://qc", Wording("en")).get_content()
    (address,) = re.findall(r"https://qc(/\S+)", text)
    page = site.browser("sonographer").get(address)
    assert page.status_code == 200
    assert "Private: for the person it is about" in page.text
    assert f"2026-03-30 – {DAY}" in page.text
    digest = Digest("lead@example.org", "nightly", DAY)
    text = mail_message(digest, "qc@example.org", "https://qc", Wording("en")).get_content()
    (address,) = re.findall(r"https://qc(/\S+)", text)
    assert site.browser("lead").get(address).status_code == 200


def test_an_engineer_sees_devices_and_no_person(site: WebSite) -> None:
    client, numbers = site.browser("engineer"), site.numbers
    assert client.get("/people").status_code == 403
    assert client.get(f"/people/{numbers['jane']}").status_code == 403
    page = client.get(f"/devices/{numbers['device']}").text
    assert page.count("<svg") > 2
    assert "/worklist" not in page
    audit = client.get(f"/audits/{DAY}").text
    assert numbers["device"] in audit
    assert numbers["jane"] not in audit
    assert "audit-pause" in client.get("/audits").text
    assert "audit-pause" not in site.browser("auditor").get("/audits").text
    site.post(client, "/operations/change", change="audit-pause", name="2026-06-29")
    with site.exam.store.read() as session:
        states = dict(session.execute(select(AuditRow.local_date, AuditRow.state)).all())
    assert states["2026-06-29"] == AuditState.PAUSED


def test_a_point_leads_to_the_findings_of_its_period(site: WebSite) -> None:
    lead, jane = site.browser("lead"), site.numbers["jane"]
    page = lead.get(f"/people/{jane}?day={DAY}").text
    links = {html.unescape(each) for each in re.findall(r'<a href="(/worklist[^"]+)"', page)}
    made = [link for link in links if "made_from=" in link]
    assert len(made) > 10
    for link in made[:2]:
        assert f"person={jane}" in link
        assert lead.get(link).status_code == 200
    every = f"/worklist?state=automatic&state=waiting&person={jane}"
    received = site.exam.now.date()
    day = f"&made_from={received}&made_to={received}"
    before = f"&made_to={received - timedelta(days=1)}"
    for query, findings in ((every, (1, 2)), (every + day, (1, 2))):
        text = lead.get(query).text
        assert [number for number in (1, 2, 3) if f"finding={number}" in text] == list(findings)
    assert "finding=" not in lead.get(every + before).text
    assert "finding=" not in lead.get("/worklist?state=automatic&person=nobody").text
    # Who sees only her own finds nothing of others by a filter.
    ada = site.numbers["ada"]
    text = site.browser("sonographer").get(f"/worklist?state=waiting&person={ada}").text
    assert "finding=" not in text
    for wrong in ("made_from=x", "made_from=2026-03-05&made_to=2026-03-04", "made_to=9999-12-31"):
        assert lead.get(f"/worklist?{wrong}").status_code == 422


def test_markup_in_names_stays_text_and_no_style_is_inline(site: WebSite) -> None:
    settings, jane = site.exam.settings, site.numbers["jane"]
    identities.rename(settings, identities.IdentityKind.PERSON, jane, MARKUP, "Dr Lead")
    lead = site.browser("lead")
    for path in (f"/people/{jane}", "/people", "/devices", f"/audits/{DAY}", "/audits"):
        text = lead.get(path).text
        assert MARKUP not in text
        assert CANARY_FAMILY not in text
        assert " style=" not in text
    assert lead.get("/sites?site=St+Mary").status_code == 200
    assert lead.get("/sites?site=nowhere").status_code == 404


def test_a_report_is_fetched_and_its_person_sees_by_whom(site: WebSite) -> None:
    jane = site.numbers["jane"]
    assert site.browser("lead").get(f"/people/{jane}/report.pdf").content[:5] == b"%PDF-"
    device = site.numbers["device"]
    assert site.browser("engineer").get(f"/devices/{device}/report.json").json()["kind"] == "device"
    assert site.browser("lead").get(f"/people/{jane}/report.exe").status_code == 404
    assert site.browser("lead").get(f"/people/{jane}?day=1999-01-01").status_code == 404
    hers = site.browser("sonographer").get(f"/people/{jane}").text
    assert "Who has read this" in hers
    assert " lead" in hers.partition("Who has read this")[2]
    # Another's readers are for who sees the access log.
    assert "Who has read this" not in site.browser("lead").get(f"/people/{jane}").text
    rows = list_access(site.exam.settings, AccessFilter(subjects={jane}), 0)
    assert {row["action"] for row in rows} == {"report"}


def test_an_audit_is_fetched_as_far_as_one_may_see_it(site: WebSite, tmp_path: Path) -> None:
    jane, device = site.numbers["jane"], site.numbers["device"]
    lead, engineer = site.browser("lead"), site.browser("engineer")
    page = lead.get(f"/audits/{DAY}").text
    for format in ("pdf", "html", "json"):
        assert f'href="/audits/{DAY}/report.{format}"' in page
    answer = lead.get(f"/audits/{DAY}/report.pdf")
    assert answer.headers["content-disposition"] == 'attachment; filename="report.pdf"'
    (tmp_path / "audit.pdf").write_bytes(answer.content)
    text = pdf.text(tmp_path / "audit.pdf")
    # Without its spaces.
    assert f"Auditof{DAY}" in text
    assert "Whomandwhatitisabout" in text
    # The same audit makes the same bytes.
    assert lead.get(f"/audits/{DAY}/report.pdf").content == answer.content
    content = lead.get(f"/audits/{DAY}/report.json").json()
    assert {each["id"] for each in content["subjects"]} >= {jane, device}
    report = engineer.get(f"/audits/{DAY}/report.json").json()
    assert {each["kind"] for each in report["subjects"]} == {"device", "site"} & {
        each["kind"] for each in content["subjects"]
    }
    own = site.browser("sonographer").get(f"/audits/{DAY}/report.json").json()
    assert [each["id"] for each in own["subjects"]] == [jane]
    whole = engineer.get(f"/audits/{DAY}/report.html").text
    assert jane not in whole
    assert device in whole
    assert lead.get(f"/audits/{DAY}/report.exe").status_code == 404
    assert lead.get("/audits/1999-01-01/report.pdf").status_code == 422


def test_a_sites_report_is_fetched(site: WebSite, tmp_path: Path) -> None:
    lead = site.browser("lead")
    page = lead.get("/sites?site=St+Mary").text
    match = re.search(r'href="(/sites/report\.pdf\?[^"]+)"', page)
    assert match is not None
    link = html.unescape(match[1])
    assert "site=St+Mary" in link or "site=st+mary" in link
    (tmp_path / "site.pdf").write_bytes(lead.get(link).content)
    assert "St.Mary" in pdf.text(tmp_path / "site.pdf")
    assert lead.get("/sites/report.json?site=St+Mary").json()["kind"] == "site"
    assert lead.get("/sites/report.pdf?site=nowhere").status_code in (404, 409)
    assert site.browser("sonographer").get("/sites/report.pdf?site=St+Mary").status_code == 403


def test_persons_and_devices_are_merged_split_and_renamed(site: WebSite) -> None:
    lead, jane, ada = site.browser("lead"), site.numbers["jane"], site.numbers["ada"]
    page = lead.get(f"/identities/confirm?change=person-merge&name={ada}&into={jane}&back=/people")
    assert ada in page.text
    assert jane in page.text
    site.post(lead, "/identities/change", change="person-merge", name=ada, into=jane)
    # Who counts as her is hers to see.
    assert site.browser("sonographer").get("/exams/2").status_code == 200
    site.post(lead, "/identities/change", change="person-split", name=ada)
    assert site.browser("sonographer").get("/exams/2").status_code == 404
    refused = site.post(lead, "/identities/change", change="person-split", name=ada)
    assert refused.status_code == 409
    device = site.numbers["device"]
    site.post(lead, "/identities/change", change="device-rename", name=device, into="Room 2")
    assert "Room 2" in lead.get("/devices").text
    for role in ("engineer", "sonographer"):
        answer = site.post(site.browser(role), "/identities/change", change="person-merge")
        assert answer.status_code == 403
