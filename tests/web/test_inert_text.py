"""Markup in every parameter of every page stays text."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from qc_daemon.settings.web import AccountRoleSettings
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Public, accesses_of
from qc_daemon.web.app import routes_of
from tests.support.accounts import add_account
from tests.support.web_site import MARKUP, WebSite


def _pages(app: FastAPI) -> Iterator[tuple[str, Any]]:
    for name, dependant in routes_of(app):
        method, path = name.split()
        if method == "GET" and not path.startswith("/api/"):
            yield path, dependant


def test_markup_in_every_parameter_of_every_page(
    shared_site: WebSite, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = shared_site.exam.settings
    settings.web.role.append(AccountRoleSettings(name="everything", verbs=list(Verb)))
    add_account(settings, "every", "everything")
    # Streams of events would go on for ever.
    shared_site.app.state.context.board.close()
    client = shared_site.visitor()
    shared_site.log_in(client, "every")
    asked = 0
    for path, dependant in _pages(shared_site.app):
        access = next(accesses_of(dependant))
        url = path.replace("{exam_id}", "1").replace("{finding_id}", "1")
        for parameter in dependant.path_params:
            url = url.replace("{" + parameter.name + "}", MARKUP.replace("/", "%2F"))
        for call in ({}, *({parameter.alias: MARKUP} for parameter in dependant.query_params)):
            answer = client.get(url, params=call)
            asked += 1
            what = (path, call, answer.status_code)
            assert answer.status_code < 500, what
            assert answer.status_code not in (401, 403), what
            assert MARKUP not in answer.text, what
            assert MARKUP not in answer.headers.get("location", ""), what
            if isinstance(access, Public):
                assert "script>alert" not in answer.text, what
    assert asked > 80
    captured = capfd.readouterr()
    assert "alert(1)" not in captured.out + captured.err
