"""Files and folders with patient data: for their owner only, whatever the umask says.

The umask of our own processes is the second line; each place that makes such a file names its mode
as well, because a library may be asked to write with another umask in force.
"""

import os
import stat
from pathlib import Path

FILE_MODE, FOLDER_MODE = 0o600, 0o700
_OTHERS = 0o077


def set_umask() -> None:
    """Let whatever this process and its children make from now on be their owner's only."""
    os.umask(_OTHERS)


def make_folder(folder: Path) -> None:
    """Make the folder and each parent that is missing, all 0700; one that exists stays as it is.

    Raises OSError, FileExistsError or NotADirectoryError where something else has the name.
    """
    for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        try:
            each.mkdir(mode=FOLDER_MODE)
        except FileExistsError:
            # Another process made it in this moment.
            if not each.is_dir():
                raise
    if not folder.is_dir():
        raise NotADirectoryError(20, "is not a folder", str(folder))


def create(path: Path) -> int:
    """A file descriptor to write a new file through, 0600. Raises OSError if there is one."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)


def write(path: Path, content: bytes) -> None:
    """Write the file, 0600 even where an older one was readable by others. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(fd, "wb") as file:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.fchmod(fd, FILE_MODE)
        file.write(content)


def is_open_to_others(path: Path) -> bool:
    """Whether group or others may do anything with it; False if there is none."""
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except FileNotFoundError:
        return False


def tighten(path: Path) -> bool:
    """Take group's and others' rights away; whether they had any.

    Raises OSError where it is not ours to change.
    """
    if not is_open_to_others(path):
        return False
    path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
    return True
