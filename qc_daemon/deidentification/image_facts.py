"""What of an image's header may stay: a closed list of numbers and codes, and no text.

PS3.15 Table E.1-1 names the attributes to remove; whatever it does not name would stay, as free
text of a standard attribute that nobody thought of. Here it is the other way round: everything is
removed but the elements below, none of which the table names. A number is read as a number and
written anew, a code stays only if it is one of the Standard's own.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import JPEGTransferSyntaxes

from detector.imaging.dicom_file import items, number, numbers, text, texts

REGION_ELEMENTS: Mapping[str, str] = {
    "RegionSpatialFormat": "US",
    "RegionDataType": "US",
    "RegionFlags": "UL",
    "RegionLocationMinX0": "UL",
    "RegionLocationMinY0": "UL",
    "RegionLocationMaxX1": "UL",
    "RegionLocationMaxY1": "UL",
    "ReferencePixelX0": "SL",
    "ReferencePixelY0": "SL",
    "PhysicalUnitsXDirection": "US",
    "PhysicalUnitsYDirection": "US",
    "ReferencePixelPhysicalValueX": "FD",
    "ReferencePixelPhysicalValueY": "FD",
    "PhysicalDeltaX": "FD",
    "PhysicalDeltaY": "FD",
}
"""Elements of an item of Sequence of Ultrasound Regions that stay, with their VR
(PS3.3 C.8.5.5)."""
OPTIONAL_REGION_ELEMENTS = frozenset(
    {
        *("ReferencePixelX0", "ReferencePixelY0"),
        *("ReferencePixelPhysicalValueX", "ReferencePixelPhysicalValueY"),
    }
)
"""Those that are not of type 1."""
LOSSY_METHODS = (
    *("ISO_10918_1", "ISO_14495_1", "ISO_15444_1", "ISO_15444_2", "ISO_15444_15", "ISO_18181_1"),
    *("ISO_13818_2", "ISO_14496_10", "ISO_23008_2"),
)
"""Defined terms of Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1)."""
_INTEGERS = {"US": (0, 2**16 - 1), "UL": (0, 2**32 - 1), "SL": (-(2**31), 2**31 - 1)}
_LOSSLESS_JPEG = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
_ALWAYS_LOSSY = frozenset(
    {
        *(str(uid) for uid in JPEGTransferSyntaxes if str(uid) not in _LOSSLESS_JPEG),
        # MPEG-2, MPEG-4 and HEVC (PS3.5 A.4.6 to A.4.9).
        *(f"1.2.840.10008.1.2.4.{last}" for last in range(100, 109)),
        *(f"1.2.840.10008.1.2.4.{last}.1" for last in range(100, 107)),
    }
)
_MOST_RATIO = 1000.0
_MOST_FRAME_TIME = 60_000.0


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """`regions`: an item of Sequence of Ultrasound Regions each, by keyword; None where one lacks
    what the Standard asks for. `is_lossy`, `lossy_ratios` and `lossy_methods`: how the pixels were
    compressed on their way here. `frame_time_ms` is a cine's time per frame."""

    regions: tuple[Mapping[str, float] | None, ...] = ()
    is_lossy: bool = False
    lossy_ratios: tuple[float, ...] = ()
    lossy_methods: tuple[str, ...] = ()
    frame_time_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """It as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "ImageFacts":
        """The inverse of `to_json`."""
        return cls(
            tuple(body["regions"]),
            body["is_lossy"],
            tuple(body["lossy_ratios"]),
            tuple(body["lossy_methods"]),
            body["frame_time_ms"],
        )


def read_image_facts(dataset: Dataset, transfer_syntax: str) -> ImageFacts:
    """The facts of a header whose pixels are encoded in this transfer syntax."""
    is_lossy = text(dataset, "LossyImageCompression") == "01" or transfer_syntax in _ALWAYS_LOSSY
    ratios = numbers(dataset, "LossyImageCompressionRatio")
    methods = texts(dataset, "LossyImageCompressionMethod")
    return ImageFacts(
        tuple(_region(item) for item in items(dataset, "SequenceOfUltrasoundRegions")),
        is_lossy,
        tuple(each for each in ratios if each is not None and 1 <= each <= _MOST_RATIO)
        if is_lossy
        else (),
        tuple(each for each in methods if each in LOSSY_METHODS) if is_lossy else (),
        _frame_time(dataset),
    )


def _region(item: Dataset) -> dict[str, float] | None:
    elements: dict[str, float] = {}
    for keyword, vr in REGION_ELEMENTS.items():
        value = number(item, keyword)
        if value is not None and vr in _INTEGERS:
            low, high = _INTEGERS[vr]
            value = int(value) if value.is_integer() and low <= value <= high else None
        if value is not None:
            elements[keyword] = value
        elif keyword not in OPTIONAL_REGION_ELEMENTS:
            return None
    return elements


def _frame_time(dataset: Dataset) -> float | None:
    """Milliseconds per frame, by Frame Time, the mean of Frame Time Vector, or the frame rate."""
    frame_time = number(dataset, "FrameTime")
    # The first value of the vector belongs to no interval (PS3.3 C.7.6.5.1.2).
    vector = [each for each in numbers(dataset, "FrameTimeVector")[1:] if each is not None]
    if not frame_time and vector:
        frame_time = sum(vector) / len(vector)
    rate = number(dataset, "CineRate") or number(dataset, "RecommendedDisplayFrameRate")
    if not frame_time and rate:
        frame_time = 1000 / rate
    return frame_time if frame_time and 0 < frame_time <= _MOST_FRAME_TIME else None
