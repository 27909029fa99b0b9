"""The pages of a store with some exams, asked as a browser and as a program would ask them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from sqlalchemy import update
from starlette.testclient import TestClient

from qc_daemon.dicom.acquisition import Acquisition, Operator
from qc_daemon.operations import accounts
from qc_daemon.operations.shared import shared_store
from qc_daemon.records.acquisition import acquisitions
from qc_daemon.records.acquisition.identities import identify_persons
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.received.receipts import exam_description
from qc_daemon.records.tables import Exam
from qc_daemon.settings import ReviewSettings
from qc_daemon.settings.web import WebSettings
from qc_daemon.verbs import DEFAULT_ROLES, Verb
from qc_daemon.web.app import create_app
from tests.support.accounts import PASSWORD, add_account
from tests.support.report_objects import ultrasound_header
from tests.support.scored_exam import ScoredExam

ORIGIN = "https://qc.example.org"
JANE, ADA = "Doe^Jane", "Ng^Ada"
UIDS = tuple(f"1.2.826.0.1.3680043.10.1.1.{number}" for number in (1, 2, 3))
"""Images 1 and 2 are of JANE's exam (standard, non-standard), 3 of ADA's (left to a person)."""
MARKUP = "<script>alert(1)</script>"
CANARY = "Canary^Patient"
CANARY_FAMILY, CANARY_SHOWN = "Canary", "Canary, Patient"
"""What nobody may see of it in any form, and how pages write it."""


@dataclass
class WebSite:
    """Findings 1 and 2 of exam 1 are Jane's, finding 3 of exam 2 is Ada's; an account of each role,
    named as it, and the sonographer is Jane."""

    exam: ScoredExam
    app: FastAPI
    clients: dict[str, TestClient] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    """Ids of persons and devices, by names of tests' own."""

    def visitor(self, address: str = "testclient") -> TestClient:
        """A browser without a session, at this address."""
        return TestClient(
            self.app, base_url=ORIGIN, follow_redirects=False, client=(address, 50_000)
        )

    def browser(self, role: str) -> TestClient:
        """A browser in which the account of this role is logged in."""
        if role not in self.clients:
            client = self.visitor()
            answer = self.log_in(client, role)
            assert answer.status_code == 303, answer.text
            self.clients[role] = client
        return self.clients[role]

    def log_in(self, client: TestClient, name: str, password: str = PASSWORD, **more: str) -> Any:
        """What the form is answered."""
        values = {"name": name, "password": password} | more
        return client.post("/login", data=values, headers={"Sec-Fetch-Site": "same-origin"})

    def program(self, role: str) -> TestClient:
        """A program with a token of this role's account that may do all that the role may."""
        if role not in self.tokens:
            verbs = sorted(DEFAULT_ROLES[role])
            self.tokens[role] = accounts.add_token(self.exam.settings, role, "program", verbs, 30)
        client = self.visitor()
        client.headers["authorization"] = f"Bearer {self.tokens[role]}"
        return client

    def csrf(self, client: TestClient) -> str:
        """What a form of this browser's session carries."""
        match = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', client.get("/account").text)
        assert match is not None
        return match[1]

    def post(self, client: TestClient, path: str, **values: str) -> Any:
        """A form of our own pages, sent."""
        data = {"csrf_token": self.csrf(client)} | values
        return client.post(path, data=data, headers={"Sec-Fetch-Site": "same-origin"})


def noise(number: int, rows: int = 480, columns: int = 640) -> dict[str, Any]:
    """Elements of an image with pixels, no two the same."""
    pixels = np.random.default_rng(number).integers(0, 200, (rows, columns), dtype=np.uint8)
    return {
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PixelData": pixels.tobytes(),
    }


@contextmanager
def web_site(
    folder: Path,
    *,
    with_pixels: bool = False,
    web: WebSettings | None = None,
    clock: Clock = utc_now,
) -> Iterator[WebSite]:
    """Pages on a store with two exams, text of which is markup or a canary."""
    exam = ScoredExam(folder, ["sr"])
    exam.settings.web = web or exam.settings.web
    # Today's exams: the live board shows no others.
    exam.now = utc_now()
    exam.settings.review = ReviewSettings(first_share=0.0, share=0.0, risk_share=0.0)
    patients: tuple[dict[str, Any], ...] = (
        {"PatientName": CANARY, "PatientID": "CANARY-1"},
        {"PatientName": f"{MARKUP}^Ann", "PatientID": MARKUP, "StudyInstanceUID": "1.2.9"},
    )
    for number, (uid, quality) in enumerate(
        zip(UIDS, ("standard", "non-standard", "review"), strict=True)
    ):
        values = patients[number // 2] | {"SOPInstanceUID": uid}
        if with_pixels:
            values |= noise(number, 120, 160)
        exam.receive_image(ultrasound_header(**values), quality=quality)
    with exam.store.begin() as session:
        for exam_id, patient in enumerate(patients, 1):
            description = exam_description(patient["PatientName"], MARKUP, "20260304")
            session.execute(update(Exam).where(Exam.id == exam_id).values(**description))
        persons = {
            name: identify_persons(session, [Operator(name)], exam.now)[0] for name in (JANE, ADA)
        }
        for revision_id, name in ((1, JANE), (2, JANE), (3, ADA)):
            acquisitions.store(
                session,
                revision_id,
                Acquisition(operators=(Operator(name),), institution=MARKUP),
                "VOLUSON1",
                exam.now,
            )
    for role, verbs in DEFAULT_ROLES.items():
        own = persons[JANE] if Verb.SEE_OWN in verbs else None
        add_account(exam.settings, role, role, own)
    with shared_store(exam.settings) as store:
        app = create_app(exam.settings, store, clock)
        try:
            yield WebSite(exam, app, numbers={"jane": persons[JANE], "ada": persons[ADA]})
        finally:
            app.state.context.pictures.close()
            exam.store.close()
