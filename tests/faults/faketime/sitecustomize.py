"""Loaded by every Python process whose clock libfaketime sets.

libfaketime 0.9.10 answers EINVAL when the end of a sleep has passed by the time it looks, which a
sleep of nothing at all always has.
"""

import errno
import time

_sleep = time.sleep


def sleep(seconds: float) -> None:
    try:
        _sleep(seconds)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


time.sleep = sleep
