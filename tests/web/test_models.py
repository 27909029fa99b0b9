"""Models and site calibrations by pages and API: what is shown, and who activates it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from model.bundle.bundle import read_model_id
from model.finding import BundleId
from model.site.calibrate import calibrate_site
from model.site.record import SiteRecord
from qc_daemon.operations.bundles import active_bundle, list_bundles, seed_bundle
from qc_daemon.records.results import sites
from qc_daemon.records.tables import SiteAction
from tests.support.sites import log_odds_of_site, question, site_samples
from tests.support.web_site import MARKUP, WebSite

MODEL = read_model_id("default")


@pytest.fixture(scope="module")
def record() -> SiteRecord:
    log_odds, labels = log_odds_of_site(np.random.default_rng(5), 300, shift=2.0)
    asked = replace(question(), bundle=BundleId("default", "2.0", MODEL), site="St Mary")
    return calibrate_site(site_samples(log_odds, labels), asked)


@pytest.fixture(scope="module")
def site(shared_site: WebSite, record: SiteRecord) -> Iterator[WebSite]:
    """The shipped bundle is active, and a calibration of a site proposed."""
    exam = shared_site.exam
    seed_bundle(exam.settings, exam.store)
    with exam.store.begin() as session:
        sites.append(session, "st mary", MODEL, SiteAction.PROPOSED, exam.now, record=record)
    return shared_site


def test_a_bundle_shows_card_and_manifest(site: WebSite) -> None:
    lead = site.browser("lead")
    assert f"/models/{MODEL}" in lead.get("/models").text
    page = lead.get(f"/models/{MODEL}").text
    assert "Model card" in page
    # Read as a page, not as Markdown.
    card = page.partition('<section class="card"')[2].partition("</section>")[0]
    assert "<h3>" in card
    assert "<table>" in card
    assert "|---" not in card
    assert "Not yet." in page
    assert site.browser("sonographer").get("/models").status_code == 403
    for path in ("/models/default", "/models/" + "0" * 64, "/models/%2Fetc%2Fpasswd"):
        assert lead.get(path).status_code == 404
    api = site.program("engineer")
    assert api.get(f"/api/v1/bundles/{MODEL}").json()["card"].startswith("#")
    rows = api.get("/api/v1/bundles").json()["items"]
    assert [row["model_id"] for row in rows] == [
        row["model_id"] for row in list_bundles(site.exam.settings)
    ]
    assert "path" not in rows[0]


def test_only_a_listed_bundle_is_activated_and_only_by_whom_may(site: WebSite) -> None:
    lead, api = site.browser("lead"), site.program("lead")
    page = lead.get(f"/models/confirm?change=bundle-activate&name={MODEL}&back=/models").text
    assert "Exams that are opened from now on" in page
    answer = site.post(lead, "/models/change", change="bundle-activate", name=MODEL)
    assert "are scored with" in answer.text
    active = active_bundle(site.exam.store)
    assert active is not None
    assert active.model_id == MODEL
    for name in ("/etc", "default", "0" * 64):
        answer = site.post(lead, "/models/change", change="bundle-activate", name=name)
        assert answer.status_code == 409
    unknown = api.post("/api/v1/bundles/activate", json={"model_id": "0" * 64})
    assert unknown.status_code == 422
    engineer = site.program("engineer")
    assert engineer.post("/api/v1/bundles/activate", json={"model_id": MODEL}).status_code == 403


def test_a_calibration_is_shown_before_and_after_activated_and_retired(
    site: WebSite, record: SiteRecord
) -> None:
    lead, api = site.browser("lead"), site.program("lead")
    assert record.id in lead.get("/site-calibrations").text
    page = lead.get(f"/site-calibrations/{record.id}").text
    assert "calibration error" in page
    assert page.count('<td class="number"') == 12
    url = f"/models/confirm?change=site-activate&name={record.id}"
    assert record.id in lead.get(url).text
    answer = site.post(lead, "/models/change", change="site-activate", name=record.id)
    assert "is active for new findings" in answer.text
    history = api.get("/api/v1/site-calibrations").json()["history"]
    assert [row["action"] for row in history] == ["proposed", "activated"]
    assert history[-1]["decided_by"] == "Dr Lead"
    assert api.get(f"/api/v1/site-calibrations/{record.id}").json()["id"] == record.id
    retired = api.post("/api/v1/site-calibrations/retire", json={"site": "St Mary"})
    assert retired.json()["count"] == 1
    # A path of this machine is no calibration.
    for name in ("pyproject.toml", "/etc/hostname", MARKUP):
        answer = site.post(lead, "/models/change", change="site-activate", name=name)
        assert answer.status_code == 409
        assert MARKUP not in answer.text
        assert "no JSON" not in answer.text
    assert lead.get("/site-calibrations/pyproject.toml").status_code == 404
