"""The error of a failed job, for exceptions that a worker did not expect."""

import errno
import os

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from detector.errors import ErrorCode, QCError

# Failures of this machine say nothing about the job: they must not cost it an attempt.
_MACHINE_ERRORS = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE,
        errno.ENOMEM, errno.EAGAIN,
    }
)  # fmt: skip


def failure_of(error: Exception, activity: str) -> QCError:
    """The error as a QCError: one that is one already stays; trouble of our database, disk or
    processes is STORAGE (an alarm, no attempt counted); anything else is INTERNAL.

    `activity` completes "ZeroDivisionError while …". Names the type only: a message may quote
    element values.
    """
    if isinstance(error, QCError):
        return error
    # A row that breaks a constraint is a fault of the row, not of the database.
    if isinstance(error, SQLAlchemyError) and not isinstance(error, IntegrityError | DataError):
        message = f"the database failed ({type(error).__name__}) while {activity}"
        return QCError(ErrorCode.STORAGE, message)
    if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
        return QCError(ErrorCode.STORAGE, f"{os.strerror(error.errno).lower()} while {activity}")
    return QCError(ErrorCode.INTERNAL, f"{type(error).__name__} while {activity}")
