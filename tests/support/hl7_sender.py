"""Messages of a registration system, and its connection."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from qc_daemon.hl7.frames import FrameReader, write_frame


def adt(
    event: str = "A08",
    control_id: str = "1",
    *,
    patient_id: str = "CANARY-4711",
    name: str = "Canary^Anna",
    birth_date: str = "19900531",
    prior_id: str | None = None,
    character_set: str = "",
    authority: str = "HOSP",
    sender: str = "RIS",
) -> str:
    """An ADT message; A40 with `prior_id`."""
    lines = [
        f"MSH|^~\\&|{sender}|WARD|QC|LAB|20261130120000||ADT^{event}|{control_id}|P|2.5.1"
        f"||||||{character_set}",
        f"EVN|{event}|20261130120000",
        f"PID|1||{patient_id}^^^{authority}^MR~999^^^SSN^SS||{name}||{birth_date}|F",
        *([] if prior_id is None else [f"MRG|{prior_id}^^^{authority}^MR"]),
    ]
    return "\r".join(lines) + "\r"


class Sender:
    """A connection to the port of HL7 messages."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._reader = FrameReader()
        self._answers: list[bytes] = []

    def send(self, message: str, codec: str = "utf-8") -> str:
        """The acknowledgement code of a message, as AA."""
        self.connection.sendall(write_frame(message.encode(codec)))
        return self.receive()[0]

    def receive(self) -> tuple[str, str, str]:
        """Code, control id and reason of the next acknowledgement."""
        while not self._answers:
            received = self.connection.recv(65536)
            if not received:
                raise ConnectionError("closed without an answer")
            self._answers += [each.content for each in self._reader.feed(received)]
        content = self._answers.pop(0).decode("latin-1")
        msa = next(line for line in content.split("\r") if line.startswith("MSA"))
        _, code, control_id, *reason = msa.split(content[3])
        return code, control_id, "".join(reason)

    def is_closed(self) -> bool:
        """Whether the other side closes the connection without another answer."""
        try:
            return self.connection.recv(65536) == b""
        except ConnectionError:
            return True


@contextmanager
def connect(port: int) -> Iterator[Sender]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        yield Sender(connection)
