"""The worklist's saved views, and findings accepted together after a page that lists them."""

import re

from markupsafe import escape

from qc_daemon.operations.identity_names import identity_names
from qc_daemon.operations.review_lists import show_review
from qc_daemon.operations.reviews import Answer, remark
from qc_daemon.operations.saved_views import MAX_VIEWS
from qc_daemon.operations.shared import open_store
from qc_daemon.records.tables import IdentityKind
from tests.support.web_site import MARKUP, WebSite


def _saved(page: str) -> dict[str, str]:
    found = re.findall(r'<li><a href="/worklist\?([^"]*)">([^<]*)</a>', page)
    return {name: query.replace("&amp;", "&") for query, name in found}


def test_filters_are_kept_under_a_name_by_account(shared_site: WebSite) -> None:
    lead = shared_site.browser("lead")
    query = "state=automatic&view=NT&cursor=abc&next=//evil&made_from=2026-03-04"
    answer = shared_site.post(lead, "/worklist/views", name="  my   views ", query=query)
    assert answer.headers["location"] == "/worklist?state=automatic&view=NT&made_from=2026-03-04"
    shared_site.post(lead, "/worklist/views", name=MARKUP, query=f"person={MARKUP}")
    page = lead.get("/worklist").text
    assert MARKUP not in page
    assert _saved(page)["my views"] == "state=automatic&view=NT&made_from=2026-03-04"
    assert lead.get(f"/worklist?{_saved(page)['my views']}").status_code == 200
    assert _saved(shared_site.browser("auditor").get("/worklist").text) == {}
    # The same name takes the place of what it named.
    shared_site.post(lead, "/worklist/views", name="my views", query="view=CRL")
    assert _saved(lead.get("/worklist").text)["my views"] == "view=CRL"
    shared_site.post(lead, "/worklist/views/remove", name="my views")
    assert "my views" not in _saved(lead.get("/worklist").text)
    assert shared_site.post(lead, "/worklist/views", name=" ", query="").status_code == 422
    for number in range(MAX_VIEWS):
        answer = shared_site.post(lead, "/worklist/views", name=f"view {number}", query="")
    assert answer.status_code == 422
    assert "remove one" in answer.text


def test_persons_and_devices_are_chosen_by_name(shared_site: WebSite) -> None:
    settings = shared_site.exam.settings
    lead, sonographer = (shared_site.browser(name) for name in ("lead", "sonographer"))
    with open_store(settings).read() as session:
        id, name = next(iter(identity_names(session, IdentityKind.PERSON).items()))
    page = lead.get(f"/worklist?person={id}").text
    assert f'<option value="{id}" selected>{escape(name)}</option>' in page
    assert '<select name="device">' in page
    # What a link asks for stays asked for, also where it is no more.
    gone = lead.get("/worklist?person=gone-1").text
    assert '<option value="gone-1" selected>gone-1</option>' in gone
    assert '<select name="device">' not in sonographer.get("/worklist").text


def test_findings_are_accepted_together_but_for_those_that_need_a_look(
    shared_site: WebSite,
) -> None:
    settings, lead = shared_site.exam.settings, shared_site.browser("lead")
    assert shared_site.browser("auditor").get("/worklist/accept?finding=1").status_code == 403
    assert lead.get("/worklist/accept").status_code == 422
    remark(settings, 2, Answer("Dr Other", remark="look again"), lambda: shared_site.exam.now)
    page = lead.get("/worklist/accept?finding=1&finding=2&finding=3&finding=77&back=//evil").text
    shown = re.findall(r'name="shown" value="([^"]+)"', page)
    assert shown == ["1:0", "3:0"]
    assert "somebody remarked on it" in page
    assert 'href="//evil' not in page
    assert 'value="//evil' not in page
    # One is read by somebody else before the button is pressed.
    client = shared_site.program("lead")
    said = {"verb": "override", "version": 0, "verdict": "standard", "reason": "criterion"}
    assert client.post("/api/v1/findings/3/reviews", json=said).status_code == 201
    csrf = shared_site.csrf(lead)
    data = {"csrf_token": csrf, "shown": [*shown, "2:1", "77:0"], "back": "/worklist"}
    answer = lead.post("/worklist/accept", data=data, headers={"Sec-Fetch-Site": "same-origin"})
    assert "1 finding is accepted" in answer.text
    assert "finding 3: it was read already" in answer.text
    assert "finding 2: somebody remarked on it" in answer.text
    assert "finding 77" not in answer.text
    assert show_review(settings, 1)["state"] == "accepted"
    assert show_review(settings, 1)["reader"] == "Dr Lead"
    assert show_review(settings, 2)["state"] not in ("accepted", "overridden")
    wrong = data | {"shown": ["1", "a:b"]}
    answer = lead.post("/worklist/accept", data=wrong, headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 422
