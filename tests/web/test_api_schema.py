"""The whole API against its own description: no 5xx, and no answer that it does not describe."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from qc_daemon.operations import accounts
from qc_daemon.settings.web import AccountRoleSettings
from qc_daemon.verbs import Verb
from tests.support.accounts import add_account
from tests.support.web_site import CANARY_FAMILY, MARKUP, ORIGIN, WebSite

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def token(shared_site: WebSite) -> str:
    """Of an account that may do everything."""
    site_settings = shared_site.exam.settings
    site_settings.web.role.append(AccountRoleSettings(name="everything", verbs=list(Verb)))
    add_account(site_settings, "every", "everything")
    return accounts.add_token(site_settings, "every", "program", sorted(Verb), 1)


def _operations(app: FastAPI) -> Iterator[Any]:
    schema = schemathesis.openapi.from_dict(app.openapi())
    for result in schema.get_all_operations():
        yield result.ok()


def _ask_everything(site: WebSite, token: str, examples: int) -> int:
    """Ask every operation with made-up values; returns how many there are."""
    count = 0
    with asgi.get_client(site.app) as client:
        client.base_url = ORIGIN
        for operation in _operations(site.app):
            count += 1

            @settings(
                max_examples=examples,
                database=None,
                derandomize=True,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def ask(case: Any) -> None:
                case.call_and_validate(
                    base_url=ORIGIN,
                    session=client,
                    headers={"authorization": f"Bearer {token}"},
                    checks=CHECKS,
                )

            ask()
    return count


def test_every_operation_keeps_to_the_description(
    shared_site: WebSite, token: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _ask_everything(shared_site, token, 2) > 40
    # Nothing of a patient is in what it logs meanwhile.
    captured = capfd.readouterr()
    assert CANARY_FAMILY not in captured.out + captured.err


@pytest.mark.slow
def test_every_operation_keeps_to_the_description_for_long(
    shared_site: WebSite, token: str
) -> None:
    assert _ask_everything(shared_site, token, 100) > 40


def _texts(schema: dict[str, Any], components: dict[str, Any]) -> Iterator[str]:
    """Fields of a request's body that are text."""
    if "$ref" in schema:
        schema = components[schema["$ref"].rpartition("/")[2]]
    for name, field in schema.get("properties", {}).items():
        kinds = [field, *field.get("anyOf", ())]
        if any(kind.get("type") == "string" for kind in kinds):
            yield name


def test_markup_in_every_text_of_the_api_is_inert(
    shared_site: WebSite, token: str, capfd: pytest.CaptureFixture[str]
) -> None:
    description = shared_site.app.openapi()
    components = description["components"]["schemas"]
    client = TestClient(shared_site.app, base_url=ORIGIN)
    client.headers["authorization"] = f"Bearer {token}"
    asked = 0
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            url = path.replace("{finding_id}", "1").replace("{exam_id}", "1")
            parameters = operation.get("parameters", ())
            for each in parameters:
                if each["in"] == "path":
                    url = url.replace("{" + each["name"] + "}", "x" * 5)
            query = {p["name"]: MARKUP for p in parameters if p["in"] == "query"}
            headers = {"Idempotency-Key": MARKUP} if method == "post" else {}
            body = operation.get("requestBody")
            calls: list[dict[str, Any]] = [{"params": {name: MARKUP}} for name in query]
            if body is not None:
                content = body["content"]["application/json"]["schema"]
                calls += [{"json": {name: MARKUP}} for name in _texts(content, components)]
                calls.append({"json": dict.fromkeys(_texts(content, components), MARKUP)})
            for call in calls:
                answer = client.request(method, url, headers=headers, **call)
                asked += 1
                assert answer.status_code < 500, (method, url, call)
                assert not answer.headers["content-type"].startswith("text/html"), (url, call)
                assert answer.headers["x-content-type-options"] == "nosniff"
    assert asked > 60
    captured = capfd.readouterr()
    assert "script" not in captured.out + captured.err
