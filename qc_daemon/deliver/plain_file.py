"""The content of one of our objects as a file that needs no DICOM viewer: a PDF or a PNG."""

from io import BytesIO

from pydicom import dcmread
from pydicom.uid import EncapsulatedPDFStorage, SecondaryCaptureImageStorage

from qc_daemon.deliver.transport import OutgoingObject


def plain_file(outgoing: OutgoingObject) -> tuple[str, bytes] | None:
    """Suffix and bytes of the plain file; None for an object without one, and for received objects.

    Only our own objects are read: they are small, and no stranger's.
    """
    if outgoing.payload is None:
        return None
    if outgoing.sop_class_uid == EncapsulatedPDFStorage:
        return ".pdf", _document(outgoing.payload)
    if outgoing.sop_class_uid == SecondaryCaptureImageStorage:
        return ".png", _picture(outgoing.payload)
    return None


def _document(payload: bytes) -> bytes:
    dataset = dcmread(BytesIO(payload))
    document: bytes = dataset.EncapsulatedDocument
    # Padded to an even length (PS3.5 8.2).
    return document[: dataset.EncapsulatedDocumentLength]


def _picture(payload: bytes) -> bytes:
    # Loaded only where a folder wants pictures.
    from PIL import Image

    dataset = dcmread(BytesIO(payload))
    out = BytesIO()
    size = (dataset.Columns, dataset.Rows)
    Image.frombytes("RGB", size, dataset.PixelData[: 3 * size[0] * size[1]]).save(out, "PNG")
    return out.getvalue()
