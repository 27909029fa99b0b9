"""Run a command line so that an error is one line and an exit status, never a traceback."""

import os
import sys
import warnings
from collections.abc import Callable

from detector.errors import ErrorCode, QCError
from detector.plain_text import visible

DONE, FAILED, WRONG_USAGE = 0, 1, 2


class UsageError(Exception):
    """Wrong usage or settings: a line that says which and how to fix it. Exit status 2."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The message, a line for each problem."""
        return (str(self),)


def run(app: Callable[[], object]) -> int:
    """The exit status: 0 done, 1 the work failed, 2 wrong usage or settings.

    `--debug` (or QC_DEBUG=1) lets the traceback through.
    """
    # No Python child of ours, a process pool's neither, imports from the working directory.
    os.environ["PYTHONSAFEPATH"] = "1"
    # Its warnings quote values of headers: a patient's name must not come to a terminal or a log.
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    if sys.stdout is None:
        # Closed by who started us (`>&-`).
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    debug = "--debug" in sys.argv or bool(os.environ.get("QC_DEBUG"))
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
    try:
        app()
    except SystemExit as end:
        if _is_pipe_broken():
            return DONE
        return end.code if isinstance(end.code, int) else DONE if end.code is None else FAILED
    except UsageError as error:
        return _print_error(error, WRONG_USAGE, debug)
    except QCError as error:
        return _print_error(error, FAILED, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        why = error.strerror or str(error) or type(error).__name__
        return _print_error(QCError(ErrorCode.STORAGE, f"{where}{why}"), FAILED, debug, error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        print(
            f"error: internal error ({type(error).__name__}); run again with --debug to see more",
            file=sys.stderr,
        )
        return FAILED
    return DONE


def _is_pipe_broken() -> bool:
    """Whether the reader of our output has gone (`| head`), which is nothing wrong.

    Click ends with 1 then, and wraps the output so that nothing is written at the end.
    """
    return type(sys.stdout).__name__ == "PacifyFlushWrapper"


def _print_error(error: Exception, status: int, debug: bool, cause: Exception | None = None) -> int:
    if debug:
        raise error from cause
    lines = error.lines if isinstance(error, UsageError) else (str(error),)
    for line in lines:
        print(f"error: {visible(line)}", file=sys.stderr)
    return status
