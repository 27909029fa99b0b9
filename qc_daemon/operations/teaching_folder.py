"""The folder of images that were prepared for teaching: its list, its page, and what is released.

    list.json, list.csv    a row for each image, and where it stands
    index.html             the images to look at, with what was blanked
    images/                the de-identified images: DICOM, and a picture of one frame
    previews/              the same with marks where something was blanked
    released/              what a person has looked at, with sheet.json and sheet.csv

list.json is sealed by a key of the store: a list that somebody changed releases nothing. Nothing in
the folder names a patient; the ids of findings stand in list.json only, and in no sheet.
"""

import csv
import hmac
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.spool import private_files

LIST, LIST_CSV, PAGE = "list.json", "list.csv", "index.html"
IMAGES, PREVIEWS, RELEASED = "images", "previews", "released"
SHEET, SHEET_CSV = "sheet.json", "sheet.csv"
TO_LOOK_AT = "to look at"
TEACHING_SECRET = "teaching"
"""The store's key of pseudonyms, UIDs and seals of this export."""
LIST_COLUMNS = (
    *("number", "state", "file", "frames", "frame", "view", "verdict", "verdict_by"),
    *("probability", "description", "reasons", "not_met", "words_blanked", "cautions"),
)
SHEET_COLUMNS = (
    *("number", "file", "picture", "frames", "frame", "view", "verdict", "verdict_by"),
    *("probability", "description", "reasons", "met", "not_met", "not_checked"),
)
_FINDING_KEYS = (
    *("frame", "view", "verdict", "verdict_by", "probability", "description", "reasons"),
    *("criteria", "structures"),
)
"""What of a finding goes into a sheet."""
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def check_is_new(folder: Path) -> None:
    """Raises UsageError for a folder with something in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--teaching {folder}: give a folder that is new or empty")


def write_list(folder: Path, body: dict[str, Any], key: bytes) -> None:
    """Write the list, its table and its page; the list comes last and is sealed. Raises OSError."""
    images = body["images"]
    page = _ENVIRONMENT.get_template("teaching.html").render(images=images)
    _replace(folder / PAGE, page)
    _replace(folder / LIST_CSV, _csv(LIST_COLUMNS, _rows(images)))
    _replace(folder / LIST, _json(body | {"seal": _seal(body, key)}))


def read_list(folder: Path, key: bytes | None) -> dict[str, Any]:
    """The list of a prepared folder, without its seal.

    Raises UsageError where there is none, QCError STORAGE for one that is changed or another
    store's, or cannot be read.
    """
    path = folder / LIST
    try:
        body = json.loads(path.read_bytes())
        seal = str(body.pop("seal"))
    except FileNotFoundError:
        raise UsageError(
            f"--release {folder}: there is no {LIST}; give a folder of export --teaching"
        ) from None
    except OSError as error:
        raise QCError(ErrorCode.STORAGE, f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _changed(path) from None
    if key is None or not hmac.compare_digest(seal.encode(), _seal(body, key).encode()):
        raise _changed(path)
    return body  # type: ignore[no-any-return]


def write_sheet(folder: Path, images: Sequence[Mapping[str, Any]]) -> None:
    """Write what is known of the released images, without ids. Raises OSError."""
    sheet = [
        {
            "number": image["number"],
            "file": Path(image["file"]).name,
            "picture": Path(image["picture"]).name,
            "frames": image["frames"],
            "findings": [
                {name: finding[name] for name in _FINDING_KEYS} for finding in image["findings"]
            ],
        }
        for image in images
    ]
    _replace(folder / SHEET, _json({"images": sheet}))
    _replace(folder / SHEET_CSV, _csv(SHEET_COLUMNS, _rows(sheet)))


def _changed(path: Path) -> QCError:
    return QCError(
        ErrorCode.STORAGE,
        f"{path} was changed, or is of another store: nothing is released; prepare the images anew",
    )


def _seal(body: Mapping[str, Any], key: bytes) -> str:
    """A keyed hash of all that is fixed; the state of an image is not, the database knows it."""
    images = [{name: image[name] for name in image if name != "state"} for image in body["images"]]
    text = json.dumps({**body, "images": images}, sort_keys=True)
    return hmac.digest(key, b"list " + text.encode(), "sha256").hex()


def _rows(images: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each finding of each image."""
    for image in images:
        for finding in image["findings"]:
            by_answer: dict[bool | None, list[str]] = {True: [], False: [], None: []}
            for criterion in finding["criteria"]:
                by_answer[criterion["met"]].append(criterion["code"])
            yield {
                **image,
                **finding,
                "reasons": "; ".join(finding["reasons"]),
                "cautions": "; ".join(image.get("cautions", ())),
                "met": " ".join(by_answer[True]),
                "not_met": " ".join(by_answer[False]),
                "not_checked": " ".join(by_answer[None]),
            }


def _csv(columns: Sequence[str], rows: Iterator[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json(body: Mapping[str, Any]) -> str:
    return json.dumps(body, indent=1) + "\n"


def _replace(path: Path, text: str) -> None:
    with private_files.replacing(path) as file:
        file.write(text.encode())
