"""Second readings: no answer in any byte, who may read, and what follows."""

import re
from dataclasses import replace

import pytest

from qc_daemon.operations import review_lists, reviews
from qc_daemon.operations.reviews import Answer
from tests.support.web_site import WebSite


@pytest.fixture
def waiting(site: WebSite) -> WebSite:
    """Findings 1 (standard) and 2 (non-standard) are disputed, 3 (left to a person) was read."""
    answer = Answer("Dr Ng", reason="measurable", remark="UNSPEAKABLE")
    for finding in (1, 2):
        reviews.dispute(site.exam.settings, finding, answer)
    site.exam.settings.review.share = 1.0
    reviews.override(site.exam.settings, 3, replace(answer, verdict="standard"))
    return site


def page(site: WebSite, finding: int) -> str:
    answer = site.browser("lead").get(f"/second-readings/{finding}")
    assert answer.status_code == 200
    return answer.text


def form_values(text: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(version|shown)" value="(\d+)"', text))


def test_the_page_is_the_same_whatever_the_models_say(waiting: WebSite) -> None:
    pages = []
    for finding in (1, 2, 3):
        text = page(waiting, finding)
        text = text.replace(f"/{finding}/", "/N/").replace(f"finding {finding}", "finding N")
        text = re.sub(rf"(/second-readings/|%2Fsecond-readings%2F){finding}\b", r"\1N", text)
        pages.append(re.sub(r'(name="shown" value=)"\d+"', r"\1", text))
    assert pages[0] == pages[1] == pages[2]
    for word in ("UNSPEAKABLE", "Dr Ng", "disputed by", "boxes.png", "0.123", "12 %", "Exam 1"):
        assert word not in pages[0]


def test_the_queue_gives_nothing_away(waiting: WebSite) -> None:
    text = waiting.browser("lead").get("/second-readings").text
    for finding in (1, 2, 3):
        assert f'href="/second-readings/{finding}"' in text
    for word in ("UNSPEAKABLE", "Dr Ng", "STANDARD", "REVIEW", " NT", "/exams/"):
        assert word not in text.partition("<main")[2]
    for path in ("/findings/1/boxes.png", "/api/v1/findings/1/overlay.png"):
        assert waiting.browser("lead").get(path).status_code == 404


def test_a_reading_stands_and_the_next_one_waits(waiting: WebSite) -> None:
    lead = waiting.browser("lead")
    values = form_values(page(waiting, 2)) | {
        "view": "NT",
        "verdict": "standard",
        "NT:CRIT-NT": "met",
        # Of another view than the chosen one: not said.
        "CRL:CRIT-NEUTRAL": "not-met",
    }
    answer = waiting.post(lead, "/second-readings/2", **values)
    assert answer.headers["location"] == "/second-readings?read=2", answer.text
    text = lead.get("/second-readings?read=2").text
    assert "Your reading stands" in text
    assert 'href="/second-readings/2"' not in text
    assert 'href="/exams/1?finding=2"' in text
    shown = review_lists.show_review(waiting.exam.settings, 2)
    assert (shown["state"], shown["reader"], shown["outcome"]) == (
        "resolved",
        "Dr Lead",
        "NT, standard",
    )
    last = shown["events"][-1]
    assert (last["blinded"], last["criteria"]) == (True, ["CRIT-NT=met"])
    assert lead.get("/second-readings/2").headers["location"] == "/findings/2"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"view": "NT"}, "needs a verdict"),
        ({}, "needs a view"),
        ({"view": "NT", "verdict": "standard", "version": "0"}, "has changed since"),
        ({"view": "KNEE", "verdict": "standard"}, "give one of"),
        ({"view": "NT", "verdict": "standard", "NT:CRIT-NT": "perhaps"}, "one of met"),
    ],
)
def test_what_cannot_be_kept_is_said_beside_what_was_typed(
    waiting: WebSite, said: dict[str, str], words: str
) -> None:
    lead = waiting.browser("lead")
    values = form_values(page(waiting, 1)) | {"remark": "I typed this"} | said
    answer = waiting.post(lead, "/second-readings/1", **values)
    assert answer.status_code == 409
    assert words in answer.text
    assert "I typed this" in answer.text
    assert "boxes.png" not in answer.text
    assert review_lists.show_review(waiting.exam.settings, 1)["state"] == "second-reading"


def test_readings_that_differ_go_to_a_third_person(site: WebSite) -> None:
    site.exam.settings.review.share = 1.0
    reviews.override(
        site.exam.settings, 2, Answer("Dr Ng", verdict="standard", reason="measurable")
    )
    lead = site.browser("lead")
    values = form_values(page(site, 2)) | {"view": "NT", "verdict": "non-standard"}
    answer = site.post(lead, "/second-readings/2", **values)
    assert "The two readings differ" in lead.get(answer.headers["location"]).text


def test_who_knows_the_answer_does_not_read_it(site: WebSite) -> None:
    settings = site.exam.settings
    reviews.dispute(settings, 1, Answer("Dr Lead", reason="measurable"))
    lead = site.browser("lead")
    text = lead.get("/second-readings").text
    assert 'href="/second-readings/1"' not in text
    assert "1 more waits for another person" in text
    text = page(site, 1)
    assert "You cannot read it blinded" in text
    assert '<form method="post" action="/second-readings' not in text
    answer = site.post(lead, "/second-readings/1", view="NT", verdict="standard", version="1")
    assert answer.status_code == 409


def test_an_empty_queue_says_what_to_do(site: WebSite) -> None:
    text = site.browser("lead").get("/second-readings").text
    assert "Nothing waits for you" in text
    assert 'href="/worklist"' in text
    for role in ("sonographer", "auditor", "kiosk", "engineer"):
        assert site.browser(role).get("/second-readings").status_code == 403


def test_the_queue_goes_on_where_it_ended(
    waiting: WebSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qc_daemon.web.pages.second_readings._ROWS", 2)
    lead = waiting.browser("lead")
    first = lead.get("/second-readings").text
    following = re.search(r'href="(/second-readings\?after=\d+)"', first)
    assert following is not None
    second = lead.get(following[1]).text
    links = r'href="/second-readings/(\d+)"'
    assert re.findall(links, first) + re.findall(links, second) == ["1", "2", "3"]
    assert "after=" not in second.partition("<main")[2]
