"""The dashboard shows every metric of the endpoint, and no other."""

import json
import re
import subprocess
from pathlib import Path

from qc_daemon.records.results import audits, bundles
from tests.support.environment import ROOT
from tests.support.observed_service import NOW, ObservedService
from tools.dashboard import DASHBOARD, dashboard, expressions

METRIC = re.compile(r"\bqc_daemon_\w+")
RULES = ROOT / "deploy" / "prometheus" / "qc-daemon.rules.yml"
PARTS = re.compile(r"_(?:total|bucket|count|sum)$")


def families(text: str) -> set[str]:
    return {PARTS.sub("", name) for name in METRIC.findall(text)}


def exposed(folder: Path) -> set[str]:
    """The families that the endpoint has, with an audit, a bundle, and backups."""
    observed = ObservedService.make(folder, backup={"folder": folder / "backups"}).start()
    try:
        with observed.store.begin() as session:
            audits.queue(session, audits.NIGHTLY, "2026-11-01", NOW)
            claimed = audits.claim(session, "owner", NOW, 60)
            assert claimed is not None
            audits.finish(session, claimed, {"data_sha256": "0" * 64, "drift": []}, NOW)
            bundles.activate(session, "mine", "/bundles/mine", "ab" * 32, NOW)
        _, text = observed.get("/metrics")
    finally:
        observed.close()
    return {PARTS.sub("", name) for name in re.findall(r"^# HELP (\w+)", text, re.MULTILINE)}


def test_each_metric_is_in_a_panel_and_each_panel_and_alert_is_of_metrics(tmp_path: Path) -> None:
    metrics = exposed(tmp_path)
    assert families(" ".join(expressions())) == metrics
    assert families(RULES.read_text(encoding="utf-8")) <= metrics


def test_the_dashboard_is_up_to_date() -> None:
    """If not: `make dashboard`."""
    assert DASHBOARD.read_text(encoding="utf-8") == dashboard()


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = json.loads(dashboard())["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (each["gridPos"] for each in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_prometheus_understands_each_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions())
    ]
    # JSON is YAML.
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    run = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
