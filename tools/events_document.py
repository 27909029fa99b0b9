"""docs/events.md, made from the vocabulary and from the calls that report events.

`python -m tools.events_document` writes it.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qc_daemon.observe.events import CORRELATION, EVENTS, KEYS

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "events.md"
LEVELS = ("debug", "info", "warning", "error", "critical")
_LOGGERS = ("log", "logger", "_log")

_HEAD = """# Events of the log

Made from `qc_daemon/observe/events.py` and the code by `make events`; a test holds them equal.

The service writes a JSON object a line to standard error. `QC_LOG` is the lowest level that is
written (`info` unless it says otherwise). No line carries patient data: a key that is not in the
table of keys is dropped, and `dropped` names it.

One image is followed through the log by {correlation}: what is received has `instance` and `exam`,
and every line that a job writes has the job's `job`, `kind` and `exam`, with `instance` where it is
about one image and `destination` where it delivers.
"""


@dataclass
class Use:
    """How the code reports an event: levels, keys, and the modules that do."""

    levels: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)


class Code:
    """The calls of the service's code that report events."""

    def __init__(self, sources: Mapping[str, str] | None = None) -> None:
        """Of these `sources` by module; without, of the whole service."""
        texts = _service_sources() if sources is None else sources
        self.trees = {module: ast.parse(text) for module, text in texts.items()}
        self._parameters = self._read_parameters()
        self._assigned = self._read_assignments()

    def uses(self) -> dict[str, Use]:
        """Each event that is reported. Raises ValueError for one that cannot be told."""
        uses: dict[str, Use] = defaultdict(Use)
        for module, tree in self.trees.items():
            for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
                levels = _levels(call.func)
                if not levels or not call.args:
                    continue
                events = self._events(call.args[0])
                if not events:
                    raise ValueError(f"{module}:{call.lineno}: which events are these?")
                for event in events:
                    uses[event].levels |= levels
                    uses[event].modules.add(module)
                    uses[event].keys |= {each.arg for each in call.keywords if each.arg}
        return uses

    def _events(self, node: ast.expr) -> set[str]:
        """The texts that an expression may be: a constant, a choice, or a name given one."""
        match node:
            case ast.Constant(value=str(text)):
                return {text}
            case ast.IfExp(body=body, orelse=orelse):
                return self._events(body) | self._events(orelse)
            case ast.Name(id=name) | ast.Attribute(attr=name):
                return self._assigned[name]
        return set()

    def _read_parameters(self) -> dict[str, list[str]]:
        """The parameters of each function, by its name."""
        return {
            node.name: [each.arg for each in node.args.args if each.arg != "self"]
            for tree in self.trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
        }

    def _read_assignments(self) -> dict[str, set[str]]:
        """The texts that names of events are given anywhere: `event`, `failed_event`, ..."""
        values: dict[str, set[str]] = defaultdict(set)
        for tree in self.trees.values():
            for name, value in self._bindings(tree):
                if name == "event" or name.endswith("_event"):
                    values[name] |= _texts(value, tree)
        return values

    def _bindings(self, tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
        for node in ast.walk(tree):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    yield name, value
                case ast.FunctionDef(args=arguments):
                    parameters = arguments.args[len(arguments.args) - len(arguments.defaults) :]
                    yield from (
                        (a.arg, v) for a, v in zip(parameters, arguments.defaults, strict=True)
                    )
                    yield from (
                        (argument.arg, default)
                        for argument, default in zip(
                            arguments.kwonlyargs, arguments.kw_defaults, strict=True
                        )
                        if default is not None
                    )
                # What a page's stream calls its events is no event of the log.
                case ast.Call(func=ast.Name(id="ServerSentEvent")):
                    pass
                case ast.Call(func=function, args=arguments, keywords=keywords):
                    yield from ((each.arg, each.value) for each in keywords if each.arg)
                    match function:
                        case ast.Name(id=called) | ast.Attribute(attr=called):
                            yield from zip(
                                self._parameters.get(called, ()), arguments, strict=False
                            )


def _service_sources() -> dict[str, str]:
    root = ROOT / "qc_daemon"
    return {
        str(path.relative_to(root)): path.read_text(encoding="utf-8")
        for path in sorted(root.rglob("*.py"))
    }


def _texts(value: ast.expr, tree: ast.Module) -> set[str]:
    """The texts of a constant, of a choice, or of a look-up in a table of the module."""
    match value:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.IfExp(body=body, orelse=orelse):
            return _texts(body, tree) | _texts(orelse, tree)
        case ast.Call(func=ast.Attribute(value=ast.Name(id=table), attr="get"), args=[_, default]):
            tables = [
                node.value
                for node in tree.body
                if isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and node.target.id == table
            ]
            values = [each for node in tables if isinstance(node, ast.Dict) for each in node.values]
            return set().union(*(_texts(each, tree) for each in (*values, default)))
    return set()


def _levels(function: ast.expr) -> set[str]:
    """The levels of a call of a logger; empty for any other call."""
    match function:
        case ast.IfExp(body=body, orelse=orelse):
            return _levels(body) | _levels(orelse)
        case ast.Attribute(value=logger, attr=level) if level in LEVELS:
            match logger:
                case ast.Name(id=name) | ast.Attribute(attr=name) if name in _LOGGERS:
                    return {level}
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr="get")):
                    return {level}
                case ast.Call(func=ast.Name(id="get")):
                    return {level}
    return set()


def document() -> str:
    """The whole document, Markdown."""
    uses = Code().uses()
    correlation = ", ".join(f"`{key}`" for key in CORRELATION)
    return "\n".join(
        [
            _HEAD.format(correlation=correlation),
            "## Events",
            "",
            "| event | level | meaning | keys | module |",
            "|---|---|---|---|---|",
            *(
                f"| `{event}` | {_listed(uses[event].levels, LEVELS)} | {meaning}"
                f" | {_listed(uses[event].keys, KEYS)} | {_listed(uses[event].modules)} |"
                for event, meaning in EVENTS.items()
            ),
            "",
            "## Keys",
            "",
            "| key | meaning |",
            "|---|---|",
            *(f"| `{key}` | {meaning} |" for key, meaning in KEYS.items()),
            "",
        ]
    )


def _listed(names: Iterable[str], order: Iterable[str] | None = None) -> str:
    order_of_names = (
        sorted(names) if order is None else [each for each in order if each in set(names)]
    )
    return ", ".join(f"`{name}`" for name in order_of_names)


def main() -> int:
    """Write the document."""
    DOCUMENT.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
