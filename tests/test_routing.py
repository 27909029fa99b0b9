"""Routing: the first rule that matches decides, and what may happen bounds what does."""

from fnmatch import fnmatchcase
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st

from detector.anatomy import View
from model.finding import QUALITY_LABELS
from qc_daemon.routing import SOURCE, Miss, Route, Routes, Traits
from qc_daemon.settings import RuleSettings, Settings

NAMES = ("pacs", "archive", "teaching")
TEXTS = ("", "VOLUSON1", "voluson-2", "Logiq [E]", "room*", "11-13 Wochen, Ängste")
PATTERNS = ("*", "?*", "voluson*", "VOLUSON[12]", "*WOCHEN*", "*ängste", "room[*]", "nothing")
VIEW_LIST = st.lists(st.sampled_from(list(View)), min_size=1, max_size=2)
VERDICTS = st.lists(st.sampled_from(QUALITY_LABELS), min_size=1, max_size=2)
PATTERN_LIST = st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2)


def rule(name: str, **values: Any) -> RuleSettings:
    return RuleSettings(**{"name": name, "objects": ["sr"], "to": ["archive"]} | values)


@st.composite
def rules(draw: st.DrawFn) -> list[RuleSettings]:
    rules = []
    for number in range(draw(st.integers(0, 4))):
        to = draw(st.lists(st.sampled_from(NAMES), max_size=2))
        objects = draw(st.lists(st.sampled_from(["source", "sr"]), min_size=1, max_size=2))
        results = SOURCE not in objects
        rules.append(
            rule(
                f"r{number}",
                objects=objects,
                to=to,
                drop=not to,
                calling_ae=draw(st.none() | PATTERN_LIST),
                station=draw(st.none() | PATTERN_LIST),
                study=draw(st.none() | PATTERN_LIST),
                view=draw(st.none() | VIEW_LIST) if results else None,
                verdict=draw(st.none() | VERDICTS) if results else None,
            )
        )
    return rules


TRAITS = st.builds(
    Traits,
    st.sampled_from(TEXTS),
    st.sampled_from(TEXTS),
    st.sampled_from(TEXTS),
    st.none() | st.sampled_from(list(View)),
    st.none() | st.sampled_from(QUALITY_LABELS),
)
OWN = st.dictionaries(
    st.sampled_from(["source", "sr"]), st.lists(st.sampled_from(NAMES), unique=True)
)


def holds(rule: RuleSettings, traits: Traits) -> bool:
    """The same in other words."""
    texts = (
        (rule.calling_ae, traits.calling_ae),
        (rule.station, traits.station),
        (rule.study, traits.study),
    )
    return (
        all(
            patterns is None
            or any(fnmatchcase(text.casefold(), pattern.casefold()) for pattern in patterns)
            for patterns, text in texts
        )
        and (rule.view is None or traits.view in rule.view)
        and (rule.verdict is None or traits.verdict in rule.verdict)
    )


@given(rules(), OWN, st.sampled_from(["source", "sr"]), st.lists(TRAITS, min_size=1, max_size=3))
def test_the_first_that_holds_decides(
    rules: list[RuleSettings], own: dict[str, list[str]], kind: str, traits: list[Traits]
) -> None:
    routes = Routes(rules, own)
    route = routes.route(kind, traits)
    applicable = [each for each in rules if kind in each.objects]
    first = next((r for r in applicable if any(holds(r, each) for each in traits)), None)
    assert route.rule == (first.name if first else None)
    assert list(route.to) == list(dict.fromkeys(first.to if first else own.get(kind, [])))
    before = applicable if first is None else applicable[: applicable.index(first)]
    assert [miss.rule for miss in route.earlier] == [each.name for each in before]
    assert all(miss.why and "\n" not in miss.why for miss in route.earlier)


@given(rules(), OWN, st.sampled_from(["source", "sr"]), TRAITS)
def test_a_route_has_every_certain_and_only_possible_destinations(
    rules: list[RuleSettings], own: dict[str, list[str]], kind: str, traits: Traits
) -> None:
    routes = Routes(rules, own)
    to = set(routes.route(kind, [traits]).to)
    assert set(routes.certain(kind)) <= to <= set(routes.possible(kind))


@given(OWN, st.sampled_from(["source", "sr"]), TRAITS)
def test_without_rules_the_destinations_decide(
    own: dict[str, list[str]], kind: str, traits: Traits
) -> None:
    routes = Routes((), own)
    names = tuple(own.get(kind, ()))
    assert routes.route(kind, [traits]) == Route(None, names)
    assert routes.certain(kind) == routes.possible(kind) == names
    assert not routes.needs_findings


def test_conditions_hold_for_one_finding() -> None:
    """A bad NT and a good CRL are no bad CRL."""
    routes = Routes([rule("bad", view=["CRL"], verdict=["non-standard"])], {"sr": ["pacs"]})
    exam = [Traits(view="NT", verdict="non-standard"), Traits(view="CRL", verdict="standard")]
    route = routes.route("sr", exam)
    assert route.to == ("pacs",)
    assert route.earlier == (
        Miss("bad", "view NT is not CRL; verdict standard is not non-standard"),
    )
    assert routes.route("sr", [*exam, Traits(view="CRL", verdict="non-standard")]).rule == "bad"


def test_a_reason_quotes_no_study_description() -> None:
    routes = Routes([rule("s", study=["*NT*"])])
    (miss,) = routes.route("sr", [Traits(study="Jane Doe, 4711")]).earlier
    assert miss.why == "study description is not like *NT*"


def test_a_rule_for_all_leaves_nothing_to_the_destinations() -> None:
    routes = Routes([rule("all", objects=["source"])], {"source": ["pacs"]})
    assert routes.route(SOURCE, [Traits()]).to == routes.certain(SOURCE) == ("archive",)
    assert routes.possible(SOURCE) == ("pacs", "archive")


def test_routes_of_settings_name_rules_before_destinations() -> None:
    settings = Settings(
        destination=[
            {"name": "pacs", "objects": ["source", "sr"]},
            {"name": "archive", "objects": []},
        ],
        rule=[{"name": "r", "objects": ["source"], "to": ["archive"], "calling_ae": "X"}],
    )
    routes = Routes.of(settings)
    assert routes.route(SOURCE, [Traits("x")]).to == ("archive",)
    assert routes.route(SOURCE, [Traits("y")]).to == ("pacs",)


def test_verdicts_are_those_of_findings() -> None:
    (listed,) = (
        set(get_args(each))
        for each in _literals(RuleSettings.model_fields["verdict"].annotation)
        if get_args(each)
    )
    assert listed == set(QUALITY_LABELS)


def _literals(annotation: Any) -> list[Any]:
    """The Literal inside list[...] | None, however it is wrapped."""
    parts = get_args(annotation)
    if parts and all(isinstance(part, str) for part in parts):
        return [annotation]
    return [literal for part in parts for literal in _literals(part)]
