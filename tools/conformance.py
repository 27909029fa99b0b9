"""The tables of the DICOM conformance statement, made from the code they are about.

`python -m tools.conformance` writes them into docs/conformance.md, each between its two marks,
and those about destinations into docs/delivery.md.
"""

import codecs
import re
import ssl
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydicom.datadict import dictionary_description
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)

from detector.errors import ErrorCode
from qc_daemon.deliver.outcome import HTTP, STORE, Meaning
from qc_daemon.dicom import acquisition, associate_pdu, status
from qc_daemon.dicom.character_set import DEFINED_TERMS
from qc_daemon.dicom.data_set_size import MAX_BYTES, MAX_ELEMENTS, MAX_ITEMS
from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.dicom.storage_commitment import PUSH_MODEL
from qc_daemon.dicom.tls import CIPHERS, MINIMUM_VERSIONS
from qc_daemon.receive import presentation_contexts, receiver
from qc_daemon.receive.mpps import MPPS
from qc_daemon.report.sr import codes
from qc_daemon.retain import retrieve
from qc_daemon.score import obgyn_report
from qc_daemon.settings import ReceiveSettings

STATEMENT = Path(__file__).parent.parent / "docs" / "conformance.md"
DELIVERY = STATEMENT.with_name("delivery.md")

STORE_STATUSES = {
    status.SUCCESS: "the object is on the disk and in the database; also for the same bytes again",
    status.PROCESSING_FAILURE: "a fault of ours; the sender may try again",
    status.OUT_OF_RESOURCES: "disk full or not to be written, database away, or the hard mark of"
    " back-pressure passed; the sender keeps the object and tries again",
    status.DATA_SET_MISMATCH: "SOP Class or Instance UID of the data set differ from the command's",
    status.CANNOT_UNDERSTAND: "no data set, or bytes that are none in the negotiated transfer"
    " syntax as far as Series Instance UID",
}
REQUEST_STATUSES = {
    status.SUCCESS: "done",
    status.INVALID_ATTRIBUTE_VALUE: "MPPS: attributes cannot be read, a status that is none, or"
    " N-CREATE with another status than IN PROGRESS",
    status.PROCESSING_FAILURE: "database away; MPPS: the step is final (Error ID A506H)",
    status.DUPLICATE_SOP_INSTANCE: "MPPS N-CREATE: the step is known already",
    status.NO_SUCH_SOP_INSTANCE: "MPPS N-SET: no such step; N-ACTION and N-EVENT-REPORT: not the"
    " well-known instance",
    status.NO_SUCH_EVENT_TYPE: "N-EVENT-REPORT: another Event Type than 1 and 2",
    status.INVALID_ARGUMENT_VALUE: "N-ACTION: Action Information without Transaction UID or"
    " Referenced SOP Sequence, or unreadable; N-EVENT-REPORT: unreadable, or not a transaction that"
    " we asked of this caller",
    status.INVALID_OBJECT_INSTANCE: "MPPS N-CREATE: no Affected SOP Instance UID",
    status.MISSING_ATTRIBUTE: "MPPS N-CREATE: no status or no Scheduled Step Attributes Sequence",
    status.MISSING_ATTRIBUTE_VALUE: "MPPS N-CREATE: no Study Instance UID",
    status.NO_SUCH_ACTION: "N-ACTION: another Action Type than 1",
    status.NOT_AUTHORISED: "the caller is no peer; as a destination it may report and verify only",
    status.SOP_CLASS_NOT_SUPPORTED: "the SOP class is not the one that the presentation"
    " context was accepted for (every service), or not one of the service",
    status.UNRECOGNISED_OPERATION: "a service that we do not offer",
    status.MISTYPED_ARGUMENT: "no SOP Class UID, no SOP Instance UID, or another parameter lacks",
    status.RESOURCE_LIMITATION: f"a data set longer than {MAX_BYTES >> 20} MiB, with more"
    f" than {MAX_ELEMENTS} elements or {MAX_ITEMS} items, or too much of others is held already",
}
REJECTIONS = {
    associate_pdu.CALLING_NOT_RECOGNISED: "unknown caller: AE title, address or certificate, or a"
    " blank title (listed for `qc-daemon peer approve`)",
    associate_pdu.TEMPORARY_CONGESTION: "back-pressure, or the approved peers cannot be read now",
    associate_pdu.LOCAL_LIMIT_EXCEEDED: "no place left, in all or for this AE title",
    associate_pdu.CALLED_NOT_RECOGNISED: "the called AE title is not ours (listed by"
    " `qc-daemon peer list`)",
    associate_pdu.CONTEXT_NAME_NOT_SUPPORTED: "another Application Context Name than DICOM's",
    associate_pdu.PROTOCOL_NOT_SUPPORTED: "bit 0 of the Protocol Version is not set",
}
COMMITMENT_FAILURES = {
    status.PROCESSING_FAILURE: "the bytes on the disk are not those that were received",
    status.NO_SUCH_SOP_INSTANCE: "no such object here",
    status.CLASS_INSTANCE_CONFLICT: "the object is of another SOP class",
}
MEASUREMENTS = {
    obgyn_report.CRL: "mm",
    obgyn_report.NT: "mm",
    obgyn_report.GA: "d",
}


def tables() -> dict[str, str]:
    """Every table, by the name its marks carry."""
    return {
        "services": _services(),
        "storage": _uids(presentation_contexts.SOP_CLASSES),
        "transfer-syntaxes": _uids(presentation_contexts.transfer_syntaxes()),
        "association": _association(),
        "rejections": _table(
            ("result", "source", "reason", "when"),
            ([*map(str, answer), when] for answer, when in REJECTIONS.items()),
        ),
        "store-statuses": _statuses(STORE_STATUSES),
        "request-statuses": _statuses(REQUEST_STATUSES),
        "commitment-failures": _statuses(COMMITMENT_FAILURES),
        "outcomes": _outcomes(STORE),
        "measurements": _measurements(),
        "acquisition": _table(("tag", "attribute"), map(_attribute, acquisition.KEYWORDS)),
        "character-sets": _character_sets(),
        "cipher-suites": _cipher_suites(),
        "reasons": _reasons(),
        "private-codes": codes.conformance_table(),
    }


def delivery_tables() -> dict[str, str]:
    """The tables of docs/delivery.md."""
    return {"outcomes": _outcomes(STORE), "http-outcomes": _outcomes(HTTP)}


def replace_tables(text: str, tables: Mapping[str, str]) -> str:
    """The text with these tables as the code has them now. Raises KeyError for a lost mark."""
    for name, table in tables.items():
        marks = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        match = marks.search(text)
        if match is None:
            raise KeyError(f"no marks for table {name}")
        text = f"{text[: match.end(1)]}{table}\n{text[match.start(2) :]}"
    return text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _uids(uids: Iterable[str]) -> str:
    return _table(("UID", "name"), ((f"`{uid}`", _name(uid)) for uid in uids))


def _name(uid: str) -> str:
    sop_class = UID(uid)
    return f"{sop_class.name} (retired)" if sop_class.is_retired else sop_class.name


def _services() -> str:
    count = len(presentation_contexts.SOP_CLASSES)
    return _table(
        ("service", "SCU", "SCP"),
        (
            ("Verification", "yes", "yes"),
            (f"Storage of {count} SOP classes (below)", "yes, as received", "yes"),
            (f"Storage: {_name(Comprehensive3DSRStorage)}", "yes, made here", "yes"),
            (
                f"Storage: {_name(ComprehensiveSRStorage)}",
                "yes, made here for who does not take the former",
                "yes",
            ),
            (f"Storage: {_name(SecondaryCaptureImageStorage)}", "yes, made here", "yes"),
            (f"Storage: {_name(KeyObjectSelectionDocumentStorage)}", "yes, made here", "yes"),
            (f"Storage: {_name(EncapsulatedPDFStorage)}", "yes, made here", "yes"),
            (f"{_name(PUSH_MODEL)} (`{PUSH_MODEL}`)", "yes", "yes"),
            (f"{_name(MPPS)} (`{MPPS}`)", "no", "yes"),
            (f"{_name(retrieve.GET)} (`{retrieve.GET}`)", "yes", "no"),
            (f"{_name(retrieve.MOVE)} (`{retrieve.MOVE}`)", "yes", "no"),
        ),
    )


def _association() -> str:
    receive = ReceiveSettings()
    return _table(
        ("parameter", "value"),
        (
            ("Application context", "`1.2.840.10008.3.1.1.1`"),
            ("Implementation class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
            ("Implementation version name", f"`{IMPLEMENTATION_VERSION_NAME}`"),
            ("AE title", f"`{receive.ae_title}` (`receive.ae_title`)"),
            ("Port", f"{receive.port} (`receive.port`)"),
            ("Maximum PDU length received", f"{receiver.MAX_PDU} bytes"),
            ("Associations at once, in all", f"{receive.max_associations}"),
            ("Associations at once, one AE title", f"{receive.max_associations_per_ae}"),
            ("Time for the A-ASSOCIATE-RQ (ARTIM)", f"{receive.artim_timeout:g} s"),
            ("Idle time before an A-ABORT", f"{receive.network_timeout:g} s"),
            ("Asynchronous operations", "none (one operation at a time)"),
            ("Role selection", f"as acceptor: SCU and SCP, for {_name(PUSH_MODEL)} only"),
            ("Extended and user identity negotiation", "none as acceptor"),
        ),
    )


def _statuses(statuses: dict[int, str]) -> str:
    return _table(
        ("status", "when"),
        ((f"{status:04X}H", when) for status, when in sorted(statuses.items())),
    )


def _outcomes(table: Sequence[Meaning]) -> str:
    """What we do with a peer's status, as the table has it that decides."""
    words = {
        None: "delivered",
        ErrorCode.DELIVERY_RESOURCES: "tried again for ever, with back-off",
        ErrorCode.DELIVERY_FAILED: "tried again, with back-off",
        ErrorCode.DELIVERY_FORBIDDEN: "tried again for ever, with back-off, until it is fixed",
        ErrorCode.DELIVERY_REFUSED: "not sent again; kept with the reason, for an operator",
    }
    return _table(
        ("status", "meaning", "the object is"),
        ((each.label, each.words, words[each.code]) for each in table),
    )


def _measurements() -> str:
    names = {concept: code for code, concept in obgyn_report.CONCEPTS.items()}
    return _table(
        ("concept", "kept as", "unit"),
        (
            (f"({names[concept][0]}, {names[concept][1]})", f"`{concept}`", f"`{unit}`")
            for concept, unit in MEASUREMENTS.items()
        ),
    )


def _attribute(keyword: str) -> tuple[str, str]:
    tag = Tag(keyword)
    return f"({tag.group:04X},{tag.element:04X})", dictionary_description(tag)


def _reasons() -> str:
    """Each reason for attention or rejection, with the criteria that lead to it."""
    broken = {criterion: codes.attention_reason(criterion) for criterion in codes.CRITERIA}
    return _table(
        ("reason", "meaning", "criteria not met"),
        (
            (
                f"({value}, {code.scheme_designator})",
                code.meaning,
                ", ".join(f"`{name}`" for name, why in broken.items() if why == code) or "–",
            )
            for value, code in codes.REASONS.items()
        ),
    )


def _character_sets() -> str:
    return _table(
        ("Specific Character Set", "decoder"),
        (
            (f"`{term or '(absent)'}`", f"`{codecs.lookup(name).name}`")
            for term, name in DEFINED_TERMS.items()
        ),
    )


def _cipher_suites() -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = min(MINIMUM_VERSIONS.values())
    context.set_ciphers(CIPHERS)
    return _table(
        ("TLS", "cipher suite"),
        sorted(
            (cipher["protocol"].removeprefix("TLSv"), f"`{cipher['name']}`")
            for cipher in context.get_ciphers()
        ),
    )


def main() -> int:
    """Write the tables into the documents."""
    for path, current_tables in ((STATEMENT, tables()), (DELIVERY, delivery_tables())):
        path.write_text(
            replace_tables(path.read_text(encoding="utf-8"), current_tables), encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
