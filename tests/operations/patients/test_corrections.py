"""Patients are merged and corrected: in what is searched, and in new versions of their SRs."""

import json
import shlex
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import text

from detector.console import UsageError
from detector.errors import Flag, QCError
from qc_daemon.audit_trail.recorder import chain_folder
from qc_daemon.backup import restore, save
from qc_daemon.fhir.bundle import encode, to_bundle
from qc_daemon.operations.patients.corrections import CorrectionResult, correct, merge, split
from qc_daemon.operations.patients.erasure import erase
from qc_daemon.operations.rejections import reject
from qc_daemon.records.patients import changes, identities
from qc_daemon.records.received.receipts import admit
from qc_daemon.records.tables import JobKind
from qc_daemon.report.equipment import to_bytes
from qc_daemon.settings import DestinationSettings
from tests.support.clinic import ANNA, BERTA, NAMES, STUDIES, Clinic
from tests.support.command_line import qc_daemon_here
from tests.support.report_objects import ultrasound_header
from tests.support.scored_exam import START, write_to_spool

BY = "Dr Lee"


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path / "site")


def reports_of(result: CorrectionResult) -> list[str]:
    return [each["report"] for each in result.document["exams"]]


def replaced(report: Dataset) -> str:
    """The SOP Instance UID that an SR names as its predecessor."""
    [study] = report.PredecessorDocumentsSequence
    [series] = study.ReferencedSeriesSequence
    return str(series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def test_a_merge_is_in_new_reports_and_in_what_is_searched(clinic: Clinic) -> None:
    originals = {path: path.read_bytes() for path in clinic.settings.store.spool.rglob("*.dcm")}
    [former] = clinic.reports(ANNA)
    result = merge(clinic.settings, ANNA, BERTA, BY)
    assert reports_of(result) == ["amended", "unchanged"]
    assert result.document["exams"][0]["destinations"] == ["pacs"]
    assert clinic.rows() == [(BERTA, NAMES[BERTA]), (BERTA, NAMES[BERTA])]
    clinic.report()
    [_, amended] = clinic.reports(ANNA)
    assert (amended.PatientID, str(amended.PatientName)) == (BERTA, NAMES[BERTA])
    assert amended.SOPInstanceUID != former.SOPInstanceUID
    assert replaced(amended) == former.SOPInstanceUID
    assert former.PatientID == ANNA
    assert len(clinic.reports(BERTA)) == 1
    # What was received is not touched.
    assert {path: path.read_bytes() for path in originals} == originals
    resources = encode(to_bundle(to_bytes(amended)))
    assert BERTA.encode() in resources
    assert ANNA.encode() not in resources


def test_what_comes_later_with_the_old_id_is_the_merged_patients(clinic: Clinic) -> None:
    merge(clinic.settings, ANNA, BERTA, BY)
    clinic.receive(ANNA, 2)
    clinic.receive(ANNA, 3, StudyInstanceUID="1.2.840.113619.2.1.3")
    assert clinic.rows() == [(BERTA, NAMES[BERTA])] * 3
    clinic.report()
    assert clinic.reports(ANNA)[-1].PatientID == BERTA
    assert Flag.OTHER_PATIENT_IN_STUDY.value not in str(clinic.reports(ANNA)[-1])


def test_one_that_came_while_it_was_merged_is_put_right_when_it_closes(clinic: Clinic) -> None:
    clinic.receive(ANNA, 3, StudyInstanceUID="1.2.840.113619.2.1.3")
    merge(clinic.settings, ANNA, BERTA, BY)
    with clinic.exam.store.begin() as session:
        session.execute(text(f"UPDATE exam SET patient_id = '{ANNA}' WHERE id = 3"))
    clinic.report()
    assert clinic.rows()[2] == (BERTA, NAMES[BERTA])


def test_done_again_it_changes_nothing(clinic: Clinic) -> None:
    assert merge(clinic.settings, ANNA, BERTA, BY).effect.number == 1
    before = clinic.dump()
    again = merge(clinic.settings, ANNA, BERTA, BY)
    assert again.lines == ["nothing to change: it is so already"]
    assert correct(clinic.settings, BERTA, BY, name=NAMES[BERTA]).effect.number == 2
    result = correct(clinic.settings, BERTA, BY, birth_date="1991-01-02")
    assert reports_of(result) == ["amended", "amended"]
    after = clinic.dump()
    assert correct(clinic.settings, BERTA, BY, birth_date="19910102").effect.number is None
    assert clinic.dump() == after != before


def test_a_merge_is_undone_by_split(clinic: Clinic) -> None:
    before = clinic.rows("patient_id, patient_name, patient_words, received_patient_name")
    merge(clinic.settings, ANNA, BERTA, BY)
    clinic.report()
    result = split(clinic.settings, ANNA, BY)
    assert reports_of(result) == ["amended", "unchanged"]
    clinic.report()
    assert clinic.rows("patient_id, patient_name, patient_words, received_patient_name") == before
    third = clinic.reports(ANNA)[2]
    assert (third.PatientID, str(third.PatientName)) == (ANNA, NAMES[ANNA])
    assert replaced(third) == clinic.reports(ANNA)[1].SOPInstanceUID
    with pytest.raises(QCError, match="not merged into another"):
        split(clinic.settings, ANNA, BY)


def test_a_correction_is_in_new_reports_and_undone_by_its_inverse(clinic: Clinic) -> None:
    name = "Müller^Änne=王^小东"
    said = {"name": name, "birth_date": "1991-01-02", "new_id": "CANARY-9", "issuer": "HOSPITAL"}
    result = correct(clinic.settings, ANNA, BY, **said)
    assert reports_of(result) == ["amended"]
    clinic.report()
    amended = clinic.reports(ANNA)[-1]
    assert (amended.PatientID, amended.IssuerOfPatientID) == ("CANARY-9", "HOSPITAL")
    assert (str(amended.PatientName), amended.PatientBirthDate) == (name, "19910102")
    assert "PatientAge" not in amended
    assert clinic.rows()[0] == ("CANARY-9", name)
    # A newer header does not overrule what was said.
    clinic.receive(ANNA, 2)
    assert clinic.rows()[0] == ("CANARY-9", name)
    clinic.report()
    correct(clinic.settings, "CANARY-9", BY, new_id=ANNA)
    correct(clinic.settings, ANNA, BY, is_as_received=True)
    clinic.report()
    last = clinic.reports(ANNA)[-1]
    assert (last.PatientID, str(last.PatientName)) == (ANNA, NAMES[ANNA])
    assert (last.PatientBirthDate, last.PatientAge) == ("19900531", "036Y")
    assert last.IssuerOfPatientID == "WARD"


def test_two_patients_in_one_study_are_one_after_the_merge(clinic: Clinic) -> None:
    """Somebody was selected wrongly at the machine."""
    clinic.receive(BERTA, 9, StudyInstanceUID=STUDIES[ANNA])
    clinic.report()
    assert len(clinic.reports(ANNA)) == 3
    result = merge(clinic.settings, ANNA, BERTA, BY)
    assert reports_of(result) == ["amended", "unchanged", "amended"]
    clinic.report()
    with clinic.exam.store.read() as session:
        assert identities.exam_ids(session, BERTA) == [1, 2, 3]
    # And the flag comes back with the second patient.
    assert reports_of(split(clinic.settings, ANNA, BY)) == ["amended", "unchanged", "amended"]


def test_an_open_exam_has_it_in_its_first_report(clinic: Clinic) -> None:
    clinic.receive(ANNA, 3, StudyInstanceUID="1.2.840.113619.2.1.3")
    result = correct(clinic.settings, ANNA, BY, name="Canary^Agnes")
    assert reports_of(result) == ["amended", "in its next report"]


def test_a_note_of_a_rejection_has_it_too(clinic: Clinic) -> None:
    clinic.settings.destination = [DestinationSettings(name="pacs", objects=["sr", "key-objects"])]
    merge(clinic.settings, ANNA, BERTA, BY)
    reject(clinic.settings, f"{STUDIES[ANNA]}.1", "111209", BY)
    [note] = [each for each in clinic.exam.sent() if each.kind == "key-objects"]
    assert dcmread(BytesIO(note.payload or b"")).PatientID == BERTA


def test_a_dry_run_says_the_same_and_changes_nothing(clinic: Clinic) -> None:
    before = clinic.dump()
    draft = merge(clinic.settings, ANNA, BERTA, "", is_preview=True)
    assert clinic.dump() == before
    assert draft.lines[0] == "What would change"
    done = merge(clinic.settings, ANNA, BERTA, BY)
    assert draft.lines[1:] == done.lines[1:]
    assert draft.document["number"] is None


def refused(question: Any) -> str:
    with pytest.raises((QCError, UsageError)) as raised:
        question()
    line = str(raised.value)
    assert "\n" not in line
    return line


def test_what_cannot_be_done_is_one_line(clinic: Clinic) -> None:
    settings = clinic.settings
    before = clinic.dump()
    assert "into itself" in refused(lambda: merge(settings, ANNA, ANNA, BY))
    assert "no exam of Patient ID 1" in refused(lambda: merge(settings, "1", ANNA, BY))
    assert "no exam of Patient ID 1" in refused(lambda: merge(settings, ANNA, "1", BY))
    assert "no exam of Patient ID 1" in refused(lambda: split(settings, "1", BY))
    assert "use patient merge" in refused(lambda: correct(settings, ANNA, BY, new_id=BERTA))
    assert "give a day" in refused(lambda: correct(settings, ANNA, BY, birth_date="31.5.1990"))
    assert "--name" in refused(lambda: correct(settings, ANNA, BY, name="a\\b"))
    assert "--new-id" in refused(lambda: correct(settings, ANNA, BY, new_id="9" * 65))
    assert "give what is to be corrected" in refused(lambda: correct(settings, ANNA, BY))
    assert "--from" in refused(lambda: merge(settings, "", ANNA, BY))
    assert clinic.dump() == before
    merge(settings, ANNA, BERTA, BY)
    assert f"is {BERTA} by now" in refused(lambda: correct(settings, ANNA, BY, name="A^B"))
    assert f"is {BERTA} by now" in refused(lambda: erase(settings, ANNA, BY))
    assert "patient split" in refused(lambda: merge(settings, BERTA, ANNA, BY))


def finish_jobs(clinic: Clinic) -> None:
    with clinic.exam.store.begin() as session:
        session.execute(text("UPDATE job SET state = 'done', owner = NULL, lease_token = NULL"))


def test_one_who_was_erased_cannot_be_merged(clinic: Clinic) -> None:
    finish_jobs(clinic)
    erase(clinic.settings, ANNA, BY)
    for one, other in ((ANNA, BERTA), (BERTA, ANNA)):
        line = refused(lambda a=one, b=other: merge(clinic.settings, a, b, BY))
        assert line == f"the data of Patient ID {ANNA} were erased: see erasure show 1"


def test_erasing_a_merged_patient_leaves_neither(clinic: Clinic, tmp_path: Path) -> None:
    merge(clinic.settings, ANNA, BERTA, BY)
    clinic.report()
    finish_jobs(clinic)
    assert erase(clinic.settings, BERTA, BY).certificate["removed"]["exams"] == 2
    assert not any(clinic.dump()[:3])
    clinic.exam.store.close()
    stored = (tmp_path / "site" / "qc.db").read_bytes()
    assert b"CANARY" not in stored
    assert b"Canary" not in stored


def test_a_restore_names_a_merge_that_works_where_one_has_no_exam(
    clinic: Clinic, tmp_path: Path
) -> None:
    save(clinic.settings, tmp_path / "backup", START)
    with clinic.exam.store.begin() as session:
        for one, other in ((ANNA, "CANARY-1"), ("CANARY-2", BERTA), (BERTA, "CANARY-1")):
            changes.merge(session, one, other, BY, START, is_new_id_allowed=True)
    rows = clinic.rows()
    clinic.exam.store.close()
    decisions = restore(clinic.settings, tmp_path / "backup", START).decisions.decisions
    config = tmp_path / "qc-daemon.toml"
    store = clinic.settings.store
    config.write_text(f'[store]\nurl = "{store.url}"\nspool = "{store.spool}"\n')
    for each in decisions:
        if each.kind == "patient merged, split or corrected":
            words = shlex.split(each.command)[1:]
            result = qc_daemon_here(*words, "-c", str(config))
            assert result.returncode == 0, result.stderr
    assert clinic.rows() == rows


def test_a_split_names_those_who_came_with_it_and_stay(clinic: Clinic) -> None:
    with clinic.exam.store.begin() as session:
        for one, other in ((ANNA, BERTA), (BERTA, "CANARY-1")):
            changes.merge(session, one, other, BY, START, is_new_id_allowed=True)
    result = split(clinic.settings, BERTA, BY)
    assert result.document["companions"] == [ANNA]
    assert result.lines[-1].startswith(f"Patient ID {ANNA} came with this one and stays: split")
    assert [patient for patient, _ in clinic.rows()] == ["CANARY-1", BERTA]
    split(clinic.settings, ANNA, BY)
    assert [patient for patient, _ in clinic.rows()] == [ANNA, BERTA]


def test_a_restore_of_before_a_merge_names_the_erasure_of_each_number(
    clinic: Clinic, tmp_path: Path
) -> None:
    save(clinic.settings, tmp_path / "backup", START)
    merge(clinic.settings, ANNA, BERTA, BY)
    clinic.report()
    finish_jobs(clinic)
    erase(clinic.settings, BERTA, BY)
    assert "erasure show 1" in refused(lambda: merge(clinic.settings, ANNA, "X", BY))
    clinic.exam.store.close()
    decisions = restore(clinic.settings, tmp_path / "backup", START).decisions.decisions
    assert [each.command for each in decisions if each.kind == "patient erased"] == [
        f"qc-daemon patient erase '--by=Dr Lee' --yes {each}" for each in (BERTA, ANNA)
    ]


def test_a_number_without_images_is_erased_too(clinic: Clinic) -> None:
    with clinic.exam.store.begin() as session:
        changes.merge(session, "CANARY-1", "CANARY-2", BY, START, is_new_id_allowed=True)
    result = erase(clinic.settings, "CANARY-2", BY)
    assert result.certificate["removed"]["corrections of the patient"] == 2
    assert not any(clinic.dump()[1:3])
    assert erase(clinic.settings, "CANARY-2", BY).number is None


def test_the_audit_log_has_it_without_a_name(clinic: Clinic) -> None:
    merge(clinic.settings, ANNA, BERTA, BY)
    correct(clinic.settings, BERTA, BY, name="Canary^Zoe", birth_date="1991-01-02")
    records = [
        json.loads(line)
        for path in sorted(chain_folder(clinic.settings).rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    merged, corrected = [each for each in records if each.get("kind") == "patient-changed"]
    assert (merged["patient_id"], merged["objects"]["into"]) == (ANNA, BERTA)
    assert (merged["detail"], corrected["detail"]) == ({"what": "merged"}, {"what": "corrected"})
    assert "Canary^" not in str(records)
    assert "1991" not in str([each["detail"] for each in records if "detail" in each])


def test_a_restore_that_undoes_them_names_the_commands(clinic: Clinic, tmp_path: Path) -> None:
    save(clinic.settings, tmp_path / "backup", START)
    merge(clinic.settings, ANNA, BERTA, BY, "WARD 2")
    split(clinic.settings, ANNA, BY)
    correct(clinic.settings, ANNA, BY, name="Canary^Zoe", new_id="-9")
    correct(clinic.settings, "-9", BY, is_as_received=True)
    clinic.exam.store.close()
    restoration = restore(clinic.settings, tmp_path / "backup", START)
    commands = [
        each.command
        for each in restoration.decisions.decisions
        if each.kind == "patient merged, split or corrected"
    ]
    assert commands == [
        f"qc-daemon patient merge --from={ANNA} --into={BERTA} '--issuer=WARD 2' '--by=Dr Lee'",
        f"qc-daemon patient split '--by=Dr Lee' {ANNA}",
        f"qc-daemon patient correct '--name=Canary^Zoe' --new-id=-9 '--by=Dr Lee' {ANNA}",
        "qc-daemon patient correct --as-received '--by=Dr Lee' -- -9",
    ]


def test_the_commands(clinic: Clinic, tmp_path: Path) -> None:
    store = clinic.settings.store
    config = tmp_path / "qc-daemon.toml"
    config.write_text(
        f'[store]\nurl = "{store.url}"\nspool = "{store.spool}"\n'
        f'[audit_log]\nfolder = "{tmp_path / "audit-log"}"\n'
    )

    def run(*words: str, status: int = 0) -> str:
        done = qc_daemon_here(*words, "-c", str(config))
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    pair = ("--from", ANNA, "--into", BERTA)
    assert "--by NAME" in run("patient", "merge", *pair, status=2)
    assert "goes to pacs" in run("patient", "merge", *pair, "--dry-run")
    assert f"now {BERTA}" in run("patient", "merge", *pair, "--by", BY)
    assert "nothing to change" in run("patient", "merge", *pair, "--by", BY)
    lines = run("exam", "list", "--patient", BERTA, "--format", "jsonl").splitlines()
    listed = [json.loads(line) for line in lines]
    assert [each["patient_name"] for each in listed] == [NAMES[BERTA]] * 2
    assert "nothing" not in run("patient", "split", ANNA, "--by", BY)
    document = json.loads(
        run("patient", "correct", ANNA, "--name", "Canary^Zoe", "--by", BY, "--format", "json")
    )
    assert document["number"] == 3
    assert "Zoe" in run("exam", "list", "--patient", "zoe")
    assert "is another patient's here" in run(
        "patient", "correct", ANNA, "--new-id", BERTA, "--by", BY, status=1
    )


def test_an_image_that_says_no_patient_is_no_ones_alias(clinic: Clinic) -> None:
    header = ultrasound_header(PatientID="", StudyInstanceUID="1.2.3.4", SOPInstanceUID="1.2.3.4.1")
    _, receipt = write_to_spool(header, clinic.settings.store.spool)
    with clinic.exam.store.begin() as session:
        admit(session, receipt, source_destinations=(), bundle_id=None, now=clinic.exam.now)
    assert clinic.rows("patient_id, received_patient_id")[-1] == ("", "")
    assert clinic.exam.jobs(JobKind.SCORE)
