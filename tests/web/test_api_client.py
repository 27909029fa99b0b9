"""The REST API as a program of somebody else's uses it: by a typed client that was made from its
description, over HTTP, with a token."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qc_daemon.operations import accounts, passwords
from qc_daemon.verbs import Verb
from tests.support.accounts import QUICK_HASHER
from tests.support.api_client import imported, make_client, model, operation
from tests.support.web_site import WebSite, web_site
from tests.web.test_server import serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebSite, str]]:
    """A site, and where it is served."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", lambda: QUICK_HASHER)
        with web_site(folder) as site, serving(site, site.exam.settings.web) as port:
            yield site, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def package(
    served: tuple[WebSite, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModuleType]:
    """The client's package, of which nothing could not be made."""
    site, _ = served
    folder = tmp_path_factory.mktemp("client")
    assert make_client(site.app, folder) == []
    with imported(folder) as package:
        yield package


def client_of(package: ModuleType, served: tuple[WebSite, str], token: str) -> Any:
    return package.AuthenticatedClient(base_url=served[1], token=token)


@pytest.fixture(scope="module")
def lead(package: ModuleType, served: tuple[WebSite, str]) -> Any:
    settings = served[0].exam.settings
    verbs = [Verb.SEE_ALL, Verb.SEE_PATIENTS, Verb.REVIEW]
    return client_of(package, served, accounts.add_token(settings, "lead", "client", verbs, 1))


def test_each_operation_is_in_the_client(served: tuple[WebSite, str], package: ModuleType) -> None:
    assert package.__file__ is not None
    modules = {path.stem for path in Path(package.__file__).parent.glob("api/*/*.py")} - {
        "__init__"
    }
    described = {
        each["operationId"]
        for methods in served[0].app.openapi()["paths"].values()
        for each in methods.values()
    }
    assert modules == described
    # Names of ours, not of paths.
    assert {"findings", "review", "queue_retry", "person_merge"} <= described


def test_findings_come_page_by_page(lead: Any, served: tuple[WebSite, str]) -> None:
    list_findings = operation("findings", "findings")
    ids: list[int] = []
    cursor = None
    for _ in range(4):
        page = list_findings.sync(client=lead, limit=1, **({"cursor": cursor} if cursor else {}))
        assert isinstance(page, model("FindingPage"))
        ids += [each["finding_id"] for each in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert ids == [3, 2, 1]
    standard = list_findings.sync(client=lead, verdict=["standard"], view=["NT"])
    assert [each["finding_id"] for each in standard.items] == [1]
    one = operation("findings", "finding").sync(client=lead, finding_id=1)
    assert one["quality"]["label"] == "standard"
    exams = operation("exams", "exams").sync(client=lead)
    assert isinstance(exams, model("ExamPage"))
    assert [each["exam_id"] for each in exams.items] == [2, 1]


def test_a_review_is_said_once(lead: Any) -> None:
    review = operation("findings", "review")
    reviews = operation("findings", "reviews").sync(client=lead, finding_id=3)
    said = model("ReviewRequest")(
        verb=model("ReviewVerb").OVERRIDE,
        version=reviews["version"],
        verdict="non-standard",
        reason="criterion",
    )
    first = review.sync_detailed(3, client=lead, body=said, idempotency_key="a-key")
    assert first.status_code == 201
    assert isinstance(first.parsed, model("ReviewAnswer"))
    # Sent again with the key it is the first answer, without it refused by its version.
    again = review.sync_detailed(3, client=lead, body=said, idempotency_key="a-key")
    assert (again.status_code, again.parsed) == (201, first.parsed)
    stale = review.sync_detailed(3, client=lead, body=said)
    assert stale.status_code == 409
    assert isinstance(stale.parsed, model("Problem"))
    after = operation("findings", "reviews").sync(client=lead, finding_id=3)
    assert after["version"] == reviews["version"] + 1


def test_a_token_does_what_it_says_until_it_ends(
    served: tuple[WebSite, str], package: ModuleType
) -> None:
    settings = served[0].exam.settings
    list_findings = operation("findings", "findings")

    def status(token: str, name: str = "findings", tag: str = "findings") -> int:
        client = client_of(package, served, token)
        return int(operation(tag, name).sync_detailed(client=client).status_code)

    assert status("no token") == 401
    token = accounts.add_token(settings, "auditor", "client", [Verb.SEE_ALL], 1)
    assert status(token) == 200
    # The account may see the queue, this token not.
    assert status(token, "queue", "operations") == 403
    refused = operation("operations", "queue").sync(client=client_of(package, served, token))
    assert isinstance(refused, model("Problem"))
    assert refused.status == 403
    accounts.revoke_token(settings, "auditor", "client")
    assert status(token) == 401
    other = accounts.add_token(settings, "auditor", "second", [Verb.SEE_ALL], 1)
    accounts.disable_account(settings, "auditor")
    assert status(other) == 401
    own = accounts.add_token(settings, "sonographer", "client", [Verb.SEE_OWN], 1)
    page = list_findings.sync(client=client_of(package, served, own))
    assert [each["finding_id"] for each in page.items] == [2, 1]


def test_a_change_answers_what_it_did(served: tuple[WebSite, str], package: ModuleType) -> None:
    settings = served[0].exam.settings
    token = accounts.add_token(settings, "engineer", "client", [Verb.OPERATE], 1)
    client = client_of(package, served, token)
    body = model("PeerRequest")(ae_title="VOLUSON9", address="10.1.2.3")
    answer = operation("operations", "peer_add").sync(client=client, body=body)
    assert isinstance(answer, model("ChangeAnswer"))
    assert answer.count == 1
    wrong = model("RowsRequest")(ids=[10**6])
    answer = operation("operations", "queue_retry").sync(client=client, body=wrong)
    assert answer.count == 0
    assert answer.problems
