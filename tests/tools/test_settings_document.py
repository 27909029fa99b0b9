"""docs/settings.md is what the settings are."""

from pydantic import BaseModel

from qc_daemon.settings import Settings
from qc_daemon.settings.problems import section_of
from tools.settings_document import DOCUMENT, document


def undescribed(model: type[BaseModel]) -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            names += [f"{name}.{each}" for each in undescribed(section)]
        elif not field.description:
            names.append(name)
    return names


def test_the_document_is_up_to_date() -> None:
    """If not: `make settings`."""
    assert DOCUMENT.read_text(encoding="utf-8") == document()


def test_every_setting_is_described() -> None:
    assert undescribed(Settings) == []


def test_types_defaults_and_ranges_are_the_settings() -> None:
    rows = document().splitlines()
    for row in (
        '| `ae_title` | AE title | `"QCDAEMON"` |  | our AE title |',
        "| `threads` | whole number | `0` | at least 0, at most 1,024 |",
        "| `keep_pixels_days` | whole number or `forever` | `400` | at least 0, at most 36,500 |",
        "| `port` | whole number | none | at least 1, at most 65,535 |",
        '| `kind` | `dicom` or `dicomweb` or `folder` or `fhir` | `"dicom"` |',
        "| `name` | text | *needed* |",
    ):
        assert any(each.startswith(row) for each in rows), row
