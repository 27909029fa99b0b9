"""deploy/grafana/qc-daemon.json, made from the table of its panels.

`python -m tools.dashboard` writes it.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parent.parent / "deploy" / "grafana" / "qc-daemon.json"
_WIDTH, _PANEL_WIDTH, _PANEL_HEIGHT = 24, 8, 7
_AT = '{instance=~"$instance"}'
# Each metric's series are those of the instance that was chosen; `$` stands in its place below.


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart: its queries with what each line is called, and the unit of its axis."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"


def _p95(metric: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile(0.95, sum by ({labels}) (rate({metric}_bucket$[15m])))"


def _age(metric: str) -> str:
    return f"time() - ({metric}$ != 0)"


ROWS: dict[str, tuple[Panel, ...]] = {
    "At a glance": (
        Panel(
            "Processes: wanted, running, ready",
            (
                ("sum by (role) (qc_daemon_processes_wanted$)", "{{role}} wanted"),
                ("sum by (role) (qc_daemon_processes$)", "{{role}} running"),
                ("sum by (role) (qc_daemon_processes_ready$)", "{{role}} ready"),
            ),
        ),
        Panel(
            "Processes started again, an hour",
            (("increase(qc_daemon_process_restarts_total$[1h])", "{{role}}"),),
        ),
        Panel(
            "Database and back-pressure",
            (
                ("qc_daemon_database_up$", "database"),
                ("qc_daemon_pressure$", "back-pressure"),
                ("qc_daemon_version_info$", "version {{version}}"),
            ),
        ),
    ),
    "Receiving": (
        Panel(
            "Objects stored, a minute",
            (("60 * rate(qc_daemon_objects_stored_total$[5m])", "{{kind}}"),),
        ),
        Panel(
            "Objects refused and associations rejected, an hour",
            (
                ("increase(qc_daemon_objects_refused_total$[1h])", "refused {{status}}"),
                ("increase(qc_daemon_associations_rejected_total$[1h])", "rejected {{reason}}"),
            ),
        ),
        Panel(
            "Bytes received, a second",
            (("rate(qc_daemon_received_bytes_total$[5m])", "received"),),
            "Bps",
        ),
        Panel("Time to store an object (95 %)", ((_p95("qc_daemon_store_seconds"), "store"),), "s"),
        Panel("Associations open", (("qc_daemon_associations_open$", "open"),)),
        Panel(
            "Machines: since the last object",
            ((_age("qc_daemon_machine_last_object_timestamp_seconds"), "{{ae_title}}"),),
            "s",
        ),
        Panel("Machines that have gone quiet", (("qc_daemon_machine_quiet$", "{{ae_title}}"),)),
    ),
    "Queue, scoring, reporting": (
        Panel("Jobs not done", (("qc_daemon_jobs$", "{{kind}} {{state}}"),)),
        Panel("Longest waiting job", (("qc_daemon_oldest_due_job_seconds$", "{{kind}}"),), "s"),
        Panel(
            "Jobs done, a minute",
            (("60 * rate(qc_daemon_job_seconds_count$[5m])", "{{kind}}"),),
        ),
        Panel("Run of a job (95 %)", ((_p95("qc_daemon_job_seconds", "kind"), "{{kind}}"),), "s"),
        Panel(
            "Runs that failed, an hour",
            (("increase(qc_daemon_job_failures_total$[1h])", "{{kind}}"),),
        ),
        Panel(
            "Exams open, objects in quarantine",
            (
                ("qc_daemon_exams_open$", "exams open"),
                ("qc_daemon_objects_quarantined$", "in quarantine"),
            ),
        ),
    ),
    "Delivery": (
        Panel(
            "Deliveries, a minute",
            (("60 * rate(qc_daemon_deliveries_total$[5m])", "{{destination}} {{outcome}}"),),
        ),
        Panel(
            "Destinations: failing for",
            (
                (
                    _age("qc_daemon_destination_failing_since_timestamp_seconds"),
                    "{{destination}}",
                ),
            ),
            "s",
        ),
        Panel(
            "Commitments to report, originals asked back",
            (
                ("qc_daemon_commitments$", "commitments {{state}}"),
                ("increase(qc_daemon_originals_fetched_total$[1h])", "fetched {{outcome}}"),
            ),
        ),
    ),
    "Disk and certificates": (
        Panel(
            "Spool's disk",
            (
                ("qc_daemon_spool_free_bytes$", "free"),
                ("qc_daemon_spool_size_bytes$", "size"),
            ),
            "bytes",
        ),
        Panel(
            "Files: orphans, missing, damaged",
            (
                ("qc_daemon_spool_orphans$", "orphans"),
                ("qc_daemon_spool_missing$", "missing"),
                ("qc_daemon_spool_scrub_faults$", "faults of the scrub"),
                ("increase(qc_daemon_spool_damaged_files_total$[1d])", "set aside, a day"),
            ),
        ),
        Panel(
            "Since the scrub, and the newest good backup",
            (
                (_age("qc_daemon_spool_scrub_finished_timestamp_seconds"), "scrub"),
                (_age("qc_daemon_backup_finished_timestamp_seconds"), "backup"),
            ),
            "s",
        ),
        Panel(
            "Certificates hold for",
            (("qc_daemon_certificate_expiry_timestamp_seconds$ - time()", "{{use}}"),),
            "s",
        ),
    ),
    "Models, reviews, audits": (
        Panel(
            "Findings, an hour",
            (
                (
                    "sum by (view, verdict) (increase(qc_daemon_findings_total$[1h]))",
                    "{{view}} {{verdict}}",
                ),
            ),
        ),
        Panel(
            "Flags, an hour",
            (("increase(qc_daemon_findings_flagged_total$[1h])", "{{flag}}"),),
        ),
        Panel(
            "Active bundle: for how long",
            ((_age("qc_daemon_bundle_activated_timestamp_seconds"), "{{bundle}}"),),
            "s",
        ),
        Panel("Findings that wait for a person", (("qc_daemon_reviews_waiting$", "{{kind}}"),)),
        Panel(
            "The longest waits for",
            ((_age("qc_daemon_reviews_oldest_timestamp_seconds"), "review"),),
            "s",
        ),
        Panel(
            "Sites and promises",
            (
                ("qc_daemon_sites$", "{{state}}"),
                ("qc_daemon_promises_broken$", "promises broken"),
            ),
        ),
        Panel(
            "Since the last nightly audit",
            ((_age("qc_daemon_audit_finished_timestamp_seconds"), "audit"),),
            "s",
        ),
        Panel(
            "Audits: failed, drifts, digests not sent",
            (
                ("qc_daemon_audit_failed$", "failed"),
                ("qc_daemon_drifts$", "drifting {{kind}}"),
                ("qc_daemon_digests$", "digests {{state}}"),
            ),
        ),
        Panel(
            "Audit log: problems, messages that wait",
            (
                ("qc_daemon_audit_log_problems$", "problems"),
                ("qc_daemon_audit_log_waiting$", "{{server}}"),
            ),
        ),
        Panel(
            "Audit records an hour",
            (("delta(qc_daemon_audit_log_records$[1h])", "records"),),
        ),
        Panel(
            "Log-in headers ignored, an hour",
            (("increase(qc_daemon_login_headers_ignored_total$[1h])", "requests"),),
        ),
    ),
}


def expressions() -> list[str]:
    """Every query of the dashboard, of whatever instance."""
    return [
        expression.replace("$[", "[").replace("$", "")
        for panels in ROWS.values()
        for panel in panels
        for expression, _ in panel.queries
    ]


def dashboard() -> str:
    """The whole dashboard as Grafana imports it, JSON."""
    source = {"type": "prometheus", "uid": "${source}"}
    body = {
        "uid": "qc-daemon",
        "title": "qc-daemon",
        "schemaVersion": 39,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource",
                 "query": "prometheus"},
                {"name": "instance", "label": "Host", "type": "query", "datasource": source,
                 "query": "label_values(qc_daemon_database_up, instance)", "refresh": 2,
                 "includeAll": True, "multi": True, "allValue": ".*"},
            ]
        },
        "panels": list(_panels(source)),
    }  # fmt: skip
    return json.dumps(body, indent=1) + "\n"


def _panels(source: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A heading for each row, and its charts, three beside each other."""
    number, top = 1, 0
    for title, panels in ROWS.items():
        place = {"x": 0, "y": top, "w": _WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": title, "gridPos": place, "panels": []}
        number, top = number + 1, top + 1
        for index, panel in enumerate(panels):
            row, column = divmod(index, _WIDTH // _PANEL_WIDTH)
            yield {
                "id": number,
                "type": "timeseries",
                "title": panel.title,
                "datasource": source,
                "gridPos": {
                    "x": column * _PANEL_WIDTH,
                    "y": top + row * _PANEL_HEIGHT,
                    "w": _PANEL_WIDTH,
                    "h": _PANEL_HEIGHT,
                },
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "targets": [
                    {"refId": chr(ord("A") + place), "expr": expression.replace("$", _AT),
                     "legendFormat": legend, "datasource": source}
                    for place, (expression, legend) in enumerate(panel.queries)
                ],
            }  # fmt: skip
            number += 1
        top += -(-len(panels) // (_WIDTH // _PANEL_WIDTH)) * _PANEL_HEIGHT


def main() -> int:
    """Write the dashboard."""
    DASHBOARD.write_text(dashboard(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
