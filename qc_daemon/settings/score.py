"""The models (`[score]`)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from model.device import NAMES as DEVICE_NAMES
from model.device import is_device_name
from model.runtime.precision import Precision
from model.runtime.runtime import NAMES as RUNTIME_NAMES
from qc_daemon.settings.section import DAY_SECONDS, PartName, Section


def _runtime(value: str) -> str:
    if value not in RUNTIME_NAMES:
        raise ValueError(f"a runtime is {', '.join(RUNTIME_NAMES)}")
    return value


def _device(value: str) -> str:
    if not is_device_name(value):
        raise ValueError(f"a device is {DEVICE_NAMES}")
    return value


class ScoreSettings(Section):
    """The models and how frames reach them."""

    bundle: str = Field(
        default="default", description="a shipped bundle's name or a folder; seeds the active one"
    )
    backbone: PartName | None = Field(
        default=None,
        description="the CLIP of a bundle whose SpatialCLIP was stored without it: a part of the"
        " bundle by its name, or a part's folder (a path with a /); without, the bundle's own",
    )
    second_opinion: PartName | None = Field(
        default=None,
        description="a part that says what it takes each view for, as FetalCLIP by prompts; named"
        " as `backbone`. Where it stands for another view the verdict is review",
    )
    view_classifier: PartName | None = Field(
        default=None,
        description="another such part, as the dual-branch classifier; likewise",
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        default="auto", description=f"{DEVICE_NAMES}; auto: a GPU where there is one"
    )
    runtime: Annotated[str, AfterValidator(_runtime)] = Field(
        default="auto",
        description="what runs detector and image tower; auto: openvino, which is faster, on a CPU,"
        " else torch, the reference",
    )
    precision: Precision = Field(
        default="exact",
        description="fast: bfloat16 by openvino, on a CPU that computes in it, where the bundle"
        " records that verdicts agree (bundle bench --record); else nothing is scored, and doctor"
        " says why",
    )
    threads: int = Field(
        default=0, ge=0, le=1024, description="threads of the models; 0: one per core"
    )
    cine_frames: int = Field(
        default=16, ge=0, le=100_000, description="frames scored of a cine, evenly spread; 0: all"
    )
    augment: int = Field(
        default=0,
        ge=0,
        le=16,
        description="further looks at each region, averaged; n of them cost n times as much again",
    )
    site: str | None = Field(
        default=None,
        description="the site that all images are from; else each image's Institution Name",
    )
    site_calibration: Literal["propose", "auto", "off"] = Field(
        default="propose",
        description="fitted each night: propose waits for a person (site activate), auto activates"
        " it, off neither fits nor applies any",
    )
    decode_seconds: float = Field(
        default=120.0,
        gt=0,
        le=DAY_SECONDS,
        description="seconds that one object may take to decode",
    )
    decode_megabytes: int = Field(
        default=4096, ge=256, le=1_048_576, description="memory of the process that decodes"
    )
    max_pixels: int = Field(
        default=64_000_000, ge=1, le=2**31 - 1, description="rows x columns of one frame"
    )
