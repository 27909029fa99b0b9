"""Debian's rsyslog as an audit record repository: TLS (RFC 5425) and UDP, into a file."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.certificates import Authority, Pair
from tests.support.environment import require
from tests.support.ports import reserve_port

_SETTINGS = """
global(workDirectory="{folder}" maxMessageSize="64k"
       defaultNetstreamDriverCAFile="{ca}"
       defaultNetstreamDriverCertFile="{certificate}"
       defaultNetstreamDriverKeyFile="{key}"
       parser.escapeControlCharactersOnReceive="off")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1"
       streamDriver.authMode="x509/certvalid")
module(load="imudp")
input(type="imtcp" address="127.0.0.1" port="{port}")
input(type="imudp" address="127.0.0.1" port="{port}")
template(name="parts" type="string"
         string="%pri% %msgid% %hostname% %app-name% %structured-data% %msg%\\n")
action(type="omfile" file="{out}" template="parts" flushInterval="1" asyncWriting="off")
"""
_LINE = re.compile(r'(\d+) (\S+) (\S+) (\S+) \[meta sequenceId="(\d+)"\] ?\ufeff?(<\?xml .*)')


@dataclass(frozen=True)
class Arrived:
    """A message as the server took it apart."""

    priority: int
    msg_id: str
    host: str
    app_name: str
    sequence: int
    xml: str


@dataclass
class SyslogServer:
    """rsyslogd in a folder of its own; clients must show a certificate of the authority."""

    folder: Path
    authority: Authority
    port: int = field(default_factory=reserve_port)
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.certificate: Pair = self.authority.issue("syslog")

    @property
    def out(self) -> Path:
        return self.folder / "messages"

    def start(self) -> "SyslogServer":
        settings = self.folder / "rsyslog.conf"
        settings.write_text(
            _SETTINGS.format(
                folder=self.folder,
                ca=self.authority.certificate,
                certificate=self.certificate.certificate,
                key=self.certificate.key,
                port=self.port,
                out=self.out,
            )
        )
        program = shutil.which("rsyslogd", path=f"{os.environ['PATH']}:/usr/sbin")
        require(program is not None, "rsyslogd")
        self.process = subprocess.Popen(
            [str(program), "-n", "-f", str(settings), "-i", str(self.folder / "pid")],
            stderr=(self.folder / "errors").open("ab"),
        )
        return self

    def kill(self) -> None:
        """kill -9, as a power cut."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            (self.folder / "pid").unlink(missing_ok=True)

    def arrived(self) -> list[Arrived]:
        """The messages so far, in their order; a last line may be half written."""
        if not self.out.exists():
            return []
        lines = self.out.read_text(encoding="utf-8").split("\n")[:-1]
        found = []
        for line in lines:
            match = _LINE.fullmatch(line)
            if match is not None:
                found.append(Arrived(int(match[1]), *match.group(2, 3, 4), int(match[5]), match[6]))
            else:
                # What the server says of itself.
                assert "rsyslog" in line, line
        return found
