"""What is wrong with settings, in words: which one, where it stands, and how to fix it.

No message quotes a value: it may be a secret in the wrong place.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from detector.console import UsageError

PREFIX = "QC_DAEMON_"
_SEPARATOR = "__"
CONFIG_VARIABLE = "QC_DAEMON_CONFIG"
"""Names the settings file for commands that are not given one; it is no setting itself."""

# Kubernetes names a service's addresses so to every container beside it; they are no settings.
_SERVICE_LINK = re.compile(r"QC_DAEMON_(SERVICE_(HOST|PORT(_.*)?)|PORT(_[0-9]+_(TCP|UDP)(_.*)?)?)")

_FIXES = {
    "int_parsing": "give a whole number",
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_parsing": "give a number",
    "float_type": "give a number",
    "finite_number": "give a number that is not inf or nan",
    "string_type": "give a text in quotes",
    "bool_parsing": "give true or false",
    "bool_type": "give true or false",
    "path_type": "give a path in quotes",
    "time_parsing": 'give a time of day, as "01:30"',
    "time_type": 'give a time of day, as "01:30"',
    "missing": "is missing; add it",
    "greater_than": "give more than {gt:g}",
    "greater_than_equal": "give at least {ge:g}",
    "less_than": "give less than {lt:g}",
    "less_than_equal": "give at most {le:g}",
    "string_too_short": "give at least {min_length} characters",
    "too_short": "list at least {min_length}",
    "literal_error": "give {expected}",
    "enum": "give {expected}",
}


def problems_of(
    error: ValidationError, settings: type[BaseModel], data: Mapping[str, Any]
) -> list[str]:
    """A line for each problem, in the order of the settings, each once."""
    lines: dict[str, str] = {}
    for each in error.errors():
        location = tuple(each["loc"])
        path = _path(location, settings)
        where = ".".join(str(part) for part in path)
        line = _line(each, where, path, settings)
        if where in lines:
            # A value that may be of several kinds is wrong as each of them.
            lines[where] += f", or {line.removeprefix(f'setting {where}: ')}"
        else:
            owner = _owner(location, data)
            lines[where] = f"{owner}: {line}" if owner else line
    return list(lines.values())


def problems_of_environment(settings: type[BaseModel], environment: Mapping[str, str]) -> list[str]:
    """A line for each variable that begins as ours do and names no setting."""
    names = {name.upper(): name for name in environment}
    our_names = [name for name in sorted(names) if name.startswith(PREFIX)]
    if not our_names:
        return []
    variables = [PREFIX + _SEPARATOR.join(path).upper() for path in paths(settings)]
    lines = []
    for name in our_names:
        is_setting = name in variables or name == CONFIG_VARIABLE
        if is_setting or _is_service_link(name, environment[names[name]]):
            continue
        suggestion = nearest(name, variables)
        lines.append(
            f"environment variable {names[name]} names no setting; "
            + (f"did you mean {suggestion}?" if suggestion else "remove it; see docs/settings.md")
        )
    return lines


def without_unknown(settings: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """The tables without keys that are no settings."""
    known = {}
    for name, value in data.items():
        field = settings.model_fields.get(name)
        if field is None:
            continue
        section = section_of(field.annotation)
        if section is not None and isinstance(value, Mapping):
            value = without_unknown(section, value)
        elif section is not None and isinstance(value, list):
            value = [
                without_unknown(section, each) if isinstance(each, Mapping) else each
                for each in value
            ]
        known[name] = value
    return known


def paths(settings: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Sections and settings by their keys; lists of tables, which have no keys, as themselves."""
    for name, field in settings.model_fields.items():
        yield (*above, name)
        section = section_of(field.annotation)
        if section is not None and not is_list(field.annotation):
            yield from paths(section, (*above, name))


def nearest(word: str, choices: Collection[str]) -> str | None:
    """The one of these that the word is most like, None if like none."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.75)
    return matches[0] if matches else None


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The table that a field holds, itself, optional or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for each in get_args(annotation):
        section = section_of(each)
        if section is not None:
            return section
    return None


def is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list


def _is_service_link(name: str, value: str) -> bool:
    if name == f"{PREFIX}PORT":
        return "://" in value
    return _SERVICE_LINK.fullmatch(name) is not None


def _path(location: Sequence[int | str], settings: type[BaseModel]) -> tuple[int | str, ...]:
    """The place without the names that pydantic gives the members of a union."""
    path: list[int | str] = []
    section: type[BaseModel] | None = settings
    for part in location:
        if isinstance(part, int):
            path.append(part)
            continue
        if section is None:
            break
        path.append(part)
        field = section.model_fields.get(part)
        section = None if field is None else section_of(field.annotation)
    return tuple(path)


def _owner(location: Sequence[int | str], data: Mapping[str, Any]) -> str:
    """What the table is called that a setting stands in, as `destination pacs`; empty outside."""
    value: Any = data
    name, previous = "", ""
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            break
        if isinstance(part, int) and isinstance(value, Mapping):
            title: Any = value.get("name", value.get("ae_title"))
            if isinstance(title, str) and title.isprintable() and len(title) <= 64:
                name = f"{previous} {title}"
        previous = str(part)
    return name


def _line(error: Any, where: str, path: Sequence[int | str], settings: type[BaseModel]) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        hint = _suggestion(path, settings)
        fix = f"did you mean {hint}?" if hint else "remove it or fix its spelling"
        return f"setting {where} is unknown; {fix}"
    if kind == "missing":
        return f"setting {where} {_FIXES[kind]}"
    if kind == "list_type":
        section = _section_at(path, settings)
        if section is not None:
            name = ".".join(str(part) for part in path)
            return f"setting {where}: write its table as [[{name}]], with two brackets"
        return f"setting {where}: give a list, in [ ]"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        name = ".".join(str(part) for part in path if isinstance(part, str))
        if any(isinstance(part, int) for part in path):
            return f"setting {where}: write it as a table, [[{name}]]"
        return f"setting {where}: write it as a table, [{name}]"
    words = _FIXES.get(kind)
    if words is not None:
        return f"setting {where}: {words.format(**error.get('ctx', {}))}"
    return f"setting {where}: {error['msg'].removeprefix('Value error, ')}"


def _section_at(path: Sequence[int | str], settings: type[BaseModel]) -> type[BaseModel] | None:
    section: type[BaseModel] | None = settings
    for part in path:
        if isinstance(part, int):
            continue
        field = None if section is None else section.model_fields.get(part)
        section = None if field is None else section_of(field.annotation)
    return section


def _suggestion(path: Sequence[int | str], settings: type[BaseModel]) -> str | None:
    """The setting beside it that an unknown one is most like, else one of that name elsewhere."""
    *above, last = path
    section = _section_at(above, settings)
    beside = nearest(str(last), section.model_fields) if section is not None else None
    if beside is not None:
        return ".".join(str(part) for part in (*above, beside))
    elsewhere = [".".join(each) for each in paths(settings) if each[-1] == last]
    return elsewhere[0] if len(elsewhere) == 1 else None


class SettingsError(UsageError):
    """Settings that cannot be used: each problem a line that says which one and how to fix it."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    @property
    def lines(self) -> tuple[str, ...]:
        return self.problems
