"""A FHIR R4 server that takes a transaction as the specification says: it validates each resource
(fhir.resources), and puts it by its identifier."""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fhir.resources.R4B import get_fhir_model_class


def validate(resource: dict[str, Any]) -> None:
    """Raises ValueError for what is no valid resource."""
    get_fhir_model_class(resource["resourceType"]).model_validate(resource)


@dataclass
class FhirServer:
    """`status` answers in place of the transaction where it is not 200."""

    status: int = 200
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[dict[str, str]] = field(default_factory=list)
    _server: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/fhir"

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.resources.values() if each["resourceType"] == kind]

    def start(self) -> "FhirServer":
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(200, {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"})

            def do_POST(self) -> None:
                bundle = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(dict(self.headers))
                if server.status != 200:
                    self._answer(server.status, {"resourceType": "OperationOutcome", "issue": []})
                    return
                try:
                    entries = server.perform(bundle)
                except (ValueError, KeyError, TypeError):
                    self._answer(422, {"resourceType": "OperationOutcome", "issue": []})
                    return
                answer = {
                    "resourceType": "Bundle",
                    "type": "transaction-response",
                    "entry": [{"response": {"status": each}} for each in entries],
                }
                self._answer(200, answer)

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/fhir+json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def perform(self, bundle: dict[str, Any]) -> list[str]:
        """Put each resource by the identifier of its request, and resolve references."""
        validate(bundle)
        full_urls = {entry["fullUrl"] for entry in bundle["entry"]}
        statuses = []
        for entry in bundle["entry"]:
            resource, request = entry["resource"], entry["request"]
            validate(resource)
            for result in resource.get("result", []):
                if result["reference"] not in full_urls:
                    raise ValueError("a reference to nothing")
            parts = urlsplit(request["url"])
            [identifier] = parse_qs(parts.query)["identifier"]
            if request["method"] != "PUT" or parts.path != resource["resourceType"]:
                raise ValueError("another request")
            owned = {f"{each['system']}|{each['value']}" for each in resource["identifier"]}
            if identifier not in owned:
                raise ValueError("an identifier of something else")
            statuses.append("200 OK" if identifier in self.resources else "201 Created")
            self.resources[identifier] = resource
        return statuses

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
