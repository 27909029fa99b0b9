"""Precision fast: which CPUs and which records of a bundle allow it, and what refuses it."""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from model.bundle.bundle import Bundle, locate, verify
from model.bundle.extend import add_record
from model.runtime import precision as precisions
from model.runtime.precision import (
    AMX,
    AVX512,
    KEY,
    MIN_PICTURES,
    PrecisionRecord,
    bfloat16_flag,
    fast_networks,
    is_fast_allowed,
    records_of,
)
from model.runtime.runtime import choose_runtime

RECORD = PrecisionRecord(
    runtime="openvino",
    version="2026.4",
    precision="bfloat16",
    parts=("SonoNet",),
    cpu_flag=AVX512,
    pictures=1500,
    simulated=500,
    probability_change_p95=0.01,
    probability_change_max=0.2,
    verdict_changes=3,
    view_changes=0,
)
WIDER = replace(RECORD, parts=("detector", "image tower"))


@pytest.fixture(autouse=True)
def release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "version", lambda name: "2026.4.1")


def manifest_of(*records: PrecisionRecord) -> dict[str, Any]:
    return {KEY: [each.to_json() for each in records]}


def test_a_record_is_read_as_it_was_written() -> None:
    assert records_of(manifest_of(RECORD, WIDER)) == (RECORD, WIDER)
    assert records_of({}) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"parts": []},
        {"parts": ["describer"]},
        {"pictures": -1},
        {"probability_change_p95": float("nan")},
        {"probability_change_max": 1.5},
        {"verdict_changes": "many"},
        {"version": None, "pictures": None},
        {"simulated": 1501},
        {"view_changes": 4},
    ],
)
def test_what_is_no_record_is_refused(change: dict[str, Any]) -> None:
    manifest = {KEY: [RECORD.to_json() | change]}
    with pytest.raises((KeyError, TypeError, ValueError)):
        records_of(manifest)
    with pytest.raises(QCError, match="are unusable"):
        fast_networks(manifest, AVX512)
    assert not is_fast_allowed(manifest)


@pytest.mark.parametrize("records", [{}, "none", [3], [{}]])
def test_records_of_another_kind_are_refused(records: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        records_of({KEY: records})


def test_the_widest_usable_record_counts() -> None:
    assert fast_networks(manifest_of(RECORD), AVX512) == ("SonoNet",)
    assert fast_networks(manifest_of(RECORD, WIDER), AVX512) == WIDER.parts
    bad = replace(WIDER, verdict_changes=4)
    assert fast_networks(manifest_of(RECORD, bad), AVX512) == ("SonoNet",)


@pytest.mark.parametrize(
    ("records", "flag", "words"),
    [
        ((RECORD,), None, "this CPU has neither amx_bf16 nor avx512_bf16"),
        ((), AVX512, "does not record that verdicts agree"),
        ((RECORD,), AMX, "on a CPU with amx_bf16, only with avx512_bf16"),
        ((replace(RECORD, runtime="other"),), AVX512, "does not record that verdicts agree"),
        ((replace(RECORD, precision="int8"),), AVX512, "does not record that verdicts agree"),
        ((replace(RECORD, version="2026.3.9"),), AVX512, "of openvino 2026.3, and 2026.4 is"),
        (
            (replace(RECORD, verdict_changes=4),),
            AVX512,
            "4 verdicts change, 0 with their view, for 1000 pictures",
        ),
        ((replace(RECORD, probability_change_p95=0.02),), AVX512, "changes by 0.0200"),
        (
            (replace(RECORD, pictures=500 + MIN_PICTURES - 1, verdict_changes=0),),
            AVX512,
            "299 pictures of scanners were compared, 300 are needed",
        ),
    ],
)
def test_each_refusal_is_one_line_with_its_reason(
    records: tuple[PrecisionRecord, ...], flag: str | None, words: str
) -> None:
    with pytest.raises(QCError, match=words) as caught:
        fast_networks(manifest_of(*records), flag)
    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE
    assert "score.precision" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_release_of_openvino_needs_its_own_record(monkeypatch: pytest.MonkeyPatch) -> None:
    later = replace(WIDER, version="2026.10.0")
    manifest = manifest_of(RECORD, later)
    assert fast_networks(manifest, AVX512) == RECORD.parts
    monkeypatch.setattr(precisions, "version", lambda name: "2026.10.2")
    assert fast_networks(manifest, AVX512) == later.parts

    def lacks(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(precisions, "version", lacks)
    with pytest.raises(QCError, match="and none is installed"):
        fast_networks(manifest, AVX512)


@pytest.mark.parametrize(
    ("flags", "bound", "flag"),
    [
        ("fpu avx512_bf16", "", AVX512),
        ("fpu amx_bf16 avx512_bf16", "", AMX),
        ("fpu amx_bf16 avx512_bf16", "ALL", AMX),
        ("fpu amx_bf16 avx512_bf16", "avx512_core_bf16", AVX512),
        ("fpu amx_bf16 avx512_bf16", "AVX512_CORE_AMX", AMX),
        ("fpu amx_bf16 avx512_bf16", "AVX2", None),
        ("fpu amx_bf16 avx512_bf16", "SSE41", None),
        ("fpu avx2", "", None),
        (None, "", None),
    ],
)
def test_the_cpu_says_what_it_computes_in(
    flags: str | None, bound: str, flag: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t: x\n")
    read: Callable[[Path], frozenset[str]] = precisions._cpu_flags
    monkeypatch.setattr(precisions, "_cpu_flags", lambda: read(cpuinfo))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", bound)
    assert bfloat16_flag() == flag


def test_fast_needs_openvino_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.runtime.runtime.bfloat16_flag", lambda: AVX512)
    manifest = manifest_of(RECORD)
    cpu, gpu = torch.device("cpu"), torch.device("cuda:0")
    for name in ("auto", "openvino"):
        runtime = choose_runtime(name, cpu, precision="fast", manifest=manifest)
        assert not runtime.is_exact
        assert runtime.facts.endswith("float32, SonoNet bfloat16")
        assert choose_runtime(name, cpu, precision="exact", manifest=manifest).is_exact
    for name, device in (("torch", cpu), ("auto", gpu)):
        with pytest.raises(QCError, match="by openvino on a CPU; here torch runs on"):
            choose_runtime(name, device, precision="fast", manifest=manifest)
    with pytest.raises(UsageError, match="give exact, fast"):
        choose_runtime("auto", cpu, precision="quick")


def test_a_bundle_gets_its_record(tmp_path: Path) -> None:
    mine = add_record(locate("default"), RECORD, tmp_path / "mine", name=None, version=None)
    default = Bundle.open("default")
    assert (mine.id.name, mine.id.version) == ("default", f"{default.id.version}+fast")
    assert mine.model_id != default.model_id
    assert records_of(mine.manifest) == (RECORD,)
    assert verify(mine.path) == []
    later = replace(WIDER, pictures=2000)
    again = add_record(mine.path, later, tmp_path / "again", name="own", version=None)
    assert (again.id.name, again.id.version) == ("own", mine.id.version)
    assert records_of(again.manifest) == (later,)
    elsewhere = replace(RECORD, cpu_flag=AMX)
    both = add_record(again.path, elsewhere, tmp_path / "both", name=None, version=None)
    assert records_of(both.manifest) == (later, elsewhere)
    with pytest.raises(QCError, match="exists"):
        add_record(mine.path, later, again.path, name=None, version=None)
