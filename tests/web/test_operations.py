"""Operations by pages and API: what would change is shown, changed once, and recorded."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from detector.errors import ErrorCode
from qc_daemon.operations import accounts
from qc_daemon.operations.access_log import AccessFilter, list_access
from qc_daemon.operations.changes.account_changes import CHANGES
from qc_daemon.operations.doctor import CheckResult
from qc_daemon.operations.peers import list_peers
from qc_daemon.operations.quarantine import list_quarantined
from qc_daemon.operations.queue import list_jobs
from qc_daemon.records.queue import jobs
from qc_daemon.records.received import peers
from qc_daemon.records.received.peers import RefusedCaller
from qc_daemon.records.received.revisions import quarantine_scored
from qc_daemon.records.tables import JobKind, JobState
from qc_daemon.web import page_words
from qc_daemon.web.pages import operations
from tests.support.report_objects import ultrasound_header
from tests.support.web_site import CANARY, CANARY_FAMILY, MARKUP, WebSite

PAGES = (
    "/operations",
    "/operations/queue?state=done&state=dead&state=ready",
    "/operations/quarantine?dismissed=true",
    "/operations/destinations",
    "/operations/peers",
    "/operations/commitments",
    "/operations/disk",
    "/operations/checks",
)


@pytest.fixture(scope="module")
def site(shared_site: WebSite) -> Iterator[WebSite]:
    """Finding 3's object is in quarantine, and a score job of a fourth one was given up."""
    exam = shared_site.exam
    exam.arrive(ultrasound_header(SOPInstanceUID="1.2.4", PatientName=CANARY))
    with exam.store.begin() as session:
        quarantine_scored(session, 3, ErrorCode.TRUNCATED, "ends early", exam.now)
        (job,) = jobs.listing(session, [JobState.LEASED], [JobKind.SCORE])
        jobs.release_owner(session, job.owner or "", exam.now)
        peers.record_refusals(
            session,
            [
                RefusedCaller(
                    MARKUP[:16], "10.1.2.3", None, 4, exam.now, exam.now, "OTHER", "not a peer"
                )
            ],
        )
    return shared_site


def test_every_change_has_words() -> None:
    assert set(page_words.CHANGES) == set(CHANGES)
    fields = {field for change in CHANGES.values() for field in change.fields}
    assert fields - {"ids"} == set(page_words.FIELDS)


@pytest.mark.parametrize("path", PAGES)
def test_engineer_and_auditor_see_operations_without_patients(site: WebSite, path: str) -> None:
    for role in ("engineer", "auditor"):
        answer = site.browser(role).get(path)
        assert answer.status_code == 200
        assert CANARY_FAMILY not in answer.text
        assert MARKUP not in answer.text
        if role == "auditor":
            assert "/operations/confirm" not in answer.text.replace(
                'action="/operations/confirm"', ""
            )
            assert '<button name="change"' not in answer.text
    assert site.browser("lead").get(path).status_code == 403


def test_a_job_is_cancelled_and_retried_after_a_page_that_lists_it(site: WebSite) -> None:
    engineer = site.browser("engineer")
    (row,) = list_jobs(site.exam.settings, ["ready"], kinds=["score"])
    page = engineer.get(f"/operations/confirm?change=queue-cancel&id={row['id']}&back=/operations")
    assert "What will change" in page.text
    assert f'name="id" value="{row["id"]}"' in page.text
    values = {"change": "queue-cancel", "id": str(row["id"]), "back": "//evil.example"}
    answer = site.post(engineer, "/operations/change", **values)
    assert "1 job is cancelled" in answer.text
    assert "evil" not in answer.text
    again = site.post(engineer, "/operations/change", **values)
    assert f"job {row['id']} is dead" in again.text
    site.post(engineer, "/operations/change", change="queue-retry", id=str(row["id"]))
    (row,) = list_jobs(site.exam.settings, ["ready"], kinds=["score"])
    done = [each for each in list_access(site.exam.settings, AccessFilter(), 0) if each["subject"]]
    assert [each["subject"] for each in done][:2] == [
        f"queue-retry {row['id']}",
        f"queue-cancel {row['id']}",
    ]
    assert {each["account"] for each in done} == {"engineer"}
    assert "queue-cancel" in site.browser("auditor").get("/access").text


def test_an_object_is_dismissed_with_a_reason_and_scored_again(site: WebSite) -> None:
    engineer = site.browser("engineer")
    url = "/operations/confirm?change=quarantine-dismiss&id=3&back=/operations/quarantine"
    assert "ends early" in engineer.get(url).text
    values = {"change": "quarantine-dismiss", "id": "3"}
    answer = site.post(engineer, "/operations/change", **values)
    assert answer.status_code == 409
    assert "reason: give it" in answer.text
    site.post(engineer, "/operations/change", **values, reason=f"sent again {MARKUP}")
    assert list_quarantined(site.exam.settings) == []
    (row,) = list_quarantined(site.exam.settings, with_dismissed=True)
    assert row["dismissed_by"] == "Dr Engineer"
    # What was typed is kept, and is on no list of who did what.
    assert MARKUP in row["dismissal_reason"]
    assert MARKUP not in engineer.get("/operations/quarantine?dismissed=true").text
    assert MARKUP not in str(list_access(site.exam.settings, AccessFilter(), 0))
    answer = site.post(engineer, "/operations/change", change="quarantine-release", id="3")
    assert "1 object is to be scored again" in answer.text


def test_a_refused_caller_is_approved_and_taken_back(site: WebSite) -> None:
    engineer, settings = site.browser("engineer"), site.exam.settings
    title = MARKUP[:16]
    page = engineer.get(
        "/operations/confirm",
        params={"change": "peer-approve", "name": title, "address": "10.1.2.3"},
    ).text
    assert "not a peer" not in page
    assert "10.1.2.3" in page
    site.post(engineer, "/operations/change", change="peer-approve", name=title)
    assert [row["address"] for row in list_peers(settings, ["approved"])] == ["10.1.2.3"]
    values = {"change": "peer-remove", "name": title, "address": "10.1.2.3"}
    assert "1 approval is taken back" in site.post(engineer, "/operations/change", **values).text
    answer = site.post(engineer, "/operations/change", change="peer-add", name="US2", address="x")
    assert answer.status_code == 409
    assert "address" in answer.text


def test_a_change_of_another_kind_of_account_is_not_there(site: WebSite) -> None:
    engineer = site.browser("engineer")
    for change in ("person-merge", "bundle-activate", "nothing"):
        url = f"/operations/confirm?change={change}&id=1&name=a"
        assert engineer.get(url).status_code == 404
        assert site.post(engineer, "/operations/change", change=change).status_code == 404
    for ids in ("0", "-1", "a", "9" * 30):
        answer = site.post(engineer, "/operations/change", change="queue-retry", id=ids)
        assert answer.status_code in (200, 409, 422)
    assert engineer.get("/operations/confirm?change=queue-retry").status_code == 422


def test_the_api_changes_once_by_key(site: WebSite) -> None:
    client, settings = site.program("engineer"), site.exam.settings
    (row,) = list_jobs(settings, ["ready"], kinds=["score"], destinations=())[:1]
    body = {"ids": [row["id"]]}
    headers = {"Idempotency-Key": "first"}
    first = client.post("/api/v1/operations/queue/cancel", json=body, headers=headers)
    assert first.json() == {"count": 1, "line": "1 job is cancelled", "problems": []}
    again = client.post("/api/v1/operations/queue/cancel", json=body, headers=headers)
    assert again.json() == first.json()
    without = client.post("/api/v1/operations/queue/cancel", json=body)
    assert without.json()["count"] == 0
    # The same key for another request, and another account's same key.
    other = client.post("/api/v1/operations/queue/retry", json=body, headers=headers)
    assert other.status_code == 422
    assert "Idempotency-Key" in other.json()["detail"]
    accounts.add_account(settings, "second", "Dr Second", "engineer", "a good password")
    token = accounts.add_token(settings, "second", "program", ["operate"], 1)
    theirs = client.post(
        "/api/v1/operations/queue/cancel",
        json=body,
        headers=headers | {"authorization": f"Bearer {token}"},
    )
    assert theirs.json()["count"] == 0
    # What failed is tried anew.
    unknown = {"name": "nowhere"}
    for _ in range(2):
        answer = client.post(
            "/api/v1/operations/destinations/retry", json=unknown, headers={"Idempotency-Key": "2"}
        )
        assert answer.status_code == 409
    retried = client.post("/api/v1/operations/queue/retry", json=body)
    assert retried.json()["count"] == 1


def test_lists_of_the_api_go_on_by_cursor(site: WebSite) -> None:
    client = site.program("auditor")
    states = [("state", state) for state in JobState]
    ids, cursor = [], None
    for _ in range(20):
        asked = [*states, ("limit", "1"), *([("cursor", cursor)] if cursor else [])]
        page = client.get("/api/v1/operations/queue", params=asked).json()
        ids += [each["id"] for each in page["items"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    every = client.get("/api/v1/operations/queue", params=[*states, ("limit", "200")]).json()
    assert ids == [each["id"] for each in every["items"]]
    assert len(ids) > 2
    assert client.get("/api/v1/operations/queue?cursor=x").status_code == 422
    for path in ("quarantine", "commitments", "destinations", "peers"):
        assert "items" in client.get(f"/api/v1/operations/{path}").json()
    assert client.get("/api/v1/operations/disk").json()["free"] > 0
    assert set(client.get("/api/v1/operations/problems").json()) == {
        "failed",
        "quarantined",
        "retried",
    }


def test_checks_are_shown_as_they_come_one_run_at_a_time(
    site: WebSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    engineer, at = site.browser("engineer"), datetime(2026, 3, 4, tzinfo=UTC)

    def examine(_: object) -> Iterator[CheckResult]:
        yield CheckResult("spool", True, "fine")
        inside = site.browser("auditor").get("/operations/checks?run=true").text
        assert "being run already" in inside
        yield CheckResult("queue", False, f"{MARKUP} {at}")

    monkeypatch.setattr(operations, "examine", examine)
    for _ in range(2):
        text = engineer.get("/operations/checks?run=true").text
        assert "not in order" in text
        assert "All checks are done" in text
        assert MARKUP not in text
