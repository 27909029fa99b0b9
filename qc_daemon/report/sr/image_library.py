"""The image library of a report (PS3.16, TID 1600): each source once, with its descriptors."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import highdicom.sr as hd

from detector.boxes import Box
from detector.plain_text import decimals
from model.finding import Finding
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr import codes
from qc_daemon.report.sr.groups import set_decimal

_ACQUISITION = hd.RelationshipTypeValues.HAS_ACQ_CONTEXT
_CONTAINS = hd.RelationshipTypeValues.CONTAINS


def build_image_library(
    sources: Sequence[SourceInstance], findings: Iterable[Finding]
) -> hd.ContainerContentItem:
    """One group (TID 1600 row 2) of entries (TID 1601), with the regions that were judged.

    highdicom's own template knows no retired classes.
    """
    container = hd.ContainerContentItem(codes.IMAGE_LIBRARY, relationship_type=_CONTAINS)
    group = hd.ContainerContentItem(codes.IMAGE_LIBRARY_GROUP, relationship_type=_CONTAINS)
    regions: dict[str, dict[int, Box]] = {}
    for finding in findings:
        judged = regions.setdefault(finding.sop_instance_uid or "", {})
        judged.setdefault(finding.judgement.region_index, finding.judgement.region_bbox)
    group.ContentSequence = hd.ContentSequence(
        _entry(source, regions.get(source.sop_instance_uid, {})) for source in sources
    )
    container.ContentSequence = hd.ContentSequence([group])
    return container


def _entry(source: SourceInstance, regions: Mapping[int, Box]) -> hd.ImageContentItem:
    entry = hd.ImageContentItem(
        codes.LIBRARY_ENTRY,
        referenced_sop_class_uid=source.sop_class_uid,
        referenced_sop_instance_uid=source.sop_instance_uid,
        relationship_type=_CONTAINS,
    )
    descriptors = hd.ContentSequence([*_descriptors(source), *_regions(regions)])
    if descriptors:
        entry.ContentSequence = descriptors
    return entry


def _descriptors(source: SourceInstance) -> Iterator[hd.ContentItem]:
    """TID 1602, as far as the header says."""
    if source.header.get("Modality") == codes.ULTRASOUND.value:
        yield hd.CodeContentItem(codes.MODALITY, codes.ULTRASOUND, _ACQUISITION)
    for name, keyword in ((codes.ROWS, "Rows"), (codes.COLUMNS, "Columns")):
        if keyword in source.header:
            count = int(source.header[keyword].value)
            yield hd.NumContentItem(name, count, codes.PIXELS, None, _ACQUISITION)
    frames = source.header.get("NumberOfFrames")
    if frames is not None or not source.is_multi_frame:
        count = int(frames or 1)
        yield hd.NumContentItem(codes.FRAMES, count, codes.NO_UNIT, None, _ACQUISITION)


def _regions(regions: Mapping[int, Box]) -> Iterator[hd.ContentItem]:
    """Each ultrasound region by its index, then its edges."""
    for index, box in sorted(regions.items()):
        yield hd.NumContentItem(codes.REGION, index, codes.NO_UNIT, None, _ACQUISITION)
        for name, edge in zip(codes.REGION_BOX, box, strict=True):
            item = hd.NumContentItem(name, float(edge), codes.PIXELS, None, _ACQUISITION)
            yield set_decimal(item, decimals(float(edge)))
