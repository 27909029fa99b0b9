"""The image library of a report (PS3.16, TID 1600): each source once, with what it is."""

from collections.abc import Iterator, Sequence

import highdicom.sr as hd

from qc_daemon.report import codes
from qc_daemon.report.source import Source

_ACQUISITION = hd.RelationshipTypeValues.HAS_ACQ_CONTEXT
_CONTAINS = hd.RelationshipTypeValues.CONTAINS


def library(sources: Sequence[Source]) -> hd.ContainerContentItem:
    """One group (TID 1600 row 2) of entries (TID 1601).

    highdicom's own template knows no retired classes.
    """
    container = hd.ContainerContentItem(codes.IMAGE_LIBRARY, relationship_type=_CONTAINS)
    group = hd.ContainerContentItem(codes.IMAGE_LIBRARY_GROUP, relationship_type=_CONTAINS)
    group.ContentSequence = hd.ContentSequence(_entry(source) for source in sources)
    container.ContentSequence = hd.ContentSequence([group])
    return container


def _entry(source: Source) -> hd.ImageContentItem:
    entry = hd.ImageContentItem(
        codes.LIBRARY_ENTRY,
        referenced_sop_class_uid=source.sop_class_uid,
        referenced_sop_instance_uid=source.sop_instance_uid,
        relationship_type=_CONTAINS,
    )
    descriptors = hd.ContentSequence(_descriptors(source))
    if descriptors:
        entry.ContentSequence = descriptors
    return entry


def _descriptors(source: Source) -> Iterator[hd.ContentItem]:
    """TID 1602, as far as the header says."""
    if source.header.get("Modality") == codes.ULTRASOUND.value:
        yield hd.CodeContentItem(codes.MODALITY, codes.ULTRASOUND, _ACQUISITION)
    for name, keyword in ((codes.ROWS, "Rows"), (codes.COLUMNS, "Columns")):
        if keyword in source.header:
            count = int(source.header[keyword].value)
            yield hd.NumContentItem(name, count, codes.PIXELS, None, _ACQUISITION)
