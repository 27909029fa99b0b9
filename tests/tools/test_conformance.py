"""The conformance statement says what the code does."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from qc_daemon.dicom import status
from qc_daemon.receive import c_store, commitment_scp, mpps
from tools import conformance


def refusals(module: ModuleType, error: str) -> set[int]:
    """The statuses that a module refuses with: the first argument of each such error it raises."""
    tree = ast.parse(inspect.getsource(module))
    return {
        getattr(module, call.args[0].id)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == error
        and isinstance(call.args[0], ast.Name)
    }


@pytest.mark.parametrize(
    ("path", "tables"),
    [
        (conformance.STATEMENT, conformance.tables),
        (conformance.DELIVERY, conformance.delivery_tables),
    ],
)
def test_the_tables_are_the_codes(path: Path, tables: Callable[[], dict[str, str]]) -> None:
    text = path.read_text(encoding="utf-8")
    assert conformance.replace_tables(text, tables()) == text, "run python -m tools.conformance"


def test_every_refusal_status_is_in_the_statement() -> None:
    store = refusals(c_store, "RefusedRequestError")
    assert {
        status.OUT_OF_RESOURCES,
        status.DATA_SET_MISMATCH,
        status.CANNOT_UNDERSTAND,
    } <= store
    assert store <= set(conformance.STORE_STATUSES)
    requests = refusals(commitment_scp, "RefusedRequestError")
    requests |= refusals(mpps, "RefusedRequestError")
    assert len(requests) > 3
    assert requests <= set(conformance.REQUEST_STATUSES)


def test_a_missing_table_marker_is_an_error() -> None:
    with pytest.raises(KeyError, match="no marks for table"):
        conformance.replace_tables("nothing here", conformance.tables())
