"""A real Orthanc in a folder of its own, and what it holds, over its REST API."""

import base64
import json
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.support.ports import reserve_port
from tests.support.waiting import eventually

START_SECONDS = 120.0


@dataclass(frozen=True)
class StoredObject:
    """An object as Orthanc gives it out."""

    content: bytes

    @cached_property
    def dataset(self) -> Dataset:
        return dcmread(BytesIO(self.content))


@dataclass
class Orthanc:
    """Debian's server on loopback; it may be stopped and started again with what it has.

    `options` are settings of its own beside or instead of ours; `login` is who asks it.
    """

    program: str
    folder: Path
    dicom_port: int = field(default_factory=reserve_port)
    http_port: int = field(default_factory=reserve_port)
    options: dict[str, Any] = field(default_factory=dict)
    login: tuple[str, str] | None = None
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> "Orthanc":
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "orthanc.json"
        config.write_text(json.dumps(self._settings()))
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen([self.program, config], stdout=log, stderr=log)
        eventually(self._answers, START_SECONDS)
        return self

    def stop(self) -> None:
        """As an administrator would: it takes seconds to end its threads."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=60)
            self.process = None

    def kill(self) -> None:
        """As a power cut would, and at the end of a test, when nobody needs what it has."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=60)
            self.process = None

    @property
    def web(self) -> str:
        """Where its DICOMweb plugin answers, if it has it."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def _settings(self) -> dict[str, Any]:
        return {
            "Name": "INTEROP",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "StorageCompression": False,
            "Plugins": [],
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": False,
            "StrictAetComparison": False,
            "UnknownSopClassAccepted": True,
            "DicomAlwaysAllowGet": True,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "SslEnabled": False,
            "StableAge": 1,
            **self.options,
        }

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "orthanc.log").read_text(
            errors="replace"
        )
        try:
            return bool(self.get("/system"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def _bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(self._request(path), timeout=60) as reply:
            content: bytes = reply.read()
        return content

    def _request(
        self, path: str, method: str = "GET", content: bytes | None = None
    ) -> urllib.request.Request:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}{path}", data=content, method=method
        )
        if self.login is not None:
            secret = base64.b64encode(":".join(self.login).encode()).decode()
            request.add_header("Authorization", f"Basic {secret}")
        return request

    def get(self, path: str) -> Any:
        """The JSON answer."""
        return json.loads(self._bytes(path))

    def send(self, method: str, path: str, body: bytes | dict[str, Any]) -> Any:
        """The JSON answer to a request with a file's bytes or a JSON object; {} if it is empty."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        with urllib.request.urlopen(self._request(path, method, content), timeout=60) as reply:
            return json.loads(reply.read() or b"{}")

    def delete(self, id: str) -> None:
        """Take the object with Orthanc's id away."""
        self.send("DELETE", f"/instances/{id}", b"")

    def instances(self) -> dict[str, str]:
        """SOP Instance UID to Orthanc's own id, of everything stored."""
        return {
            each["MainDicomTags"]["SOPInstanceUID"]: each["ID"]
            for each in self.get("/instances?expand")
        }

    def arrivals(self) -> list[str]:
        """SOP Instance UIDs in the order in which they were stored, one for each storing."""
        changes = self.get("/changes?limit=10000")
        assert changes["Done"]
        uids = {own: uid for uid, own in self.instances().items()}
        return [
            uids[change["ID"]]
            for change in changes["Changes"]
            if change["ChangeType"] == "NewInstance"
        ]

    def of_series(self, description: str) -> list[StoredObject]:
        """The objects of every series with this Series Description."""
        return [
            self.received(instance)
            for series in self.get("/series?expand")
            if series["MainDicomTags"].get("SeriesDescription") == description
            for instance in series["Instances"]
        ]

    def received(self, id: str) -> StoredObject:
        """The object with Orthanc's id, as stored."""
        return StoredObject(self._bytes(f"/instances/{id}/file"))
