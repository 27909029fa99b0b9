"""What routes of the API share: parameters, problem details, answers that are given once."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, cast

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from qc_daemon.operations.api_answers import answer_once
from qc_daemon.operations.changes.account_changes import CHANGES, make_change
from qc_daemon.operations.changes.change import MAX_IDS, Choice
from qc_daemon.operations.finding_lists import MAX_PAGE
from qc_daemon.operations.principals import Principal
from qc_daemon.verbs import Verb
from qc_daemon.web.access import Access
from qc_daemon.web.context import context_of

LARGEST = 2**63 - 1
Sees = Annotated[Principal, Depends(Access(Verb.SEE_ALL, Verb.SEE_OWN))]
Id = Annotated[int, Path(ge=1, le=LARGEST, description="as in a list")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="at most so many")]
Texts = Annotated[list[str] | None, Query()]
After = Annotated[
    str | None, Query(pattern="^[0-9]{1,18}$", description="`cursor` of the page before")
]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern="^[!-~]{1,200}$",
        description="a word of your own, such as a UUID: sent again within 24 hours with the same"
        " request, it changes nothing and gives the first answer",
    ),
]
Word = Annotated[str, Field(min_length=1, max_length=400)]
Ids = Annotated[
    list[Annotated[int, Field(ge=1, le=LARGEST)]], Field(min_length=1, max_length=MAX_IDS)
]
Answer = TypeVar("Answer", bound=BaseModel)


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: Literal["about:blank"]
    title: str
    status: int
    detail: str = Field(description="what went wrong, in one line")


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": words,
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        },
    }
    for status, words in (
        (400, "this is no request that can be read"),
        (401, "no session and no token that counts"),
        (403, "the role or the token does not allow it"),
        (404, "there is no such thing, or this account may not see it"),
        (409, "it cannot be, as things stand"),
        (422, "a value is wrong"),
    )
}


class Body(BaseModel):
    """What a request asks; a field that there is not is refused."""

    model_config = ConfigDict(extra="forbid")


class ChangeBody(Body):
    """What a change is to be of."""

    def choice(self) -> Choice:
        """As the change has it."""
        raise NotImplementedError


class Page(BaseModel):
    """Rows; `cursor` asks for the next page, null at the end."""

    items: list[dict[str, Any]]
    cursor: str | None


def once(
    request: Request,
    principal: Principal,
    key: str | None,
    body: BaseModel,
    kind: type[Answer],
    make: Callable[[], Answer],
) -> Answer:
    """The answer that `make` gives, or gave when this request came before with the same key."""
    context = context_of(request)
    asked = f"{request.method} {request.url.path}\n{body.model_dump_json()}".encode()
    answer = answer_once(
        context.settings,
        principal,
        key,
        asked,
        lambda: make().model_dump(mode="json"),
        context.clock,
    )
    return kind.model_validate(answer)


class ChangeAnswer(BaseModel):
    """How many things were changed, a line that says what, and a line for each that was not."""

    count: int
    line: str
    problems: list[str] = []


def change_once(
    request: Request,
    principal: Principal,
    key: str | None,
    name: str,
    body: BaseModel,
    choice: Choice,
) -> ChangeAnswer:
    """Make the change of this name, once by key."""
    context = context_of(request)

    def make() -> ChangeAnswer:
        outcome = make_change(context.settings, principal, name, choice, context.clock)
        return ChangeAnswer(count=outcome.count, line=outcome.line, problems=list(outcome.problems))

    return once(request, principal, key, body, ChangeAnswer, make)


def operation_id(route: APIRoute) -> str:
    """What programs that are made from the description call the operation: its function's name."""
    return route.name


def add_change(
    router: APIRouter, path: str, change: str, body: type[ChangeBody], words: str
) -> None:
    """Have a POST to the path make the change of this name, by who has its verb; `words` describe
    it. The operation is called as the change."""

    def make(
        request: Request,
        principal: Annotated[Principal, Depends(Access(CHANGES[change].verb))],
        asked: body,  # type: ignore[valid-type]
        key: Key = None,
    ) -> ChangeAnswer:
        chosen = cast(ChangeBody, asked)
        return change_once(request, principal, key, change, chosen, chosen.choice())

    name = change.replace("-", "_")
    router.post(path, responses=ERRORS, name=name, description=words)(make)
