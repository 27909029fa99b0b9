"""Fixtures every test may use."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

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
