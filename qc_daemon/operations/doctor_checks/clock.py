"""Whether this machine's clock is right: kept by NTP, and in step with the machines' stamps."""

import ctypes
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo

from qc_daemon.operations.doctor_checks.check_result import NoticeError
from qc_daemon.records import schema
from qc_daemon.records.acquisition import acquisitions
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings

MAX_AHEAD = timedelta(minutes=5)
"""An image that was made so much later than it came has a wrong stamp, or we a wrong clock."""
_STA_UNSYNC = 0x0040
_IMAGES = 500
_MAX_NAMED = 4


class _Timex(ctypes.Structure):
    """struct timex (adjtimex(2)), as far as it is read here."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    ]


def is_synchronised() -> bool | None:
    """Whether the kernel says that NTP keeps its clock; None where it does not say."""
    timex = _Timex()
    try:
        if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:
            return None
    except (AttributeError, OSError):
        return None
    return not timex.status & _STA_UNSYNC


def check_clock(settings: Settings) -> str:
    """The clock against NTP, and against the stamps of the newest images of each machine."""
    is_synchronous = is_synchronised()
    ahead = {} if schema.check(settings.store.url) else _stamps_ahead(settings)
    if ahead:
        listed = ", ".join(
            f"{title} {_words(by)}" for title, by in list(ahead.items())[:_MAX_NAMED]
        )
        fix = (
            "this machine's clock is behind, or theirs are ahead"
            if is_synchronous is not True
            else "set the clock of these machines, or schedule.timezone if it is not theirs"
        )
        raise NoticeError(f"images are stamped later than they came: {listed}; {fix}")
    if is_synchronous is False:
        raise NoticeError(
            "nothing keeps this machine's clock: install chrony or switch systemd-timesyncd on"
            " (timedatectl set-ntp true); stamps in reports and logs are of this clock"
        )
    if is_synchronous is None:
        return "the system does not say whether NTP keeps the clock; no image is stamped later"
    return "NTP keeps it; no image is stamped later than it came"


def _stamps_ahead(settings: Settings) -> Mapping[str, timedelta]:
    """By calling AE title how much later than it came an image was made; nothing within bounds."""
    with Store(settings.store.url).read() as session:
        rows = acquisitions.newest_stamps(session, _IMAGES)
    return stamps_ahead(rows, settings.schedule.local_zone)


def stamps_ahead(
    rows: "list[tuple[str, str | None, str | None, datetime]]", zone: tzinfo
) -> dict[str, timedelta]:
    """Of (calling AE title, acquired, its zone as +0100, received) the largest advance of each
    title, where it is more than MAX_AHEAD."""
    ahead: dict[str, timedelta] = {}
    for title, acquired, offset, received in rows:
        moment = _moment(acquired, offset, zone)
        if moment is None:
            continue
        by = moment - received
        if by > max(MAX_AHEAD, ahead.get(title, timedelta(0))):
            ahead[title] = by
    return dict(sorted(ahead.items()))


def _moment(acquired: str | None, offset: str | None, zone: tzinfo) -> datetime | None:
    if not acquired or len(acquired) <= len("2026-11-30"):
        # A day alone says nothing of a clock.
        return None
    try:
        moment = datetime.fromisoformat(acquired)
        if offset:
            moment = moment.replace(tzinfo=datetime.strptime(offset, "%z").tzinfo)
        elif moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
    except ValueError:
        return None
    return moment.astimezone(UTC)


def _words(by: timedelta) -> str:
    minutes = round(by.total_seconds() / 60)
    return f"by {minutes} min" if minutes < 120 else f"by {round(minutes / 60)} h"
