"""Stored grey values to displayed ones: modality and VOI transforms (PS3.3 C.11.1, C.11.2).

All of these elements are optional, and scanners write empty ones: an element without a usable value
is skipped for the next one. In an enhanced multi-frame object a frame's own functional groups come
first, then the shared ones (C.7.6.16.2.9, C.7.6.16.2.10), then the data set itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from detector.imaging.dicom_file import element, integer, items, number, numbers, raw_bytes, text

Values = npt.NDArray[np.float64]
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True, slots=True, eq=False)
class LookupTable:
    """Output of each input from `first` on; inputs outside take the nearest entry's."""

    first: int
    entries: npt.NDArray[np.uint16]
    bits: int

    def __call__(self, values: Values) -> Values:
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        output: Values = self.entries[index].astype(np.float64)
        return output

    @property
    def maximum(self) -> int:
        """The output shown as white; entries beyond their stated depth widen it."""
        return max(int(2**self.bits) - 1, int(self.entries.max()))


@dataclass(frozen=True, slots=True)
class Window:
    """Centre, width and VOI LUT Function (C.11.2.1.2, C.11.2.1.3)."""

    centre: float
    width: float
    function: str = "LINEAR"

    def __call__(self, values: Values) -> Values:
        """0..1, and beyond where `values` lie outside."""
        if self.function == "SIGMOID":
            return np.asarray(1 / (1 + np.exp(-4 * (values - self.centre) / self.width)))
        if self.function == "LINEAR":
            return (values - (self.centre - 0.5)) / (self.width - 1) + 0.5
        return (values - self.centre) / self.width + 0.5


@dataclass(frozen=True, slots=True)
class Display:
    """The transforms of one frame; each None where nothing states it."""

    modality: LookupTable | tuple[float, float] | None = None
    """A table, or slope and intercept."""
    voi: LookupTable | Window | None = None

    def grey(self, stored: npt.NDArray[np.generic], with_voi: bool = True) -> npt.NDArray[np.uint8]:
        """Stored values to 0..255, of the same shape; without VOI from least to greatest."""
        values = stored.astype(np.float64)
        if isinstance(self.modality, LookupTable):
            values = self.modality(values)
        elif self.modality is not None:
            slope, intercept = self.modality
            values = values * slope + intercept
        if with_voi and isinstance(self.voi, LookupTable):
            unit = self.voi(values) / self.voi.maximum
        elif with_voi and self.voi is not None:
            unit = self.voi(values)
        else:
            low, high = float(values.min()), float(values.max())
            unit = (values - low) / (high - low) if high > low else np.zeros_like(values)
        grey: npt.NDArray[np.uint8] = np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)
        return grey


class Displays:
    """The display of each frame of an object."""

    def __init__(self, dataset: Dataset, little_endian: bool) -> None:
        self._dataset = dataset
        self._little_endian = little_endian
        self._shared = items(dataset, "SharedFunctionalGroupsSequence")[:1]
        self._per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
        self._common = None if self._per_frame else self._display([])

    def of_frame(self, number: int) -> Display:
        """The display of frame `number`, from 1."""
        if self._common is not None:
            return self._common
        return self._display(self._per_frame[number - 1 : number])

    def _display(self, frame_groups: Sequence[Dataset]) -> Display:
        groups = [*frame_groups, *self._shared]
        modality = [
            item for group in groups for item in items(group, "PixelValueTransformationSequence")
        ]
        voi = [item for group in groups for item in items(group, "FrameVOILUTSequence")]
        modalities = (self._modality(item) for item in [*modality, self._dataset])
        vois = (self._voi(item) for item in [*voi, self._dataset])
        return Display(
            next((each for each in modalities if each is not None), None),
            next((each for each in vois if each is not None), None),
        )

    def _modality(self, group: Dataset) -> LookupTable | tuple[float, float] | None:
        table = self._table(group, "ModalityLUTSequence")
        if table is not None:
            return table
        slope, intercept = number(group, "RescaleSlope"), number(group, "RescaleIntercept")
        # A slope of 0 would make every picture flat: it says nothing.
        if slope == 0 or (slope is None and intercept is None):
            return None
        return (1.0 if slope is None else slope), intercept or 0.0

    def _voi(self, group: Dataset) -> LookupTable | Window | None:
        table = self._table(group, "VOILUTSequence")
        if table is not None:
            return table
        function = (text(group, "VOILUTFunction") or "").upper()
        function = function if function in _FUNCTIONS else "LINEAR"
        # The width of a linear window counts one value less than it spans (C.11.2.1.2.1).
        least = 1.0 if function == "LINEAR" else 0.0
        for centre, width in zip(
            numbers(group, "WindowCenter"), numbers(group, "WindowWidth"), strict=False
        ):
            if centre is not None and width is not None and width > least:
                return Window(centre, width, function)
        return None

    def _table(self, group: Dataset, keyword: str) -> LookupTable | None:
        """The first item that holds a table of more than one value."""
        for item in items(group, keyword):
            descriptor = _words(item, "LUTDescriptor", self._little_endian)
            if descriptor is None or len(descriptor) != 3:
                continue
            # 0 entries stands for 2^16, which 16 bits cannot say.
            count, first, bits = int(descriptor[0]) or 2**16, int(descriptor[1]), int(descriptor[2])
            entries = self._entries(item, count)
            if entries is None or not 1 <= bits <= 16 or entries.min() == entries.max():
                continue
            if integer(self._dataset, "PixelRepresentation") == 1 and first >= 2**15:
                first -= 2**16
            return LookupTable(first, entries, bits)
        return None

    def _entries(self, item: Dataset, count: int) -> npt.NDArray[np.uint16] | None:
        data = raw_bytes(item, "LUTData")
        if data is not None and count <= len(data) < 2 * count:
            # Eight-bit entries, packed by two into words.
            if not self._little_endian:
                data = np.frombuffer(data[: len(data) // 2 * 2], np.uint16).byteswap().tobytes()
            return np.frombuffer(data, np.uint8)[:count].astype(np.uint16)
        words = _words(item, "LUTData", self._little_endian)
        return None if words is None or len(words) < count else words[:count]


def _words(item: Dataset, keyword: str, little_endian: bool) -> npt.NDArray[np.uint16] | None:
    """The 16-bit values of an element that may be US, SS or OW; None when absent or empty."""
    data = raw_bytes(item, keyword)
    if data is not None:
        even = data[: len(data) // 2 * 2]
        words = np.frombuffer(even, "<u2" if little_endian else ">u2").astype(np.uint16)
        return words if len(words) else None
    value = element(item, keyword)
    if value is None or isinstance(value, str):
        return None
    try:
        return np.atleast_1d(np.asarray(value, np.int64)).astype(np.uint16)
    except (TypeError, ValueError):
        return None
