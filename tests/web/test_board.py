"""The live board: what it shows to whom, what it sends when something changes, and that one reading
of the database serves all who look."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from detector.errors import ErrorCode, QCError
from qc_daemon.operations import accounts, reviews
from qc_daemon.operations.rejections import reject
from qc_daemon.operations.reviews import Answer
from qc_daemon.records.clock import utc_now
from qc_daemon.records.queue import jobs
from qc_daemon.records.received import revisions
from qc_daemon.report.source import SourceInstance
from qc_daemon.web import board_feed
from qc_daemon.web.pages import board as board_pages
from tests.support.report_objects import nuchal_finding, ultrasound_header
from tests.support.waiting import eventually
from tests.support.web_site import CANARY_FAMILY, CANARY_SHOWN, MARKUP, UIDS, WebSite
from tests.web.test_server import serving


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_feed, "_READ_SECONDS", 0.05)


def kiosk_token(site: WebSite, days: int = 30) -> str:
    return accounts.add_token(site.exam.settings, "kiosk", "wall", ["see-board"], days)


def stream(port: int, token: str, path: str = "/board/events", **headers: str) -> "Stream":
    return Stream(port, token, path, headers)


class Stream:
    """Server-sent events of the board, as a browser reads them."""

    def __init__(self, port: int, token: str, path: str, headers: dict[str, str]) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        authorization = {"Authorization": f"Bearer {token}"}
        self.connection.request("GET", path, headers=authorization | headers)
        self.answer = self.connection.getresponse()
        assert self.answer.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in self.answer.headers
        self.events = self._read()

    def _read(self) -> Iterator[dict[str, Any]]:
        fields: dict[str, str] = {}
        for line in self.answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                yield json.loads(fields["data"]) | {"id": fields["id"]}
                fields = {}

    def __enter__(self) -> Iterator[dict[str, Any]]:
        return self.events

    def __exit__(self, *error: object) -> None:
        self.connection.close()


def changes(site: WebSite, role: str, query: str = "", **headers: str) -> list[dict[str, Any]]:
    """What a stream of a board that has ended sent."""
    site.app.state.context.board.close()
    text = site.program(role).get(f"/board/events{query}", headers=headers).text
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines]


def test_a_tile_says_what_is_there_missing_and_to_change(site: WebSite) -> None:
    text = site.browser("lead").get("/board").text
    assert 'id="exam-1"' in text
    tile = text[text.index('id="exam-1"') :].partition("</article>")[0]
    assert 'class="view standard"' in tile
    assert tile.count('class="view missing"') == 3
    assert "No picture of this view has come." in tile
    assert "2 pictures" in tile
    assert CANARY_SHOWN in tile
    left = text[text.index('id="exam-2"') :].partition("</article>")[0]
    assert 'class="view review"' in left
    assert MARKUP not in text


def test_a_view_that_is_not_standard_says_what_to_change(site: WebSite) -> None:
    header = ultrasound_header(SOPInstanceUID="1.2.3.4", StudyInstanceUID="1.2.77")
    site.exam.receive_image(header, quality="non-standard")
    text = site.browser("lead").get("/board").text
    tile = text[text.index('id="exam-3"') :].partition("</article>")[0]
    assert 'class="view non-standard"' in tile
    assert 'class="change"><strong>' in tile


def test_an_image_that_waits_makes_a_tile_and_nothing_missing_yet(site: WebSite) -> None:
    site.exam.arrive(ultrasound_header(SOPInstanceUID="1.2.5", StudyInstanceUID="1.2.78"))
    text = site.browser("lead").get("/board").text
    tile = text[text.index('id="exam-3"') :].partition("</article>")[0]
    assert "1 image is being judged" in tile
    assert tile.count('class="view pending"') == 4


def test_what_cannot_be_judged_is_said_with_its_reason(site: WebSite) -> None:
    header = ultrasound_header(SOPInstanceUID="1.2.5", StudyInstanceUID="1.2.78")
    _, job = site.exam.arrive(header)
    with site.exam.store.begin() as session:
        assert job.revision_id is not None
        revisions.quarantine(session, job.revision_id, ErrorCode.TRUNCATED, "short", site.exam.now)
        assert jobs.finish(session, job, site.exam.now)
    text = site.browser("lead").get("/board").text
    assert "1 image could not be judged: the picture data end too early" in text


def test_a_rejected_picture_is_none_of_its_view(site: WebSite) -> None:
    def tile() -> str:
        text = site.browser("lead").get("/board").text
        return text[text.index('id="exam-2"') :].partition("</article>")[0]

    assert 'class="view review"' in tile()
    site.exam.settings.destination[0].objects.append("key-objects")
    reject(site.exam.settings, UIDS[2], "111209", "Dr Lee")
    site.app.state.context.board._read()
    assert 'class="view review"' not in tile()
    assert "1 picture rejected" in tile()


def test_the_kiosk_names_no_patient_and_leads_nowhere(site: WebSite) -> None:
    browser = site.browser("kiosk")
    assert browser.get("/").headers["location"] == "/board"
    pages = [browser.get("/board").text, site.browser("lead").get("/board?kiosk=1").text]
    pages.append(json.dumps(changes(site, "kiosk")))
    pages.append(json.dumps(changes(site, "lead", "?kiosk=1")))
    for text in pages:
        assert "exam-1" in text
        for word in (CANARY_FAMILY, "CANARY-1", "/exams/", "script&gt;"):
            assert word not in text
    for path in ("/exams/1", "/findings/1/frame.png", "/worklist", "/exams"):
        assert browser.get(path).status_code == 403


def test_a_screen_keeps_a_token_that_opens_the_board_alone(site: WebSite) -> None:
    token = kiosk_token(site)
    screen = site.visitor()
    assert screen.get("/board").headers["location"] == "/login?next=%2Fboard"
    answer = screen.post(
        "/kiosk",
        data={"token": token, "machine": "VOLUSON1"},
        headers={"Sec-Fetch-Site": "same-origin"},
    )
    assert answer.headers["location"] == "/board?kiosk=1&machine=VOLUSON1"
    cookie = answer.headers["set-cookie"]
    for word in ("__Host-qc-kiosk=", "HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert word in cookie
    assert 'id="exam-1"' in screen.get("/board?kiosk=1").text
    for path in ("/account", "/exams/1", "/"):
        assert screen.get(path).status_code == 303
    accounts.revoke_token(site.exam.settings, "kiosk", "wall")
    assert screen.get("/board").status_code == 303


@pytest.mark.parametrize("verbs", [["see-all", "see-patients"], None])
def test_a_token_without_the_verb_opens_no_screen(site: WebSite, verbs: list[str] | None) -> None:
    token = (
        "wrong"
        if verbs is None
        else accounts.add_token(site.exam.settings, "lead", "other", verbs, 1)
    )
    answer = site.visitor().post(
        "/kiosk", data={"token": token}, headers={"Sec-Fetch-Site": "same-origin"}
    )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert token == "wrong" or token not in answer.text


def test_a_sonographer_sees_exams_with_own_images_alone(site: WebSite) -> None:
    text = site.browser("sonographer").get("/board").text
    assert 'id="exam-1"' in text
    assert 'id="exam-2"' not in text
    assert [each["exams"] for each in changes(site, "sonographer")] == [[1]]


def test_a_board_of_one_machine_shows_its_exams(site: WebSite) -> None:
    lead = site.browser("lead")
    assert 'id="exam-1"' in lead.get("/board?machine=VOLUSON1").text
    text = lead.get("/board?machine=OTHER").text
    assert 'id="exam-1"' not in text
    assert "No exam yet" in text
    assert "port 11112" in text
    assert [each["exams"] for each in changes(site, "lead", "?machine=OTHER")] == [[]]


def test_a_picture_that_waits_to_be_read_blinded_is_not_given_away(site: WebSite) -> None:
    for finding in (1, 2):
        reviews.dispute(site.exam.settings, finding, Answer("Dr Jane", reason="measurable"))
    text = site.browser("lead").get("/board").text
    tile = text[text.index('id="exam-1"') :].partition("</article>")[0]
    assert tile.count('class="view hidden"') == 4
    assert "STANDARD" not in tile


def test_an_exam_leaves_the_board_after_the_working_day(site: WebSite) -> None:
    context = site.app.state.context
    later = utc_now() + timedelta(hours=13)
    object.__setattr__(context, "board", board_feed.BoardFeed(site.exam.settings, lambda: later))
    assert "No exam yet" in site.browser("lead").get("/board").text.replace(" hidden>", ">")
    assert context.board.board().exams == ()


def test_who_asks_again_is_sent_what_changed_since(site: WebSite) -> None:
    board = site.app.state.context.board
    before = board.board()
    site.exam.receive_image(
        ultrasound_header(SOPInstanceUID="1.2.5", StudyInstanceUID="1.2.78"), quality="standard"
    )
    board._read()
    (change,) = changes(site, "lead", **{"Last-Event-ID": f"{board.epoch}-{before.version}"})
    assert change["exams"][0] == 3
    assert [('id="exam-3"' in tile) for tile in change["tiles"]] == [True]
    # Of another process's version nothing is known; a version that is current needs nothing.
    (change,) = changes(site, "lead", **{"Last-Event-ID": "0badcafe-99"})
    assert len(change["tiles"]) == 3
    assert changes(site, "lead", f"?after={board.epoch}-{board.last.version}") == []


def test_one_reading_serves_all_boards(site: WebSite, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = site.app.state.context.board
    known = feed.board().exams
    reads: list[int] = []
    read_board = board_feed.read_board

    def counted(*arguments: Any) -> Any:
        reads.append(1)
        return read_board(*arguments)

    monkeypatch.setattr(board_feed, "read_board", counted)
    monkeypatch.setattr(board_feed, "_READ_SECONDS", 3600.0)
    for role in ("lead", "kiosk", "sonographer", "auditor"):
        assert site.browser(role).get("/board").status_code == 200
    assert not reads
    feed._read()
    # What did not change is not read again.
    assert all(one is other for one, other in zip(known, feed.last.exams, strict=True))


def test_a_tile_turns_while_one_looks(site: WebSite) -> None:
    token = kiosk_token(site)
    with serving(site, site.exam.settings.web) as port:
        with stream(port, token) as events:
            assert next(events)["exams"] == [2, 1]
            header = ultrasound_header(SOPInstanceUID="1.2.5", StudyInstanceUID="1.2.78")
            path, job = site.exam.arrive(header)
            change = next(events)
            assert change["exams"][0] == 3
            assert 'class="view pending"' in change["tiles"][0]
            source = SourceInstance.of(header, "")
            site.exam.score(job, path, nuchal_finding(source, quality="standard"))
            while 'class="view standard"' not in "".join(change["tiles"]):
                change = next(events)
            last = change["id"]
            reviews.override(
                site.exam.settings,
                4,
                Answer("Dr Lee", verdict="non-standard", reason="criterion"),
            )
            while 'class="view non-standard"' not in "".join(change["tiles"]):
                change = next(events)
        with stream(port, token, **{"Last-Event-ID": last}) as events:
            assert len(next(events)["tiles"]) == 1
        # The server stops although somebody looks (`serving` waits for its thread).
        with stream(port, token) as events:
            next(events)
            site.app.state.context.board.close()
            assert next(events, None) is None


def board_threads() -> int:
    return sum(thread.name == "board" for thread in threading.enumerate())


def test_twenty_boards_have_one_thread_that_ends_with_the_last(site: WebSite) -> None:
    token = kiosk_token(site)
    with serving(site, site.exam.settings.web) as port:
        with ExitStack() as stack:
            boards = [stack.enter_context(stream(port, token)) for _ in range(20)]
            for events in boards:
                assert next(events)["exams"] == [2, 1]
            assert board_threads() == 1
            header = ultrasound_header(SOPInstanceUID="1.2.5", StudyInstanceUID="1.2.78")
            site.exam.receive_image(header, quality="standard")
            for events in boards:
                assert next(events)["exams"] == [3, 2, 1]
        eventually(lambda: board_threads() == 0)


def test_a_board_ends_when_its_token_does(site: WebSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_pages, "_CHECK_SECONDS", 0.1)
    token = kiosk_token(site)
    with serving(site, site.exam.settings.web) as port, stream(port, token) as events:
        next(events)
        accounts.revoke_token(site.exam.settings, "kiosk", "wall")
        assert next(events, None) is None


def test_a_database_that_is_away_is_said(site: WebSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_feed, "_STALE_SECONDS", 0.0)
    token = kiosk_token(site)

    def fail(*_: Any) -> Any:
        raise QCError(ErrorCode.STORAGE, "away")

    with serving(site, site.exam.settings.web) as port, stream(port, token) as events:
        assert next(events)["is_current"] is True
        read_board = board_feed.read_board
        monkeypatch.setattr(board_feed, "read_board", fail)
        change = next(events)
        assert change["is_current"] is False
        assert change["exams"] == [2, 1]
        monkeypatch.setattr(board_feed, "read_board", read_board)
        assert next(events)["is_current"] is True


def test_the_board_needs_few_statements_however_many_findings(site: WebSite) -> None:
    feed = site.app.state.context.board
    feed.board()
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            statements.append(statement)

    store = site.app.state.context.store
    engine = store._engine()
    event.listen(engine, "before_cursor_execute", note)
    try:
        feed._read()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    # The secret, open exams, the last exams, and their marks.
    assert len(statements) <= 4, statements
