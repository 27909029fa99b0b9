"""What an exam's page says beside the findings: the cine frame by frame, measurements, contents of
an image and reports."""

import re

import pytest

from qc_daemon.operations import reviews
from qc_daemon.operations.reviews import Answer
from qc_daemon.records.results.measurements import MeasuredValue
from qc_daemon.report.source import SourceInstance
from tests.support.report_objects import nuchal_finding, ultrasound_header
from tests.support.web_site import WebSite, noise

SCORES = {1: 0.25, 4: 0.5, 9: 1.0}


@pytest.fixture
def cine(site: WebSite) -> WebSite:
    """Findings 4, 5 and 6 are frames of a cine; the last one is shown for it."""
    header = ultrasound_header(
        SOPInstanceUID="1.2.5",
        StudyInstanceUID="1.2.78",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1",
        FrameTime="40",
        **noise(5, 120, 160),
    )
    header.NumberOfFrames = 9
    header.PixelData = header.PixelData * 9
    source = SourceInstance.of(header, "")
    findings = [
        nuchal_finding(source, frame=frame, quality="review", probability=score)
        for frame, score in SCORES.items()
    ]
    site.exam.receive(header, *findings)
    return site


def test_a_cine_is_drawn_frame_by_frame(cine: WebSite) -> None:
    text = cine.browser("lead").get("/exams/3").text
    points = re.findall(r'<a href="/exams/3\?finding=(\d)".*?cx="([\d.]+)" cy="([\d.]+)"', text)
    assert points == [("4", "0.0", "75.0"), ("5", "225.0", "50.0"), ("6", "600.0", "0.0")]
    assert 'max="2"' in text
    # A frame that is not the best one has its page too.
    assert "frame 4" in cine.browser("lead").get("/exams/3?finding=5").text
    assert cine.browser("lead").get("/exams/1?finding=5").status_code == 404
    assert 'id="cine"' not in cine.browser("lead").get("/exams/1").text


def test_the_pace_is_the_headers(cine: WebSite) -> None:
    lead = cine.browser("lead")
    assert lead.get("/findings/5/frame-time").json() == {"milliseconds": 40.0}
    header = ultrasound_header(SOPInstanceUID="1.2.6", StudyInstanceUID="1.2.78", **noise(6))
    cine.exam.receive_image(header)
    assert lead.get("/findings/7/frame-time").json() == {"milliseconds": None}


def test_neighbours_give_no_hidden_frame_away(cine: WebSite) -> None:
    cine.exam.settings.review.share = 1.0
    lead = cine.browser("lead")
    answer = Answer("Dr Ng", verdict="standard", reason="measurable")
    reviews.override(cine.exam.settings, 6, answer)
    for finding in (5, 6):
        text = lead.get(f"/exams/3?finding={finding}").text
        assert 'id="cine"' not in text
    assert "To be read blinded" in text


def test_measurements_of_the_machine_are_listed_by_fetus(site: WebSite) -> None:
    report = ultrasound_header(
        SOPInstanceUID="1.2.6", PatientID="CANARY-1", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33"
    )
    site.exam.measure(
        report, MeasuredValue("A", "CRL", 61.24, "mm"), MeasuredValue("B", "GA", 88.0, "d")
    )
    text = site.browser("lead").get("/exams/1").text
    rows = re.findall(r"<tr><td>([AB])</td><th scope=\"row\">(.*?)</th><td.*?>(.*?)</td>", text)
    assert rows == [("A", "crown-rump length", "61.2 mm"), ("B", "gestational age", "12+4")]


def test_contents_of_an_image_and_reports_are_listed(site: WebSite) -> None:
    assert "Contents of this image" not in site.browser("lead").get("/exams/1").text
    header = ultrasound_header(
        SOPInstanceUID="1.2.826.0.1.3680043.10.1.1.1", PatientID="CANARY-1", StudyID="again"
    )
    source = SourceInstance.of(header, "")
    site.exam.receive(header, nuchal_finding(source, revision=2), pixels="others")
    text = site.browser("lead").get("/exams/1").text
    finding = re.search(r'href="/exams/1\?finding=4"', text)
    assert finding is not None
    text = site.browser("lead").get("/exams/1?finding=4").text
    contents = text.partition("Contents of this image")[2].partition("</section>")[0]
    assert "first ones" in contents
    assert "other ones than before" in contents
    assert "Report 1" not in text
    site.exam.close()
    assert site.exam.report()
    assert "Report 1:" in site.browser("lead").get("/exams/1").text


def test_a_probability_says_what_it_is_of(site: WebSite) -> None:
    page = site.browser("lead").get("/exams/1").text
    assert re.search(
        r"<p>Probability of this view: [^<]+; that it is a standard one: [^<]+</p>", page
    )
