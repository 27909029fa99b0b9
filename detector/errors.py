"""The closed lists of error codes and finding flags, and the one exception that carries a code."""

from enum import StrEnum


class FailureClass(StrEnum):
    """What happens next to a job that failed."""

    RETRY = "retry"
    QUARANTINE = "quarantine"
    ALARM = "alarm"


class ErrorCode(StrEnum):
    """Why something could not be done; the value stands in JSON, SQL and logs."""

    UNREADABLE = "unreadable-file"
    NOT_AN_IMAGE = "not-an-image"
    UNSUPPORTED_SYNTAX = "unsupported-transfer-syntax"
    TRUNCATED = "truncated-pixel-data"
    NO_FRAMES = "zero-frames"
    TOO_SMALL = "too-small"
    TOO_LARGE = "too-large"
    DECODE_FAILED = "decode-failed"
    DECODE_TIMEOUT = "decode-timeout"
    DECODE_MEMORY = "decode-memory"
    BUNDLE_MISMATCH = "bundle-mismatch"
    BUNDLE_INCOMPLETE = "bundle-incomplete"
    DEVICE_UNAVAILABLE = "device-not-available"
    REPORT_INVALID = "report-invalid"
    DELIVERY_REFUSED = "delivery-refused"
    DELIVERY_UNREACHABLE = "delivery-unreachable"
    DELIVERY_RESOURCES = "delivery-out-of-resources"
    DELIVERY_FAILED = "delivery-failed"
    DELIVERY_ABORTED = "delivery-aborted"
    DELIVERY_FORBIDDEN = "delivery-forbidden"
    COMMITMENT_REFUSED = "commitment-refused"
    COMMITMENT_AWAITED = "commitment-awaited"
    SPOOL_MISSING = "spool-file-missing"
    SPOOL_DAMAGED = "spool-file-damaged"
    NOT_AVAILABLE = "original-not-available"
    WORKER_DEATHS = "worker-deaths"
    STORAGE = "storage-failed"
    INTERNAL = "internal-error"
    CANCELLED = "cancelled"


FAILURE_CLASS: dict[ErrorCode, FailureClass] = {
    ErrorCode.UNREADABLE: FailureClass.QUARANTINE,
    ErrorCode.NOT_AN_IMAGE: FailureClass.QUARANTINE,
    ErrorCode.UNSUPPORTED_SYNTAX: FailureClass.QUARANTINE,
    ErrorCode.TRUNCATED: FailureClass.QUARANTINE,
    ErrorCode.NO_FRAMES: FailureClass.QUARANTINE,
    ErrorCode.TOO_SMALL: FailureClass.QUARANTINE,
    ErrorCode.TOO_LARGE: FailureClass.QUARANTINE,
    ErrorCode.DECODE_FAILED: FailureClass.QUARANTINE,
    ErrorCode.DECODE_TIMEOUT: FailureClass.QUARANTINE,
    ErrorCode.DECODE_MEMORY: FailureClass.QUARANTINE,
    ErrorCode.BUNDLE_MISMATCH: FailureClass.ALARM,
    ErrorCode.BUNDLE_INCOMPLETE: FailureClass.ALARM,
    ErrorCode.DEVICE_UNAVAILABLE: FailureClass.ALARM,
    ErrorCode.REPORT_INVALID: FailureClass.QUARANTINE,
    ErrorCode.DELIVERY_REFUSED: FailureClass.QUARANTINE,
    # An archive that is away or full for a weekend must not cost an object.
    ErrorCode.DELIVERY_UNREACHABLE: FailureClass.ALARM,
    ErrorCode.DELIVERY_RESOURCES: FailureClass.ALARM,
    ErrorCode.DELIVERY_FAILED: FailureClass.RETRY,
    # It broke off at this object and answers others; a restart there costs one attempt.
    ErrorCode.DELIVERY_ABORTED: FailureClass.RETRY,
    ErrorCode.DELIVERY_FORBIDDEN: FailureClass.ALARM,
    ErrorCode.COMMITMENT_REFUSED: FailureClass.RETRY,
    ErrorCode.COMMITMENT_AWAITED: FailureClass.ALARM,
    ErrorCode.SPOOL_MISSING: FailureClass.ALARM,
    ErrorCode.SPOOL_DAMAGED: FailureClass.ALARM,
    ErrorCode.NOT_AVAILABLE: FailureClass.QUARANTINE,
    ErrorCode.WORKER_DEATHS: FailureClass.QUARANTINE,
    # Our database, disk or processes: no object and no destination is to blame.
    ErrorCode.STORAGE: FailureClass.ALARM,
    ErrorCode.INTERNAL: FailureClass.RETRY,
    ErrorCode.CANCELLED: FailureClass.QUARANTINE,
}


class QCError(Exception):
    """A failure with a code; the message is one line without patient data."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type["QCError"], tuple[ErrorCode, str]]:
        return (type(self), (self.code, self.message))

    @property
    def failure_class(self) -> FailureClass:
        return FAILURE_CLASS[self.code]


class Flag(StrEnum):
    """What a reader of a finding should know beside its verdict."""

    OUT_OF_DISTRIBUTION = "out-of-distribution"
    NO_REAL_EVIDENCE = "no-real-evidence"
    BEYOND_FIRST_TRIMESTER = "beyond-first-trimester"
    NOT_COMMISSIONED = "not-commissioned"
    BURNED_IN_TEXT = "burned-in-text"
    LOW_RESOLUTION = "low-resolution"
    HEADER_NORMALISED = "header-normalised"
    SAME_UID_OTHER_CONTENT = "same-uid-other-content"
    OTHER_PATIENT_IN_STUDY = "other-patient-in-study"
    COLOUR_DOUBTFUL = "colour-doubtful"
    MORE_FRAMES_THAN_STATED = "more-frames-than-stated"
    UNREADABLE_FRAMES = "unreadable-frames"
    NOT_ULTRASOUND = "not-ultrasound"
    VIEW_DISAGREEMENT = "view-disagreement"
