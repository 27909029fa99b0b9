"""Reading a certificate's end, and warning of it in time."""

import io
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qc_daemon.dicom.certificates import earliest_expiry, not_after
from qc_daemon.observe import log
from qc_daemon.service.certificate_watch import CertificateWatch
from tests.support.certificates import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "ca")


def openssl_expiry(path: Path) -> datetime:
    out = subprocess.run(
        ["openssl", "x509", "-in", path, "-noout", "-enddate"], capture_output=True, text=True
    ).stdout
    moment = datetime.strptime(out.strip(), "notAfter=%b %d %H:%M:%S %Y GMT")
    return moment.replace(tzinfo=UTC)


# 60 years pass 2050, from where on the time has another form.
@pytest.mark.parametrize("days", [-1, 1, 365, 22000])
def test_the_end_is_openssls(authority: Authority, days: int) -> None:
    pair = authority.issue("service", days)
    assert earliest_expiry(pair.certificate) == openssl_expiry(pair.certificate)


def test_of_a_chain_the_first_to_end_counts(authority: Authority, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    parts = [authority.issue("service", 5).certificate, authority.certificate]
    chain.write_text("".join(each.read_text() for each in reversed(parts)))
    assert earliest_expiry(chain) == openssl_expiry(parts[0])


def test_a_file_without_a_certificate_is_an_error(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("service")
    with pytest.raises(ValueError, match="no certificate"):
        earliest_expiry(pair.key)
    cut = tmp_path / "cut.pem"
    cut.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    with pytest.raises(ValueError):
        earliest_expiry(cut)
    with pytest.raises(OSError):
        earliest_expiry(tmp_path / "none.pem")


@given(st.binary(max_size=80))
def test_any_bytes_are_no_certificate(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        not_after(data)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    out = io.StringIO()
    log.configure(stream=out)
    yield out
    log.configure("critical")


def warnings(pair: Pair, after: list[float], stream: io.StringIO) -> list[str]:
    """What is said, looking so many days from now one after the other."""
    start = datetime.now(UTC)
    moments = iter([start + timedelta(days=day) for day in after])
    expiry = CertificateWatch(pair.certificate, lambda: next(moments))
    for _ in after:
        expiry.check()
    return [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


def test_warned_of_daily_in_the_last_month(authority: Authority, stream: io.StringIO) -> None:
    pair = authority.issue("service", 31)
    after = [0.0, 0.5, 2.0, 2.5, 3.1, 40.0]
    assert warnings(pair, after, stream) == ["certificate expires soon"] * 2 + [
        "certificate has expired"
    ]


def test_a_missing_certificate_file_is_named(authority: Authority, stream: io.StringIO) -> None:
    pair = authority.issue("service")
    pair.certificate.unlink()
    assert warnings(pair, [0.0], stream) == ["certificate not readable"]
