"""Which slow tests CI runs: those of which something that they cover has changed since they passed.

    python -m tools.slow_tests                    print their paths
    python -m tools.slow_tests --passed PATHS     note that they pass at this commit

Where a file's tests last passed is a ref of the repository, refs/slow-tests/PATH. Without one, what
changed in the last six hours counts: work comes in sittings of three hours, and each ends with a
run. In a clone without history everything counts as changed.
"""

import argparse
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
REFS = "refs/slow-tests"
RECENT = "6 hours ago"
LOCK = "requirements.lock"

# The beginnings of the paths that a file's slow tests are about, beside the file itself.
_NETWORKS = ("model/spatialclip/", "model/describer/", "model/bundle/", "detector/yolo/")
_JUDGING = (*_NETWORKS, "model/judge.py", "model/criteria/", "model/calibration.py")
_LEARNING = (*_NETWORKS, "training/data/", "training/train/", "training/recipes.py")
_RECEIVED = ("qc_daemon/receive/", "qc_daemon/spool/", "qc_daemon/records/received/")
_QUEUE = ("qc_daemon/records/queue/", "qc_daemon/job_runner.py", "qc_daemon/service/")
_AUDITS = (
    *("qc_daemon/audit/statistics/", "qc_daemon/audit/subjects/", "qc_daemon/audit/drift/"),
    *("qc_daemon/audit/audit.py", "qc_daemon/audit/measures.py", "qc_daemon/audit/nuchal.py"),
    *("qc_daemon/audit/readings.py", "qc_daemon/audit/rows.py", "training/phantom/history/"),
)
_SR = ("qc_daemon/report/sr/", "qc_daemon/report/exam.py", "qc_daemon/report/equipment.py")
_FAULTS = (*_RECEIVED, *_QUEUE, "qc_daemon/score/", "tests/support/fault_load.py")
COVERAGE: dict[str, tuple[str, ...]] = {
    "tests/audit/reports/test_report_screens.py": (
        *("qc_daemon/audit/charts/", "qc_daemon/audit/reports/", "qc_daemon/language/"),
        "tests/support/browser.py",
    ),
    "tests/audit/test_audit.py": _AUDITS,
    "tests/backup/test_drill.py": (
        *("qc_daemon/backup/", "qc_daemon/spool/", "qc_daemon/records/schema.py", "migrations/"),
        *("qc_daemon/records/integrity.py", "qc_daemon/records/store.py"),
    ),
    "tests/deploy/test_package.py": ("deploy/",),
    "tests/deploy/test_sbom.py": ("deploy/make_sbom.sh", "deploy/requirements/"),
    "tests/faults/test_bundle_activated.py": (*_FAULTS, "qc_daemon/operations/bundles.py"),
    "tests/faults/test_clock.py": (*_RECEIVED, *_QUEUE, "qc_daemon/records/clock.py"),
    "tests/faults/test_kill.py": _FAULTS,
    "tests/interop/test_canary_files.py": (
        *("qc_daemon/observe/", "qc_daemon/backup/", "qc_daemon/operations/support.py"),
        *("qc_daemon/audit_trail/", "qc_daemon/service/", "qc_daemon/deliver/folder.py"),
    ),
    "tests/interop/test_commitment_by_orthanc.py": (
        *("qc_daemon/deliver/", "qc_daemon/records/commitment/", "qc_daemon/records/queue/"),
    ),
    "tests/interop/test_review_in_browser.py": (
        *("qc_daemon/web/", "qc_daemon/operations/review", "qc_daemon/review/"),
        *("qc_daemon/report/", "qc_daemon/deliver/", "tests/support/browser.py"),
    ),
    "tests/interop/test_review_orthanc.py": (
        *("qc_daemon/deliver/", "qc_daemon/report/", "qc_daemon/operations/reviews.py"),
    ),
    "tests/interop/test_web_load.py": ("qc_daemon/web/", *_RECEIVED, "benchmarks/web.py"),
    "tests/interop/test_soak.py": (*_RECEIVED, *_QUEUE, "qc_daemon/deliver/", "benchmarks/soak.py"),
    "tests/model/dual_branch/test_checkpoint.py": ("model/dual_branch/",),
    "tests/model/dual_branch/test_network.py": ("model/dual_branch/",),
    "tests/model/fetalclip/test_checkpoint.py": ("model/fetalclip/", "model/spatialclip/"),
    "tests/model/fetalclip/test_decoder.py": ("model/fetalclip/", "model/nextgen_uia/"),
    "tests/model/runtime/test_openvino_cpu.py": (
        *("model/runtime/", "model/bundles/", "detector/yolo/yolo.py"),
        "model/spatialclip/network.py",
    ),
    "tests/model/spatialclip/test_full_size.py": (*_NETWORKS, "model/judge.py"),
    "tests/operations/test_audits.py": (
        *_AUDITS,
        *("qc_daemon/operations/audits.py", "qc_daemon/operations/result_import.py"),
        *("qc_daemon/records/results/audit", "qc_daemon/records/results/imports.py"),
    ),
    "tests/operations/test_reviews.py": (
        *("qc_daemon/review/", "qc_daemon/records/results/reviews.py"),
        *("qc_daemon/operations/review_files.py", "qc_daemon/operations/reviews.py"),
    ),
    "tests/operations/test_site_files.py": ("model/site/", "qc_daemon/operations/site"),
    "tests/receive/test_fuzz.py": (*_RECEIVED, "qc_daemon/dicom/", "tests/support/fuzzing.py"),
    "tests/report/sr/test_reviews.py": (*_SR, "qc_daemon/review/"),
    "tests/report/sr/test_sr_matrix.py": (*_SR, "tests/support/sr_matrix.py"),
    "tests/score/test_wraps.py": ("detector/imaging/", "model/bundles/", "qc_daemon/score/decode"),
    "tests/tools/test_install_locks.py": ("tools/install_locks.py",),
    "tests/tools/test_site.py": ("docs/", "mkdocs.yml"),
    "tests/training/bundling/test_default_bundle.py": (
        *(*_JUDGING, "detector/imaging/", "model/bundles/"),
        *("training/phantom/", "training/evaluation/"),
    ),
    "tests/training/bundling/test_make.py": ("training/bundling/", "model/bundle/"),
    "tests/training/commands/test_resumption.py": ("training/commands/", "training/train/"),
    "tests/training/crossval/test_run.py": (*_LEARNING, "training/crossval/"),
    "tests/training/evaluation/test_evaluate.py": (*_JUDGING, "training/evaluation/"),
    "tests/training/test_models_tutorial.py": (
        *("docs/models-tutorial.md", "training/commands/", "training/train/", "training/phantom/"),
        *("model/parts/", "model/nextgen_uia/", "model/dual_branch/"),
    ),
    "tests/training/test_reviewed_samples.py": (
        *(*_LEARNING, "training/evaluation/", "qc_daemon/operations/review_training.py"),
    ),
    "tests/training/train/dual_branch/test_trainer.py": (
        *("training/train/dual_branch/", "training/train/loop.py", "training/train/runs.py"),
    ),
    "tests/web/test_api_schema.py": ("qc_daemon/web/api/", "qc_daemon/operations/changes/"),
    "tests/web/test_browser.py": (
        *("qc_daemon/web/", "qc_daemon/operations/review", "tests/support/browser.py"),
    ),
    "tests/web/test_browser_login.py": (
        *("qc_daemon/web/", "qc_daemon/operations/logins/", "tests/support/browser.py"),
        "tests/support/oidc_provider.py",
    ),
    "tests/web/test_browser_operations.py": (
        *("qc_daemon/web/", "qc_daemon/operations/changes/", "tests/support/browser.py"),
    ),
}


def list_due(root: Path = ROOT) -> list[str]:
    """The files whose slow tests are to run, in order of their paths."""
    if _git(root, "rev-parse", "--is-shallow-repository") != ["false"]:
        return list(COVERAGE)
    lines = _git(root, "for-each-ref", "--format=%(refname) %(objectname)", REFS)
    passed = dict(line.removeprefix(f"{REFS}/").split() for line in lines)
    changes = {commit: _read_changes(root, commit) for commit in {*passed.values(), None}}
    return [
        path
        for path, covered in COVERAGE.items()
        if changes[passed.get(path)].touch((path, *covered))
    ]


def note_passed(paths: list[str], root: Path = ROOT) -> None:
    """Note that the slow tests of these files pass at this commit."""
    for path in paths:
        _git(root, "update-ref", f"{REFS}/{path}", "HEAD")


@dataclass(frozen=True, slots=True)
class Changes:
    """The paths that changed, and whether a package has another version."""

    paths: list[str]
    has_other_versions: bool

    def touch(self, beginnings: tuple[str, ...]) -> bool:
        return self.has_other_versions or any(path.startswith(beginnings) for path in self.paths)


def _read_changes(root: Path, commit: str | None) -> Changes:
    """What changed since the commit; lately, without one or where it is no ancestor: another
    branch's pass says nothing of this one."""
    what: tuple[str, ...] = ("log", "--format=", f"--since={RECENT}")
    if commit is not None and _git(root, "merge-base", commit, "HEAD") == [commit]:
        what = ("diff", commit, "HEAD")
    paths = _git(root, *what, "--name-only", "--no-renames")
    patch = _git(root, *what, "--patch", "--", LOCK) if LOCK in paths else []
    return Changes(paths, _has_other_versions(patch))


def _has_other_versions(patch: list[str]) -> bool:
    """Whether a package that was there before has another version, or is gone."""
    return any(re.match(r"-[\w.-]+==", line) for line in patch)


def _git(root: Path, *arguments: str) -> list[str]:
    """The lines that git prints; none where it fails: there is no repository."""
    process = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    return process.stdout.splitlines() if process.returncode == 0 else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passed", nargs="+", metavar="PATH", help="note that these pass")
    passed = parser.parse_args().passed
    if passed:
        note_passed(passed)
    else:
        print(*list_due())


if __name__ == "__main__":
    main()
