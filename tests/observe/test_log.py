"""Logs: JSON, UTC, and no way in for patient data."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from qc_daemon.observe import log

CANARY = "CANARY^NAME"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    out = io.StringIO()
    log.configure("debug", out)
    yield out
    log.configure("critical")


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_is_json_in_utc(stream: io.StringIO) -> None:
    log.get(role="receive").info("object stored", bytes=7, sop_instance="1.2.3")
    (line,) = lines(stream)
    assert line["event"] == "object stored"
    assert (line["role"], line["bytes"], line["level"]) == ("receive", 7, "info")
    assert line["timestamp"].endswith(("Z", "+00:00"))


@pytest.mark.parametrize(
    "key", ["patient_name", "patient_id", "PatientName", "accession", "birth_date", "text", "name"]
)
def test_key_that_is_not_allowed_is_dropped(stream: io.StringIO, key: str) -> None:
    log.get().info("object stored", **{key: CANARY})
    (line,) = lines(stream)
    assert CANARY not in stream.getvalue()
    assert line["dropped"] == [key]


def test_bound_and_context_values_are_dropped_too(stream: io.StringIO) -> None:
    import structlog

    with structlog.contextvars.bound_contextvars(patient=CANARY):
        log.get(operator=CANARY).info("object stored")
    assert CANARY not in stream.getvalue()


def test_an_event_composed_from_values_has_no_text_in_the_log(stream: io.StringIO) -> None:
    log.get().info(f"stored object of {CANARY}")
    assert CANARY not in stream.getvalue()
    assert lines(stream)[0]["event"] == "event withheld"


def test_value_that_is_no_scalar_is_logged_as_its_type(stream: io.StringIO) -> None:
    log.get().info("object stored", reason={"PatientName": CANARY}, path=[CANARY])
    assert CANARY not in stream.getvalue()
    assert lines(stream)[0]["reason"] == "dict"


def test_exception_texts_do_not_reach_the_log(stream: io.StringIO) -> None:
    try:
        raise ValueError(CANARY)
    except ValueError as error:
        log.get().exception("object not taken", error_at=log.where(error))
    assert CANARY not in stream.getvalue()
    assert lines(stream)[0]["error_at"].startswith("test_log.py:")


def test_a_value_cannot_forge_a_line(stream: io.StringIO) -> None:
    log.get().info("caller refused", calling_ae='X\n{"event": "forged"}')
    assert len(lines(stream)) == 1


def test_level_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QC_LOG", "warning")
    out = io.StringIO()
    log.configure(stream=out)
    log.get().info("not told")
    log.get().warning("told")
    log.configure("critical")
    assert [line["event"] for line in lines(out)] == ["told"]


def test_libraries_warnings_and_crashes_are_quiet() -> None:
    program = f"""
import logging, threading, warnings
from qc_daemon.observe import log
log.configure(); log.quiet_libraries(); log.quiet_crashes()
logging.getLogger("pynetdicom.dul").error("{CANARY}")
logging.getLogger("pydicom").warning("{CANARY}")
warnings.warn("{CANARY}")
def fail(): raise ValueError("{CANARY}")
thread = threading.Thread(target=fail); thread.start(); thread.join()
fail()
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert run.returncode == 1
    assert CANARY.encode() not in run.stdout + run.stderr
    crashes = [json.loads(line) for line in run.stderr.splitlines()]
    assert [each["error_type"] for each in crashes] == ["ValueError", "ValueError"]
