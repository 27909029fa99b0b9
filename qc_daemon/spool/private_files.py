"""Files and folders with patient data: for their owner only, whatever the umask is.

Our processes set the umask too; but each function that makes such a file names its mode as well,
because as a library it may run under another umask.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

FILE_MODE, FOLDER_MODE = 0o600, 0o700
# The rights of group and others.
_OTHERS = 0o077


def set_umask() -> None:
    """Make every file and folder that this process and its children create private."""
    os.umask(_OTHERS)


def make_folder(folder: Path) -> None:
    """Make the folder and its missing parents, all 0700; those that exist stay as they are.

    Raises OSError, FileExistsError or NotADirectoryError where something else has the name.
    """
    for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        try:
            each.mkdir(mode=FOLDER_MODE)
        except FileExistsError:
            # Another process has just made it.
            if not each.is_dir():
                raise
    if not folder.is_dir():
        raise NotADirectoryError(20, "is not a folder", str(folder))


def create(path: Path) -> int:
    """Create a file, 0600; returns its descriptor. Raises OSError if it exists."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)


def write(path: Path, content: bytes) -> None:
    """Write the file, 0600 even if it existed with other rights. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(fd, "wb") as file:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.fchmod(fd, FILE_MODE)
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, 0600, that takes the place of `path` once all of it is on disk, or never:
    whatever is raised meanwhile leaves what was there. Raises OSError."""
    # In the same folder, as a file is moved in one step within a file system only.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(create(temporary), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_open_to_others(path: Path) -> bool:
    """Whether group or others have any right to it; False if it does not exist."""
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except FileNotFoundError:
        return False


def tighten(path: Path) -> bool:
    """Remove the rights of group and others; returns whether they had any.

    Raises OSError if its owner is another.
    """
    if not is_open_to_others(path):
        return False
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
    return True
