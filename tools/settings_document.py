"""docs/settings.md, made from the settings themselves.

`python -m tools.settings_document` writes it.
"""

import inspect
import sys
from collections.abc import Iterator, Sequence
from datetime import time
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from qc_daemon.settings import (
    AETitle,
    Fingerprint,
    Settings,
    WebAddress,
)
from qc_daemon.settings.problems import is_list, section_of
from qc_daemon.settings.section import Network, Secret

DOCUMENT = Path(__file__).parent.parent / "docs" / "settings.md"

_HEAD = """# Settings

Made from `qc_daemon/settings` by `make settings`; a test holds the two equal.

The service reads one file of TOML (UTF-8), named with `--config` or by `QC_DAEMON_CONFIG`
and called `qc-daemon.toml` in these documents, and the environment, which wins:
`QC_DAEMON_SECTION__KEY`, as
`QC_DAEMON_RECEIVE__PORT=104` or `QC_DAEMON_RECEIVE__PRESSURE__SOFT_FREE_PERCENT=20`; lists as JSON,
as `QC_DAEMON_DESTINATION='[{"name": "pacs", "port": 104}]'`. Without a file the defaults below
hold, in `var/` of the folder that the command is started in. Relative paths resolve from the file's
folder. What is unknown or cannot be used, in the file or the environment, ends the command with
status 2 and a line for each. Settings are read at start, some again at SIGHUP: see
[running.md](running.md).

`[[name]]`, in two brackets, may be repeated. *needed*: has no default.
"""

_TYPES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    time: "time of day",
    AETitle: "AE title",
    Fingerprint: "SHA-256",
    Network: "network",
    WebAddress: "URL",
    Secret: "`env:NAME` or `file:PATH`",
}


def document() -> str:
    """The whole document, Markdown."""
    return "\n".join([_HEAD, *_sections(Settings, ())]).rstrip() + "\n"


def _sections(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            continue
        path = (*above, name)
        title = ".".join(path)
        yield f"## `[[{title}]]`" if is_list(field.annotation) else f"## `[{title}]`"
        yield ""
        if field.description:
            yield f"{_sentence(field.description)} {_prose(section)}"
        else:
            yield _prose(section)
        yield ""
        yield "| setting | type | default | range | meaning |"
        yield "|---|---|---|---|---|"
        yield from _rows(section)
        yield ""
        yield from _sections(section, path)


def _rows(section: type[BaseModel]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        if section_of(field.annotation) is not None:
            continue
        cells = (f"`{name}`", _type(field), _default(field), _range(field), field.description or "")
        yield "| " + " | ".join(cells) + " |"


def _prose(section: type[BaseModel]) -> str:
    return " ".join(inspect.cleandoc(section.__doc__ or "").split())


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _type(field: FieldInfo) -> str:
    return " or ".join(dict.fromkeys(_words(field.annotation, field.metadata)))


def _words(annotation: Any, metadata: Sequence[Any]) -> Iterator[str]:
    """The kinds of value that an annotation takes."""
    for value_type, words in _TYPES.items():
        if set(getattr(value_type, "__metadata__", ())) & _hashable(metadata):
            yield words
            return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return
    if annotation in _TYPES:
        yield _TYPES[annotation]
    elif origin is Literal:
        yield " or ".join(f"`{each}`" for each in arguments)
    elif origin is list:
        yield "list of " + " or ".join(_words(arguments[0], ()))
    elif hasattr(annotation, "__metadata__"):
        yield from _words(arguments[0], annotation.__metadata__)
    elif arguments:
        for each in arguments:
            yield from _words(each, ())
    elif isinstance(annotation, type):
        yield " or ".join(f"`{each}`" for each in annotation)  # type: ignore[attr-defined]


def _hashable(metadata: Sequence[Any]) -> set[Any]:
    return {each for each in metadata if getattr(each, "__hash__", None) is not None}


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "by the machine"
    if field.default is PydanticUndefined:
        return "*needed*"
    if field.default is None:
        return "none"
    return f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, time):
        return f"{value:%H:%M}"
    if isinstance(value, str | Path):
        return f'"{value}"'
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


def _range(field: FieldInfo) -> str:
    return ", ".join(_bounds(field.annotation, field.metadata))


def _bounds(annotation: Any, metadata: Sequence[Any]) -> Iterator[str]:
    for each in metadata:
        if isinstance(each, FieldInfo):
            yield from _bounds(annotation, each.metadata)
            continue
        for name, words in (("gt", "more than"), ("ge", "at least"), ("le", "at most")):
            bound = getattr(each, name, None)
            if bound is not None:
                yield f"{words} {bound:,.0f}" if bound == int(bound) else f"{words} {bound}"
        least = getattr(each, "min_length", None)
        if least is not None and get_origin(annotation) is list:
            yield f"at least {least} in it"
    if hasattr(annotation, "__metadata__"):
        yield from _bounds(get_args(annotation)[0], annotation.__metadata__)
        return
    if get_origin(annotation) is not list:
        for each in get_args(annotation):
            if hasattr(each, "__metadata__"):
                yield from _bounds(each, ())


def main() -> int:
    """Write the document."""
    DOCUMENT.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
