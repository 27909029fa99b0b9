"""A typed client of the REST API, made from its description as any program's author could make one
(openapi-python-client), and imported from where it lies."""

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from fastapi import FastAPI
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType

PACKAGE = "qc_api_client"


def make_client(app: FastAPI, folder: Path) -> list[str]:
    """Write the package into the folder; returns what could not be made of the description."""
    description = folder / "openapi.json"
    description.write_text(json.dumps(app.openapi()))
    chosen = ConfigFile(
        package_name_override=PACKAGE,
        # Otherwise it would run ruff from wherever it finds one.
        post_hooks=[],
        content_type_overrides={"image/png": "application/octet-stream"},
    )
    config = Config.from_sources(
        chosen, MetaType.NONE, description, "utf-8", overwrite=True, output_path=folder / PACKAGE
    )
    return [f"{each.header}: {each.detail}" for each in generate(config=config)]


@contextmanager
def imported(folder: Path) -> Iterator[ModuleType]:
    """The package, importable within."""
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module(PACKAGE)
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]


def operation(tag: str, name: str) -> ModuleType:
    """The module of an operation: `sync_detailed` asks it."""
    return importlib.import_module(f"{PACKAGE}.api.{tag}.{name}")


def model(name: str) -> type:
    """A class of the description."""
    kind: type = getattr(importlib.import_module(f"{PACKAGE}.models"), name)
    return kind
