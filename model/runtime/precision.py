"""In what precision the networks run: exact, or fast where verdicts were shown to agree.

Fast is bfloat16, which has float32's range and 8 bits of precision. It changes what a network says,
so a bundle's manifest must record that its verdicts stay, measured on a CPU that computes alike.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from detector.console import UsageError
from detector.errors import ErrorCode, QCError

Precision = Literal["exact", "fast"]
EXACT: Precision = "exact"
FAST: Precision = "fast"
PRECISIONS = (EXACT, FAST)
OPENVINO, BFLOAT16 = "openvino", "bfloat16"
KEY = "precision_records"
"""The manifest's key: a list of `PrecisionRecord`s, absent from a bundle that has none."""

NO_RECORD = "the bundle does not record that verdicts agree in precision fast"

DETECTOR, IMAGE_TOWER, SONONET = "detector", "image tower", "SonoNet"
NETWORKS = (DETECTOR, IMAGE_TOWER, SONONET)
"""The networks that a runtime may compute in another precision: the whole image tower, or of its
networks SonoNet alone."""

MIN_PICTURES = 300  # Of scanners: simulated ones do not count.
MAX_PROBABILITY_CHANGE = 0.01  # Of P(standard), at the 95th percentile of pictures of scanners.
MAX_VERDICT_CHANGES = 0.003  # Per picture of a scanner.

AMX, AVX512 = "amx_bf16", "avx512_bf16"
"""CPU flags, as the kernel names them, of those that compute in bfloat16."""
# Values of ONEDNN_MAX_CPU_ISA, which bounds the instructions that OpenVINO takes too.
_UNBOUNDED = ("", "ALL", "DEFAULT")
_WITH_AVX512 = ("BF16", "FP16", "AVX10", "AMX")


@dataclass(frozen=True, slots=True)
class PrecisionRecord:
    """What judging in another precision changed, measured against float32 by torch.

    `parts` are those of NETWORKS that ran in `precision`; `cpu_flag` names the instructions that
    they ran by. `simulated` of the `pictures` are no scanner's. Changes of P(standard) are
    absolute: their 95th percentile in pictures of scanners, and the largest in any; 1 where only
    one of two judgements has a probability. A verdict changes with its view too; `view_changes`
    counts those.
    """

    runtime: str
    version: str
    precision: str
    parts: tuple[str, ...]
    cpu_flag: str
    pictures: int
    simulated: int
    probability_change_p95: float
    probability_change_max: float
    verdict_changes: int
    view_changes: int

    @property
    def subject(self) -> tuple[object, ...]:
        """What it is about: a later record of the same replaces it, whatever parts that is of."""
        return self.runtime, self.precision, self.cpu_flag

    @property
    def real(self) -> int:
        """How many pictures are of scanners."""
        return self.pictures - self.simulated

    @property
    def shortcoming(self) -> str | None:
        """Why it does not show that verdicts agree; None where it does."""
        if self.real < MIN_PICTURES:
            return f"{self.real} pictures of scanners were compared, {MIN_PICTURES} are needed"
        # One of a simulated picture counts, though such pictures do not make others rarer.
        if self.verdict_changes > MAX_VERDICT_CHANGES * self.real:
            return (
                f"{self.verdict_changes} verdicts change, {self.view_changes} with their view, for"
                f" {self.real} pictures of scanners; at most {MAX_VERDICT_CHANGES:.1%} may"
            )
        if self.probability_change_p95 > MAX_PROBABILITY_CHANGE:
            return (
                f"P(standard) changes by {self.probability_change_p95:.4f} at the 95th percentile,"
                f" at most {MAX_PROBABILITY_CHANGE} may be"
            )
        return None

    def to_json(self) -> dict[str, Any]:
        """One of the manifest's records."""
        return asdict(self) | {"parts": list(self.parts)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PrecisionRecord":
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on what is none."""
        parts = tuple(data["parts"])
        if not parts or not set(parts) <= set(NETWORKS):
            raise ValueError(f"parts are some of {', '.join(NETWORKS)}")
        record = cls(
            runtime=str(data["runtime"]),
            version=str(data["version"]),
            precision=str(data["precision"]),
            parts=parts,
            cpu_flag=str(data["cpu_flag"]),
            pictures=int(data["pictures"]),
            simulated=int(data["simulated"]),
            probability_change_p95=float(data["probability_change_p95"]),
            probability_change_max=float(data["probability_change_max"]),
            verdict_changes=int(data["verdict_changes"]),
            view_changes=int(data["view_changes"]),
        )
        counts = (record.pictures, record.simulated, record.verdict_changes, record.view_changes)
        changes = (record.probability_change_p95, record.probability_change_max)
        if min(counts) < 0 or not all(0 <= change <= 1 for change in changes):
            raise ValueError("a count is negative, or a change of a probability outside 0..1")
        if record.simulated > record.pictures or record.view_changes > record.verdict_changes:
            raise ValueError("more pictures are simulated, or more views change, than there are")
        return record


def check_precision(name: str) -> Precision:
    """The precision of this name. Raises UsageError for a name that is none."""
    for each in PRECISIONS:
        if name == each:
            return each
    raise UsageError(f"there is no precision {name[:40]}; give {', '.join(PRECISIONS)}")


def records_of(manifest: Mapping[str, Any]) -> tuple[PrecisionRecord, ...]:
    """The records of a bundle's manifest. Raises KeyError, TypeError or ValueError."""
    records = manifest.get(KEY, [])
    if not isinstance(records, list):
        raise TypeError("records are a list")
    return tuple(map(PrecisionRecord.from_json, records))


def bfloat16_flag() -> str | None:
    """The flag of the best instructions of this CPU for bfloat16; None where it has none."""
    bound = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    flags = _cpu_flags()
    if AMX in flags and (bound in _UNBOUNDED or "AMX" in bound):
        return AMX
    if AVX512 in flags and (bound in _UNBOUNDED or any(name in bound for name in _WITH_AVX512)):
        return AVX512
    return None


def has_avx2() -> bool:
    """Whether the CPU has AVX2, without which OpenVINO 2026.4 cannot run the detector; true of CPUs
    other than x86."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX"):
        return False
    flags = _cpu_flags()
    return not flags or "avx2" in flags


def fast_networks(manifest: Mapping[str, Any], cpu_flag: str | None) -> tuple[str, ...]:
    """The parts that openvino may compute in bfloat16, by the manifest's records for CPUs of this
    flag and the release of openvino that is installed.

    Raises QCError DEVICE_UNAVAILABLE where there is none, or the CPU does not compute in it.
    """
    if cpu_flag is None:
        raise no_bfloat16()
    of_precision = _records_of_fast(manifest)
    fitting = [each for each in of_precision if each.cpu_flag == cpu_flag]
    if not fitting:
        others = ", ".join(sorted({each.cpu_flag for each in of_precision}))
        raise unavailable(
            NO_RECORD
            + (f" on a CPU with {cpu_flag}, only with {others}" if others else "")
            + " (bundle bench --record)"
        )
    installed = openvino_release()
    of_release = [each for each in fitting if release_of(each.version) == installed]
    if not of_release:
        others = ", ".join(sorted({release_of(each.version) for each in fitting}))
        raise unavailable(
            f"the bundle's record is of openvino {others}, and {installed or 'none'} is installed"
            " (bundle bench --record)"
        )
    fitting = of_release
    usable = [each for each in fitting if each.shortcoming is None]
    if not usable:
        raise unavailable(f"the bundle's record refuses precision fast: {fitting[0].shortcoming}")
    return max(usable, key=lambda each: len(each.parts)).parts


def openvino_release() -> str:
    """The release of openvino that is installed; empty where none is."""
    try:
        return release_of(version(OPENVINO))
    except PackageNotFoundError:
        return ""


def release_of(full_version: str) -> str:
    """Major and minor number of a version, with which its arithmetic may change."""
    return ".".join(full_version.split(".")[:2])


def check_record(manifest: Mapping[str, Any]) -> None:
    """Raises QCError DEVICE_UNAVAILABLE where no record allows precision fast, by any CPU and
    release of openvino."""
    records = _records_of_fast(manifest)
    if not records:
        raise unavailable(f"{NO_RECORD} (bundle bench --record)")
    if all(each.shortcoming is not None for each in records):
        raise unavailable(f"the bundle's record refuses precision fast: {records[0].shortcoming}")


def _records_of_fast(manifest: Mapping[str, Any]) -> list[PrecisionRecord]:
    try:
        records = records_of(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise unavailable(f"the bundle's {KEY} are unusable ({error})") from error
    return [each for each in records if (each.runtime, each.precision) == (OPENVINO, BFLOAT16)]


def is_fast_allowed(manifest: Mapping[str, Any]) -> bool:
    """Whether `fast_networks` gives some on this CPU."""
    try:
        return bool(fast_networks(manifest, bfloat16_flag()))
    except QCError:
        return False


def no_bfloat16() -> QCError:
    """The error of a CPU that does not compute in bfloat16."""
    return unavailable(f"precision fast is {BFLOAT16}, and this CPU has neither {AMX} nor {AVX512}")


def unavailable(problem: str) -> QCError:
    """The error of a precision that cannot be had."""
    return QCError(
        ErrorCode.DEVICE_UNAVAILABLE,
        f"{problem}; set the precision (score.precision, --precision) to {EXACT}",
    )


def _cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The flags of the first CPU (proc_cpuinfo(5)); none where the system does not tell them."""
    try:
        lines: Iterable[str] = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(flags, "").split())
