"""What a host gets may be combined with AGPL-3.0-or-later, or there is a reason for it."""

import pytest

from tools.licences import (
    NOTICE,
    REASONS,
    installed_licences,
    is_allowed,
    locked_packages,
    notice_problems,
    noticed,
    problems,
    reason_for,
)

SOUND = {"pylibjpeg-libjpeg", "cuda-toolkit", "nvidia-cufft"}


@pytest.mark.parametrize(
    "licence",
    ["MIT", "Apache-2.0 OR BSD-2-Clause", "GPL-2.0-only OR MIT", "MPL-2.0 AND MIT", "BSD License"],
)
def test_allowed(licence: str) -> None:
    assert is_allowed(licence)


@pytest.mark.parametrize(
    "licence",
    [
        "GPL-2.0-only",
        "Apache-2.0 AND GPL-2.0-only",
        "MIT License; Other/Proprietary License",
        "CC-BY-NC-4.0",
        "UNKNOWN",
        "",
        # Too much for a rule without brackets: a person has to look.
        "MIT AND (GPL-2.0-only OR SSPL-1.0)",
    ],
)
def test_not_allowed(licence: str) -> None:
    assert not is_allowed(licence)


def test_a_package_that_may_not_be_there_is_named() -> None:
    licences = dict.fromkeys(SOUND, "UNKNOWN") | {"good": "MIT", "bad-one": "SSPL-1.0"}
    assert list(problems({*SOUND, "good", "Bad_One"}, licences)) == [
        "bad-one: SSPL-1.0 is not allowed; see tools/licences.py"
    ]


def test_a_package_that_is_not_installed_is_named() -> None:
    (line,) = problems({*SOUND, "gone"}, dict.fromkeys(SOUND, "UNKNOWN"))
    assert line.startswith("gone: is not installed here")


def test_a_reason_that_nothing_needs_is_named() -> None:
    lines = list(problems({"pylibjpeg-libjpeg"}, {"pylibjpeg-libjpeg": "GPL-3.0"}))
    assert len(lines) == len(REASONS) - 1
    assert reason_for("nvidia-cublas") == REASONS["nvidia-*"]
    assert reason_for("not-nvidia-cublas") is None


def test_every_locked_package_may_be_there() -> None:
    assert list(problems(locked_packages(), installed_licences())) == []


def test_notice_has_the_licences_that_the_packages_state() -> None:
    notice = NOTICE.read_text(encoding="utf-8")
    assert len(dict(noticed(notice))) > 30
    assert list(notice_problems(notice, installed_licences())) == []


def test_a_package_that_notice_has_otherwise_is_named() -> None:
    notice = "carries (each under its own licence):\n  good, PyAV    MIT\n  bad   BSD-3-Clause\n\n"
    licences = {"good": "MIT License", "av": "MIT", "bad": "Apache-2.0"}
    assert list(notice_problems(notice, licences)) == [
        "NOTICE: bad is under Apache-2.0, and not under BSD-3-Clause"
    ]
    assert list(notice_problems(notice, {"good": "MIT", "av": "MIT"})) == [
        "NOTICE: bad is not installed here, so its licence is not known"
    ]
