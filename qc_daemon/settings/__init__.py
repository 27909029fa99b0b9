"""Every setting of the service: a module a section, `service.py` reads them all."""

from qc_daemon.settings.destinations import DeliveredKind, DestinationSettings, RuleSettings
from qc_daemon.settings.digests import MailRecipient, MailSettings, WebhookSettings
from qc_daemon.settings.hl7 import HL7Settings
from qc_daemon.settings.observe import ObserveSettings
from qc_daemon.settings.problems import SettingsError
from qc_daemon.settings.receive import PeerSettings, PressureSettings, ReceiveSettings
from qc_daemon.settings.review import (
    AuditSettings,
    NuchalCurveSettings,
    ReportSettings,
    ReviewSettings,
)
from qc_daemon.settings.schedule import JobSettings, ScheduleSettings
from qc_daemon.settings.score import ScoreSettings
from qc_daemon.settings.section import AETitle, Fingerprint, WebAddress, parse_ae_title
from qc_daemon.settings.service import Settings, checked, load, load_known
from qc_daemon.settings.store import BackupSettings, StoreSettings
from qc_daemon.settings.tls import ClientTLSSettings, ServerTLSSettings, TLSSettings
from qc_daemon.settings.worklist import WorklistSettings

__all__ = [
    "AETitle",
    "AuditSettings",
    "BackupSettings",
    "ClientTLSSettings",
    "DeliveredKind",
    "DestinationSettings",
    "Fingerprint",
    "HL7Settings",
    "JobSettings",
    "MailRecipient",
    "MailSettings",
    "NuchalCurveSettings",
    "ObserveSettings",
    "PeerSettings",
    "PressureSettings",
    "ReceiveSettings",
    "ReportSettings",
    "ReviewSettings",
    "RuleSettings",
    "ScheduleSettings",
    "ScoreSettings",
    "ServerTLSSettings",
    "Settings",
    "SettingsError",
    "StoreSettings",
    "TLSSettings",
    "WebAddress",
    "WebhookSettings",
    "WorklistSettings",
    "checked",
    "load",
    "load_known",
    "parse_ae_title",
]
