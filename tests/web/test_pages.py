"""What pages show: to whom, in which language, and that text from outside stays text."""

import re

import pytest

from qc_daemon.operations import review_lists
from qc_daemon.operations.access_log import AccessFilter, list_access
from tests.support.web_site import CANARY_FAMILY, CANARY_SHOWN, MARKUP, WebSite

PAGES = ("/worklist?state=automatic&state=waiting", "/exams", "/exams/1", "/exams/2?finding=3")


@pytest.mark.parametrize("path", PAGES)
def test_markup_in_every_field_stays_text(site: WebSite, path: str) -> None:
    text = site.browser("lead").get(path).text
    assert MARKUP not in text
    assert not re.search(r"<script(?! src=)", text)
    assert " style=" not in text
    assert "<style" not in text
    assert not re.search(r"\son[a-z]+=", text)


@pytest.mark.parametrize(
    "path",
    [
        "/worklist?state={}",
        "/worklist?since={}",
        "/worklist?cursor={}",
        "/exams?text={}",
        "/exams?day={}",
        "/access?account={}",
        "/login?next={}",
        "/static/1/{}",
        "/nothing/{}",
        "/language/{}?next={}",
    ],
)
def test_markup_in_every_parameter_stays_text(site: WebSite, path: str) -> None:
    for role in ("lead", "auditor"):
        answer = site.browser(role).get(path.replace("{}", MARKUP))
        assert answer.status_code < 500
        assert MARKUP not in answer.text


def test_patients_are_named_to_who_may_see_them(site: WebSite) -> None:
    assert CANARY_SHOWN in site.browser("lead").get("/exams").text
    assert CANARY_SHOWN in site.browser("sonographer").get("/exams/1").text
    engineer = site.browser("engineer")
    for path in ("/operations", "/account", "/exams", "/exams/1", "/worklist"):
        assert CANARY_FAMILY not in engineer.get(path).text


def test_an_exam_shows_verdict_criteria_and_form(site: WebSite) -> None:
    text = site.browser("lead").get("/exams/1?finding=2").text
    for word in ("NON-STANDARD", "What to change", "Criteria", 'action="/findings/2/review"'):
        assert word in text
    assert "/findings/2/frame.png" in text
    assert 'action="/findings/' not in site.browser("auditor").get("/exams/1?finding=2").text
    sonographer = site.browser("sonographer").get("/exams/1?finding=2").text
    assert 'value="dispute"' in sonographer
    assert 'value="override"' not in sonographer


def test_a_review_is_said_by_the_accounts_full_name(site: WebSite) -> None:
    lead = site.browser("lead")
    version = re.search(r'name="version" value="(\d+)"', lead.get("/exams/1?finding=1").text)
    assert version is not None
    values = {"verb": "override", "verdict": "non-standard", "reason": "criterion"}
    values |= {"version": version[1], "remark": MARKUP}
    answer = site.post(lead, "/findings/1/review", **values)
    assert answer.headers["location"] == "/exams/1?finding=1", answer.text
    shown = review_lists.show_review(site.exam.settings, 1)
    assert (shown["state"], shown["reader"]) == ("overridden", "Dr Lead")
    page = lead.get("/exams/1?finding=1").text
    assert "Dr Lead" in page
    assert MARKUP not in page
    # The form comes back with what is wrong.
    again = site.post(lead, "/findings/1/review", **values)
    assert again.status_code == 409
    assert "was read so already by Dr Lead" in again.text


def test_who_waits_to_read_blinded_is_shown_nothing(site: WebSite) -> None:
    sonographer = site.browser("sonographer")
    values = {"verb": "dispute", "reason": "measurable", "version": "0", "remark": "look again"}
    answer = site.post(sonographer, "/findings/2/review", **values)
    assert answer.status_code == 303, answer.text
    text = site.browser("lead").get("/exams/1?finding=2").text
    assert "To be read blinded" in text
    assert "What to change" not in text
    assert "look again" not in text
    assert site.browser("lead").get("/findings/2/boxes.png").status_code == 404
    (row,) = [
        each
        for each in site.program("lead").get("/api/v1/findings").json()["items"]
        if each["finding_id"] == 2
    ]
    assert row["answers_hidden"] is True
    assert (row["quality"], row["criteria"], row["detections"]) == (None, None, None)
    # Nor does a list that asks for a verdict or a view give it away.
    for question in ("verdict=standard", "verdict=non-standard", "verdict=review", "view=NT"):
        answer = site.program("lead").get(f"/api/v1/findings?{question}")
        assert answer.status_code == 200
        assert 2 not in [each["finding_id"] for each in answer.json()["items"]]


def test_each_look_is_recorded(site: WebSite) -> None:
    site.browser("lead").get("/exams/2?finding=3")
    site.program("lead").get("/api/v1/findings/1")
    rows = list_access(site.exam.settings, AccessFilter(), 0)
    looks = [(row["account"], row["token"], row["exam_id"]) for row in rows if row["exam_id"]]
    assert looks == [("lead", "program", 1), ("lead", None, 2)]
    assert "looked at" in site.browser("auditor").get("/access").text


@pytest.mark.parametrize(("language", "word"), [("de", "Abmelden"), ("zh", "退出")])
def test_pages_are_in_the_readers_language(site: WebSite, language: str, word: str) -> None:
    client = site.browser("lead")
    for path in ("/worklist", "/exams", "/exams/1", "/account"):
        text = client.get(path, headers={"accept-language": f"{language}-XX,en;q=0.5"}).text
        assert f'<html lang="{language}">' in text
        assert word in text
    chosen = client.get(f"/language/{language}?next=/exams")
    assert chosen.headers["location"] == "/exams"
    assert word in client.get("/exams").text


def test_pages_go_on_where_the_one_before_ended(site: WebSite) -> None:
    client = site.program("lead")
    first = client.get("/api/v1/findings?limit=2").json()
    # What arrives meanwhile is on no later page.
    site.exam.receive_image(quality="standard")
    second = client.get(f"/api/v1/findings?limit=2&cursor={first['cursor']}").json()
    ids = [each["finding_id"] for each in first["items"] + second["items"]]
    assert ids == [3, 2, 1]
    assert second["cursor"] is None
    assert client.get("/api/v1/findings?cursor=abc").status_code == 422
    exams = client.get("/api/v1/exams?limit=1").json()
    rest = client.get(f"/api/v1/exams?limit=9&cursor={exams['cursor']}").json()
    assert [each["exam_id"] for each in exams["items"] + rest["items"]] == [3, 2, 1] or [
        each["exam_id"] for each in exams["items"] + rest["items"]
    ] == [2, 1]


def test_errors_of_the_api_are_problem_details(site: WebSite) -> None:
    client = site.program("lead")
    for path, status in (
        ("/api/v1/findings/77", 404),
        ("/api/v1/findings?view=KNEE", 422),
        ("/api/v1/findings?limit=0", 422),
        ("/api/v1/nothing", 404),
    ):
        answer = client.get(path)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code == status
    said = {"verb": "accept", "version": 5}
    answer = client.post("/api/v1/findings/1/reviews", json=said)
    assert answer.status_code == 409
    answer = client.post("/api/v1/findings/1/reviews", json=said | {"version": 0})
    assert answer.status_code == 201, answer.text
    reviews = client.get("/api/v1/findings/1/reviews").json()
    assert [each["reader"] for each in reviews["events"]] == ["Dr Lead"]
    assert client.get("/api/v1/openapi.json").json()["openapi"].startswith("3.1")
