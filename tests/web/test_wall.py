"""Every route x every role x own and other's data: what one may not see is not there."""

import re
from itertools import product

import pytest
from fastapi import APIRouter

from qc_daemon.verbs import DEFAULT_ROLES, Verb
from qc_daemon.web.access import Public, accesses_of, require_access
from qc_daemon.web.app import routes_of
from tests.support.web_site import WebSite

OTHERS = {"exam_id": "2", "finding_id": "3", "person_id": "ada"}
OWN = {"exam_id": "1", "finding_id": "1", "person_id": "jane"}
MISSING = {"exam_id": "77", "finding_id": "77", "person_id": "nobody"}
ABOUT_ONE = ("{exam_id}", "{finding_id}", "{person_id}")
NO_ACCOUNT = (401, 303)


def _paths(path: str, numbers: dict[str, str]) -> str:
    fixed = {"version": "1", "name": "pages.css", "language": "en", "picture": "frame"}
    fixed |= {"device_id": "none", "day": "2026-01-01", "format": "json"}
    fixed |= {"model_id": "0" * 64, "calibration": "0" * 12}
    return re.sub(r"\{(\w+)\}", lambda match: (numbers | fixed)[match[1]], path)


def _is_file(path: str) -> bool:
    """Whether the route gives something of a file, or a report, which are not there here."""
    return "." in path or path.endswith(("/report", "/frame-time"))


def _ask(client: object, method: str, path: str, csrf: str = "") -> int:
    headers = {"Sec-Fetch-Site": "same-origin", "x-csrf-token": csrf}
    answer = client.request(method, path, headers=headers)  # type: ignore[attr-defined]
    assert answer.status_code < 500, (method, path, answer.text)
    return int(answer.status_code)


def test_each_route_says_who_may_use_it(site: WebSite) -> None:
    routes = list(routes_of(site.app))
    assert len(routes) > 20
    require_access(iter(routes))
    open_paths = {
        name for name, dependant in routes if isinstance(next(accesses_of(dependant)), Public)
    }
    assert open_paths == {
        "GET /login",
        "POST /login",
        "GET /login/oidc",
        "GET /login/oidc/callback",
        "GET /kiosk",
        "POST /kiosk",
        "GET /language/{language}",
        "GET /static/{version}/{name}",
    }


def test_a_route_that_does_not_say_so_is_refused() -> None:
    router = APIRouter()

    @router.get("/forgotten")
    def forgotten() -> None: ...

    with pytest.raises(RuntimeError, match="/forgotten"):
        require_access((route.path, route.dependant) for route in router.routes)  # type: ignore[attr-defined]


def test_every_route_by_every_role_on_own_and_others_data(site: WebSite) -> None:
    """Without an account nothing; without the verb 403; of others, as of what there is not, 404."""
    visitor, csrfs = site.visitor(), dict[str, str]()
    # Streams of events would go on for ever.
    site.app.state.context.board.close()
    for name, dependant in routes_of(site.app):
        method, path = name.split()
        access = next(accesses_of(dependant))
        if isinstance(access, Public) or path in ("/logout",):
            continue
        assert _ask(visitor, method, _paths(path, OWN)) in NO_ACCOUNT, name
        for role, verbs in DEFAULT_ROLES.items():
            clients = [site.browser(role)]
            if path.startswith("/api/"):
                clients.append(site.program(role))
            csrf = csrfs.get(role) or csrfs.setdefault(role, site.csrf(site.browser(role)))
            is_about_one = any(each in path for each in ABOUT_ONE)
            every = (OWN, OTHERS, MISSING) if is_about_one else (OWN,)
            for client, numbers in product(clients, every):
                numbers_here = numbers | {
                    "person_id": site.numbers.get(numbers["person_id"], "nobody")
                }
                status = _ask(client, method, _paths(path, numbers_here), csrf)
                what = (name, role, numbers)
                if access.verbs and not access.verbs & verbs:
                    assert status == 403, what
                    continue
                assert status != 403, what
                sees = Verb.SEE_ALL in verbs or (Verb.SEE_OWN in verbs and numbers is OWN)
                if is_about_one and (numbers is MISSING or not sees) and method == "GET":
                    assert status == 404, what
                elif is_about_one and method == "GET" and not _is_file(path):
                    assert status in (200, 303), what


@pytest.mark.parametrize("role", sorted(DEFAULT_ROLES))
def test_lists_have_what_one_may_see(site: WebSite, role: str) -> None:
    verbs = DEFAULT_ROLES[role]
    client = site.program(role)
    findings, exams = client.get("/api/v1/findings"), client.get("/api/v1/exams")
    if not verbs & {Verb.SEE_ALL, Verb.SEE_OWN}:
        assert (findings.status_code, exams.status_code) == (403, 403)
        return
    ids = [each["finding_id"] for each in findings.json()["items"]]
    assert ids == ([3, 2, 1] if Verb.SEE_ALL in verbs else [2, 1])
    assert [each["exam_id"] for each in exams.json()["items"]] == (
        [2, 1] if Verb.SEE_ALL in verbs else [1]
    )
