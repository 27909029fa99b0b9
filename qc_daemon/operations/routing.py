"""Routing rules for an operator: the destinations of a file's objects, and the rules' reasons."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from detector.anatomy import View
from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from model.finding import QUALITY_LABELS
from qc_daemon.receive.identifiers import HeaderError, data_set_offset, read_identity
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.source_file import read_header
from qc_daemon.routing import SOURCE, Routes, Traits
from qc_daemon.settings import DeliveredKind, Settings, parse_ae_title


def try_rules(
    settings: Settings,
    paths: Sequence[Path],
    *,
    calling_ae: str = "",
    view: str | None = None,
    verdict: str | None = None,
) -> Iterator[dict[str, Any]]:
    """The destinations of each file and kind of object, or {"source", "error"}.

    With `view` or `verdict` that result is supposed; without, the settings' bundle judges the file
    if a rule asks for it. An overlay stands for each of a file's findings, so that it may have
    several answers. Raises UsageError.
    """
    if view is not None and view not in list(View):
        raise UsageError(f"--view {view}: give one of {', '.join(View)}")
    if verdict is not None and verdict not in QUALITY_LABELS:
        raise UsageError(f"--verdict {verdict}: give one of {', '.join(QUALITY_LABELS)}")
    if calling_ae:
        calling_ae = parse_ae_title(calling_ae, f"--calling {calling_ae}")
    routes = Routes.of(settings)
    objects_by_file = None
    if routes.needs_findings and view is None and verdict is None:
        objects_by_file = _score([path for path in paths if path.is_file()], settings)
    for path in paths:
        try:
            received = _receiver_traits(path, calling_ae)
            yield _row(path, SOURCE, routes, [received])
            traits = _report_traits(path, calling_ae)
            results = (
                [(view, verdict)]
                if objects_by_file is None
                else _results(objects_by_file[str(path)])
            )
            result_traits = [
                replace(traits, view=view, verdict=verdict) for view, verdict in results
            ]
            for kind in get_args(DeliveredKind):
                if kind != SOURCE:
                    yield from _derived_rows(path, kind, routes, result_traits)
        except QCError as error:
            yield {
                "source": str(path),
                "error": {"code": error.code.value, "message": error.message},
            }


def route_row(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a table or CSV."""
    if "error" in row:
        error = row["error"]
        return {
            "file": row["source"],
            "object": None,
            "goes to": [],
            "decided by": None,
            "earlier rules": [],
            "error": f"{error['code']}: {error['message']}",
        }
    return {
        "file": row["source"],
        "object": row["object"],
        "goes to": row["to"] or ["nowhere"],
        "decided by": f"rule {row['rule']}" if row["rule"] else "the destinations' objects",
        "earlier rules": [f"{each['rule']}: {each['why']}" for each in row["earlier"]],
        "error": None,
    }


def _derived_rows(
    path: Path, kind: str, routes: Routes, traits: Sequence[Traits]
) -> Iterator[dict[str, Any]]:
    """Rows of the objects made of a file: one object of all findings, but an overlay of each."""
    if kind != "overlay":
        yield _row(path, kind, routes, traits)
        return
    rows = [_row(path, kind, routes, [each]) for each in traits]
    yield from (row for position, row in enumerate(rows) if row not in rows[:position])


def _row(path: Path, kind: str, routes: Routes, traits: Sequence[Traits]) -> dict[str, Any]:
    route = routes.route(kind, traits)
    return {
        "source": str(path),
        "object": kind,
        "to": list(route.to),
        "rule": route.rule,
        "earlier": [{"rule": miss.rule, "why": miss.why} for miss in route.earlier],
    }


def _receiver_traits(path: Path, calling_ae: str) -> Traits:
    """The traits that the receiver would know of the file."""
    if path.exists() and not path.is_file():
        raise QCError(ErrorCode.UNREADABLE, "is no file; give DICOM files")
    try:
        syntax = str(read_file_meta_info(path).TransferSyntaxUID)
        identity = read_identity(path, data_set_offset(path), syntax, with_description=True)
    except OSError as error:
        raise QCError(ErrorCode.UNREADABLE, f"cannot be opened: {error.strerror}") from error
    except (InvalidDicomError, HeaderError, AttributeError, EOFError) as error:
        raise QCError(ErrorCode.UNREADABLE, "rules are tried on a DICOM file (PS3.10)") from error
    return Traits(calling_ae, identity.station_name, identity.study_description)


def _report_traits(path: Path, calling_ae: str) -> Traits:
    """The traits that the report stage would know of the file."""
    source = SourceInstance.of(read_header(path), "")
    return Traits(calling_ae, source.station_name, source.study_description)


def _score(paths: Sequence[Path], settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """Finding objects, or one error object, by file."""
    # The models' libraries take seconds to load.
    from qc_daemon.score.files import score_files

    objects_by_file = defaultdict(list)
    for finding in score_files(paths, settings.score):
        objects_by_file[finding["source"]].append(finding)
    return objects_by_file


def _results(findings: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """View and verdict of each. Raises QCError for a file that could not be scored."""
    for finding in findings:
        if "error" in finding:
            raise QCError(ErrorCode(finding["error"]["code"]), finding["error"]["message"])
    return [(finding["view"]["code"], finding["quality"]["label"]) for finding in findings]
