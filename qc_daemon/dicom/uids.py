"""The Verification SOP Class, and reading UIDs that others wrote."""

import re

from pydicom.dataset import Dataset

# The Verification SOP Class (PS3.4 A.4).
VERIFICATION = "1.2.840.10008.1.1"

# Only digits, dots and the length are checked: machines in use break the finer rules of PS3.5 9.1.
_UID = re.compile(r"[0-9.]{1,64}")


def uid(dataset: Dataset, keyword: str) -> str | None:
    """The value of a UID element; None if it is absent, empty or invalid."""
    value = str(dataset.get(keyword) or "").strip()
    return value if is_uid(value) else None


def is_uid(value: str) -> bool:
    """Whether the value has only digits and dots, 64 at most."""
    return _UID.fullmatch(value) is not None
