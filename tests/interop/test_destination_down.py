"""A PACS that is away: what it should have waits, and goes out once when it is back."""

from collections import Counter
from collections.abc import Callable

import pytest

from detector.anatomy import View
from detector.errors import ErrorCode
from qc_daemon.records.queue import jobs
from qc_daemon.records.tables import JobKind, JobState
from qc_daemon.report.objects.overlay import SERIES_DESCRIPTION as OVERLAYS
from qc_daemon.report.sr.document import SERIES_DESCRIPTION as REPORTS
from tests.interop.conftest import SETTLE_SECONDS, Deployment
from tests.support.command_line import qc_daemon
from tests.support.peers import store
from tests.support.waiting import eventually
from training.phantom.dicom import exam

pytestmark = pytest.mark.timeout(1800)


def test_a_report_waits_for_its_destination_and_is_sent_once(
    make_deployment: Callable[..., Deployment],
) -> None:
    deployment = make_deployment()
    port = deployment.service.spawn().port
    pictures = exam(815, views=(View.CRL,), cine_frames=0)
    assert store(port, *pictures) == [0, 0]

    def waiting() -> list[jobs.Job]:
        """Deliver jobs of our own objects that are to be tried, or tried again."""
        return [
            job
            for job in deployment.pending()
            if job.kind is JobKind.DELIVER
            and job.object_id is not None
            and job.state is JobState.READY
        ]

    def failed_deliveries() -> list[jobs.Job]:
        return [j for j in deployment.pending() if j.error_code == ErrorCode.DELIVERY_UNREACHABLE]

    # A report and an overlay of each picture; not all are tried while the PACS is known to be away.
    eventually(lambda: len(waiting()) == 3 and failed_deliveries(), SETTLE_SECONDS)
    for job in failed_deliveries():
        assert job.alarms >= 1
        assert job.not_before > job.created_at
    process = qc_daemon("queue", "list", "--config", deployment.service.config)
    assert process.returncode == 0
    assert ErrorCode.DELIVERY_UNREACHABLE in process.stdout
    assert len([each for each in deployment.results() if "error" not in each]) == 2

    deployment.pacs.start()
    eventually(deployment.settled, SETTLE_SECONDS)
    assert len(deployment.pacs.of_series(REPORTS)) == 1
    assert len(deployment.pacs.of_series(OVERLAYS)) == 2
    assert len(deployment.pacs.instances()) == 5
    with deployment.store.read() as session:
        deliveries = jobs.listing(session, kinds=[JobKind.DELIVER])
    assert {job.state for job in deliveries} == {JobState.DONE}
    count_by_job = Counter(line["job"] for line in deployment.service.events("delivered"))
    assert count_by_job == dict.fromkeys((job.id for job in deliveries), 1)
