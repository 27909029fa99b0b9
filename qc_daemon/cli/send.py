"""Storing files and folders to a DICOM receiver, as a modality would."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.misc import is_dicom
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from detector.plain_text import visible
from qc_daemon.deliver.c_store import StoreSCU
from qc_daemon.deliver.transport import AssociationRejectedError, OutgoingObject
from qc_daemon.observe import log
from qc_daemon.score.convert import Converter
from qc_daemon.settings import (
    ClientTLSSettings,
    DestinationSettings,
    ScoreSettings,
    parse_ae_title,
)

_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
# After so many failed connections in a row the rest is not tried: each one takes a timeout.
_MAX_FAILURES = 2
_NAME = "receiver"


@dataclass(frozen=True)
class Failure:
    """A file that was not stored, and why."""

    path: Path
    reason: str


@dataclass
class SendReport:
    """The files that were stored, those that failed, and those that were not sent at all.

    `skipped` are files of folders that are no DICOM objects, as notes or a DICOMDIR.
    `stop_reason` is why the rest was not sent: the receiver takes no object of ours; "" otherwise.
    """

    stored: list[Path] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    not_sent: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    stop_reason: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether every file was stored."""
        return not self.failed and not self.not_sent

    def stop(self, reason: str, files: Sequence[Path]) -> None:
        """Send no more: these files are not sent."""
        self.not_sent += files
        self.stop_reason = reason


def parse_address(to: str) -> tuple[str, str, int]:
    """AE title, host and port of `AET@HOST:PORT` (`[…]` around an IPv6 address).

    Raises UsageError.
    """
    title, at, host_and_port = to.rpartition("@")
    host, colon, port = host_and_port.rpartition(":")
    if not (at and colon and title.strip() and host) or not port.isdecimal():
        raise UsageError(f"--to {to}: give AET@HOST:PORT, as QCDAEMON@127.0.0.1:11112")
    if not 0 < int(port) < 65536:
        raise UsageError(f"--to {to}: a port is 1 to 65535")
    return parse_ae_title(title, f"--to {to}"), host.strip("[]"), int(port)


def send(
    paths: Sequence[Path],
    to: str,
    calling_ae: str = "QCSEND",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    timeout: float = 60.0,
    tls: ClientTLSSettings | None = None,
) -> SendReport:
    """Store every DICOM file under `paths` in its own transfer syntax.

    `progress` takes the numbers of files completed and in all. An object that fails does not stop
    the others; a receiver that rejects our association, or cannot be reached, does. Raises
    UsageError for a path that does not exist, no DICOM files at all, or a bad address. What is no
    DICOM is skipped in a folder, and fails where it is named itself.
    """
    title, host, port = parse_address(to)
    calling_ae = parse_ae_title(calling_ae, f"--calling {calling_ae}")
    files, skipped = list_files(paths)
    destination = DestinationSettings(
        name=_NAME, ae_title=title, host=host, port=port, timeout=timeout, tls=tls
    )
    converter = Converter(ScoreSettings())
    scu = StoreSCU(destination, calling_ae, converter)
    report = SendReport(skipped=skipped)
    unreached: list[Path] = []
    try:
        for count, path in enumerate(files):
            progress(count, len(files))
            try:
                scu.send(_outgoing_object(path))
            except AssociationRejectedError as error:
                report.stop(_describe_rejection(error, to, calling_ae), files[count:])
                break
            except QCError as error:
                report.failed.append(Failure(path, _words(error)))
                is_reached = error.code is not ErrorCode.DELIVERY_UNREACHABLE
                unreached = [] if is_reached else [*unreached, path]
                if len(unreached) == _MAX_FAILURES:
                    del report.failed[-_MAX_FAILURES:]
                    report.stop(f"{to}: {_words(error)}", [*unreached, *files[count + 1 :]])
                    break
            else:
                unreached = []
                report.stored.append(path)
        else:
            progress(len(files), len(files))
    finally:
        scu.close()
        converter.close()
    return report


def send_with_progress(
    paths: Sequence[Path],
    to: str,
    calling_ae: str,
    console: Console,
    tls: ClientTLSSettings | None = None,
) -> bool:
    """`send` with a progress bar on the terminal; returns True if every file was stored."""
    log.quiet_libraries()
    # Before the bar, which would stand above the error.
    parse_address(to)
    parse_ae_title(calling_ae, f"--calling {calling_ae}")
    list_files(paths)
    with Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as bar:
        task = bar.add_task("Storing", total=None)
        report = send(
            paths,
            to,
            calling_ae,
            lambda count, total: bar.update(task, completed=count, total=total),
            tls=tls,
        )
    lines = [f"{failure.path}: {failure.reason}" for failure in report.failed]
    if report.stop_reason:
        lines.append(report.stop_reason)
    for line in lines:
        # A terminal breaks a long line by itself; in a file it stays one.
        console.print(visible(line), markup=False, emoji=False, highlight=False, soft_wrap=True)
    not_sent = f", {len(report.not_sent)} not sent" if report.not_sent else ""
    skipped = f", {len(report.skipped)} skipped (no DICOM)" if report.skipped else ""
    console.print(
        f"{len(report.stored)} stored, {len(report.failed)} failed{not_sent}{skipped}",
        highlight=False,
    )
    return report.is_complete


def _describe_rejection(error: AssociationRejectedError, to: str, calling_ae: str) -> str:
    """A rejected association in one line, with both AE titles and how to fix it."""
    fixes = {
        "calling": f"have {calling_ae} entered there (a qc-daemon: peer approve {calling_ae}), or"
        " give a title that it knows as --calling",
        "called": "give its own AE title in --to",
    }
    fix = fixes.get(error.unknown_title or "", "see its log")
    if error.code is ErrorCode.DELIVERY_UNREACHABLE:
        fix = "try again later"
    return f"{calling_ae} to {to}: {_words(error)}; {fix}"


def _words(error: QCError) -> str:
    """The message, without the name that only settings give a destination."""
    return error.message.replace(f"destination {_NAME}", "the receiver", 1)


def list_files(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The files and the DICOM files in the folders; and what else is in the folders.

    Raises UsageError without any of the first, or for another path.
    """
    files: list[Path] = []
    skipped: list[Path] = []
    for path, is_named in _files(paths):
        (files if is_named or _is_object(path) else skipped).append(path)
    if not files:
        what = "DICOM files" if skipped else "files"
        raise UsageError(f"{', '.join(map(str, paths))}: no {what} there; give DICOM files")
    return files, skipped


def _is_object(path: Path) -> bool:
    """Whether the file may hold an object, by its preamble (PS3.10 7.1) and its name."""
    try:
        return is_dicom(path) and path.name.upper() != "DICOMDIR"
    except OSError:
        # It is tried, so that its error is seen.
        return True


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Each file, and whether it was named itself."""
    for path in paths:
        if path.is_dir():
            for each in sorted(each for each in path.rglob("*") if each.is_file()):
                yield each, False
        elif path.is_file():
            yield path, True
        else:
            # A pipe would be waited for without end.
            what = "is no file" if path.exists() else "does not exist"
            raise UsageError(f"{path} {what}; give files or folders")


def _outgoing_object(path: Path) -> OutgoingObject:
    """The file as an object to send. Raises QCError UNREADABLE."""
    try:
        header = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"])
        meta = header.file_meta
        sop_class, sop_instance = str(header.SOPClassUID), str(header.SOPInstanceUID)
        syntax = str(meta.TransferSyntaxUID)
    except (InvalidDicomError, AttributeError):
        raise QCError(ErrorCode.UNREADABLE, "not a DICOM file") from None
    except OSError as error:
        raise QCError(ErrorCode.UNREADABLE, f"cannot be read: {error.strerror}") from None
    except Exception as error:
        # pydicom lets a dozen kinds of error through for a broken header.
        raise QCError(
            ErrorCode.UNREADABLE, f"broken DICOM header ({type(error).__name__})"
        ) from None
    if sop_class == _MEDIA_DIRECTORY:
        raise QCError(ErrorCode.UNREADABLE, "a DICOMDIR is not stored")
    if meta.get("MediaStorageSOPInstanceUID") != sop_instance:
        raise QCError(ErrorCode.UNREADABLE, "meta group and data set name different instances")
    return OutgoingObject(sop_class, sop_instance, syntax, name=path.name, path=path)
