"""What accounts do on the pages is in the audit log: by account and address, without names."""

from tests.support.audit_log import content, records
from tests.support.web_site import CANARY, CANARY_FAMILY, MARKUP, WebSite


def test_log_ins_looks_and_reviews_are_recorded(site: WebSite) -> None:
    settings = site.exam.settings
    site.log_in(site.visitor(), "lead", "not the password")
    site.log_in(site.visitor(), "s3cret typed as a name")
    lead = site.browser("lead")
    assert lead.get("/exams/1").status_code == 200
    program = site.program("lead")
    assert program.get("/api/v1/findings/1").status_code == 200
    answer = program.post("/api/v1/findings/1/reviews", json={"verb": "accept", "version": 0})
    assert answer.status_code == 201, answer.text
    assert program.get("/api/v1/exams", params={"patient": CANARY}).status_code == 200
    of_lead = [each for each in records(settings) if each.get("actor", {}).get("id") == "lead"]
    kinds = [(each["kind"], each["success"]) for each in of_lead]
    assert kinds[:3] == [("login", False), ("login", True), ("viewed", True)]
    viewed = next(each for each in of_lead if each["kind"] == "viewed")
    assert viewed["patient_id"] == "CANARY-1"
    assert viewed["objects"]["exam"] == "1"
    assert {"reviewed", "searched"} <= {kind for kind, _ in kinds}
    assert all(each["actor"]["kind"] == "account" for each in of_lead)
    written = content(settings)
    assert CANARY_FAMILY not in written
    assert MARKUP not in written
    assert "s3cret" not in written
