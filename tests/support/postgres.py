"""A throwaway PostgreSQL on a free loopback port, which can be stopped and started again."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from tests.support.environment import require
from tests.support.ports import reserve_port


def program(name: str) -> str | None:
    """The server's programs: on the path, or where Debian keeps the newest version's."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)


class PostgresServer:
    """A cluster of its own; `url` is its superuser's, without a database."""

    def __init__(self, initdb: str, server: str, *, fsync: bool = False) -> None:
        self._server = server
        self.folder = Path(tempfile.mkdtemp(prefix="qc-postgres-"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            account = pwd.getpwnam("postgres")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
            ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
            self._as_user = ["setpriv", *ids]
        how = ["-U", "qc", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(
            [*self._as_user, initdb, "-D", self.folder / "data", *how],
            check=True,
            capture_output=True,
            cwd=self.folder,
        )
        self.port = reserve_port()
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://qc@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        options = ["-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.folder)]
        options += ["-c", f"fsync={'on' if self._fsync else 'off'}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user, self._server, "-D", self.folder / "data", *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        for _ in range(600):
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                log_text = (self.folder / "log").read_text(errors="replace")
                assert self._process.poll() is None, log_text
                time.sleep(0.1)
        raise AssertionError("PostgreSQL does not start")

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        where = f"host=127.0.0.1 port={self.port} user=qc dbname=postgres"
        return psycopg.connect(where, autocommit=True)

    def stop(self) -> None:
        """Immediate shutdown: connections are cut as in a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=60)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


def make_postgres() -> PostgresServer:
    """A PostgreSQL server, not started; the test is skipped where there is none."""
    initdb, server = program("initdb"), program("postgres")
    require(initdb is not None and server is not None, "a PostgreSQL server")
    assert initdb is not None
    assert server is not None
    return PostgresServer(initdb, server)
