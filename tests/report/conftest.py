"""A sound ultrasound header and findings of it."""

from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset

from model.finding import Finding
from qc_daemon.report.source import SourceInstance
from tests.support.report_objects import nuchal_finding, source_instance, ultrasound_header


@pytest.fixture(scope="session")
def us_header() -> Callable[..., Dataset]:
    return ultrasound_header


@pytest.fixture(scope="session")
def a_source() -> Callable[..., SourceInstance]:
    return source_instance


@pytest.fixture(scope="session")
def a_finding() -> Callable[..., Finding]:
    return nuchal_finding
