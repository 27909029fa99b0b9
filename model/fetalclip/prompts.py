"""Prompt files: what the texts of a class, or of a gestational age, are. None ships."""

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.console import UsageError

Prompts = dict[str, tuple[str, ...]]
"""The prompts of each class, in the order of the file."""
TEMPLATE_FIELDS = ("weeks", "day", "pixel_spacing")
"""What a template of gestational age names, in braces: whole weeks, the days beyond them (0 to 6),
and the side of a pixel of the network's picture in mm."""


def read_prompts(path: Path) -> Prompts:
    """Read a JSON object: class -> list of prompts. Raises UsageError, in one line."""
    data = _read_json(path)
    if not isinstance(data, dict) or len(data) < 2:
        raise UsageError(
            f"{path.name}: an object of two classes at least is expected,"
            ' {"class": ["prompt", …], …}'
        )
    return {name: _texts(prompts, f"{path.name}: class {name!r}") for name, prompts in data.items()}


def require_classes(prompts: Prompts, classes: Sequence[str], name: str) -> None:
    """Raises UsageError where one of the classes has no prompts in the file of that name."""
    missing = sorted(set(classes) - set(prompts))
    if missing:
        raise UsageError(
            f"{name} has no prompts for class {missing[0]!r}; it has {', '.join(prompts)}"
        )


def read_templates(path: Path) -> tuple[str, ...]:
    """Read a JSON list of templates of gestational age, or an object with one such list.

    Raises UsageError on a template that does not name each of `TEMPLATE_FIELDS`, or another.
    """
    data = _read_json(path)
    if isinstance(data, dict) and len(data) == 1:
        (data,) = data.values()
    templates = _texts(data, path.name)
    for number, template in enumerate(templates, 1):
        where = f"{path.name}: template {number}"
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(template) if name}
            fill_template(template, 98, 0.3)
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            raise UsageError(f"{where} cannot be filled in: {error}") from None
        lacking = [name for name in TEMPLATE_FIELDS if name not in fields]
        if lacking:
            raise UsageError(f"{where} does not name {{{lacking[0]}}}")
    return templates


def fill_template(template: str, days: int, spacing_mm: float) -> str:
    """The prompt of an age in days and of a spacing, which is written with two decimals."""
    return template.format(weeks=days // 7, day=days % 7, pixel_spacing=_TwoDecimals(spacing_mm))


class _TwoDecimals(float):
    """A number that is written with two decimals unless its template says otherwise."""

    def __format__(self, spec: str) -> str:
        return super().__format__(spec or ".2f")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path.name} is no file of prompts: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"class {name!r} stands in it twice")
    return dict(pairs)


def _texts(prompts: Any, where: str) -> tuple[str, ...]:
    if not isinstance(prompts, list) or not prompts:
        raise UsageError(f"{where} has no list of prompts")
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise UsageError(f"{where} has a prompt that is no text")
    return tuple(prompts)
