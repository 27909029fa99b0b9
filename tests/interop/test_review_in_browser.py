"""What a person says in a browser arrives in a real Orthanc as an amended report: the service with
all its roles, an image by C-STORE, Chromium, and the archive."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, expect

from detector.anatomy import View
from qc_daemon.report.sr.parse import parse_findings, parse_reviews
from qc_daemon.settings import load
from tests.interop.conftest import Deployment
from tests.support.accounts import add_account
from tests.support.browser import PATIENCE_MS, chromium, person
from tests.support.orthanc import StoredObject
from tests.support.peers import association
from tests.support.waiting import eventually
from training.phantom.dicom import exam

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
expect.set_options(timeout=PATIENCE_MS)
PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "AccessionNumber",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_an_override_in_the_browser_amends_the_report_in_the_archive(
    browser: Browser, make_deployment: Callable[..., Deployment]
) -> None:
    deployment = make_deployment()
    service, pacs = deployment.service, deployment.pacs
    service.roles = ("receive", "work", "deliver", "schedule", "web")
    # No reading is drawn for a blinded second one, which the amended report would wait for.
    service.settings += "[review]\nfirst_share = 0.0\nshare = 0.0\nrisk_share = 0.0\n"
    service.settings += "[web]\nport = 0\n"
    pacs.start()
    service.start()
    add_account(load(service.config), "lead", "lead")
    origin = f"http://localhost:{service.events('pages')[0]['port']}"
    (image, *_) = exam(77, views=[View.NT])
    with association(service.port) as peer:
        assert peer.send_c_store(image).Status == 0

    def reports() -> list[StoredObject]:
        every = (pacs.received(id) for id in pacs.instances().values())
        return [each for each in every if each.dataset.Modality == "SR"]

    (first,) = eventually(reports, 900)
    (finding,) = parse_findings(first.content)
    other = "non-standard" if finding.judgement.quality == "standard" else "standard"
    with person(browser, origin) as lead:
        lead.log_in("lead")
        page = lead.visit("/exams/1")
        page.check("input[name=verb][value=override]")
        page.select_option("select[name=view]", "NT")
        page.select_option("select[name=verdict]", other)
        page.select_option("select[name=reason]", "criterion")
        page.fill("input[name=remark]", "the neck is bent")
        page.click("#review button.main")
        expect(page.locator(".history")).to_contain_text("Dr Lead")
        (amended,) = eventually(
            lambda: [each for each in reports() if parse_reviews(each.content)], 900
        )
        # The page says that it was sent.
        lead.visit("/exams/1")
        expect(page.locator("main")).to_contain_text("pacs")
    (review,) = parse_reviews(amended.content)
    assert (review.reader, review.verdict, review.reason) == ("Dr Lead", other, "criterion")
    # What the models said stands beside it, as it was.
    (after,) = parse_findings(amended.content)
    assert after.to_json() == finding.to_json()
    predecessor = amended.dataset.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    uid = predecessor.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert uid == first.dataset.SOPInstanceUID
    assert amended.dataset.VerificationFlag == "UNVERIFIED"
    # The archive must not make another patient of it.
    for name in PATIENT_AND_STUDY:
        assert amended.dataset.get(name) == image.get(name), name
