"""The history of each site's calibration, and what is active there."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from model.site.names import UNNAMED, site_of
from model.site.record import SiteRecord
from qc_daemon.records.acquisition.identities import members, roots
from qc_daemon.records.tables import AcquisitionRow, IdentityKind, SiteAction, SiteCalibrationRow


@dataclass(frozen=True, slots=True)
class SiteEvent:
    """What was done with a site's calibration, when, and by whom (None: the service)."""

    id: int
    site: str
    model_id: str
    action: SiteAction
    calibration: str | None
    record: SiteRecord | None
    decided_by: str | None
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class ActiveSite:
    """What is active at a site for a bundle: calibrations, those for a device or view first and of
    these the newest, and whether a person waived calibration."""

    records: tuple[SiteRecord, ...] = ()
    is_waived: bool = False

    @property
    def is_commissioning(self) -> bool:
        """Whether the site has neither a calibration nor a waiver."""
        return not self.is_waived and not any(each.is_calibrated for each in self.records)


def append(
    session: Session,
    site: str,
    model_id: str,
    action: SiteAction,
    now: datetime,
    *,
    record: SiteRecord | None = None,
    decided_by: str | None = None,
) -> None:
    """Add an event of the site, however its name is written."""
    row = SiteCalibrationRow(
        site=site_of(site),
        model_id=model_id,
        action=action,
        calibration=None if record is None else record.id,
        record=None if record is None else record.to_json(),
        decided_by=decided_by,
        decided_at=now,
    )
    session.add(row)
    session.flush()


def history(session: Session, site: str | None = None) -> list[SiteEvent]:
    """Every event in its order, of one site or of all."""
    statement = select(SiteCalibrationRow).order_by(SiteCalibrationRow.id)
    if site is not None:
        statement = statement.where(SiteCalibrationRow.site == site_of(site))
    return [_event(row) for row in session.scalars(statement)]


def active(session: Session, site: str, model_id: str) -> ActiveSite:
    """What is active at the site for this bundle: of each view and device the last activation
    since the site's last retirement."""
    statement = (
        select(SiteCalibrationRow)
        .where(
            SiteCalibrationRow.site == site_of(site),
            SiteCalibrationRow.model_id == model_id,
            SiteCalibrationRow.action != SiteAction.PROPOSED,
        )
        .order_by(SiteCalibrationRow.id)
    )
    return fold(_event(row) for row in session.scalars(statement))


def fold(events: Iterator[SiteEvent]) -> ActiveSite:
    """What is active after these events of one site and bundle, in their order."""
    records: dict[tuple[object, object], SiteRecord] = {}
    is_waived = False
    for event in events:
        if event.action == SiteAction.RETIRED:
            records, is_waived = {}, False
        elif event.action == SiteAction.WAIVED:
            is_waived = True
        elif event.action == SiteAction.ACTIVATED and event.record is not None:
            # Its place is that of the activation: devices may have been merged since the first one.
            records.pop((event.record.view, event.record.device), None)
            records[event.record.view, event.record.device] = event.record
    newest_first = reversed(records.values())
    specific = sorted(newest_first, key=lambda r: (r.device is None, r.view is None))
    return ActiveSite(tuple(specific), is_waived)


def device_ids(session: Session, revision_id: int) -> tuple[str, ...]:
    """The ids that count for the device that made a revision's image, its own first; none if that
    is not known."""
    device: str | None = session.scalars(
        select(AcquisitionRow.device_id).where(AcquisitionRow.revision_id == revision_id)
    ).one_or_none()
    if device is None:
        return ()
    others = (members(session, IdentityKind.DEVICE, device) or set()) - {device}
    return (device, *sorted(others))


def places(session: Session) -> dict[int, tuple[str, str | None]]:
    """Site of each revision whose header was read, and its device as it counts now."""
    root = roots(session, IdentityKind.DEVICE)
    rows = session.execute(
        select(AcquisitionRow.revision_id, AcquisitionRow.site, AcquisitionRow.device_id)
    )
    return {
        row.revision_id: (row.site or UNNAMED, root.get(row.device_id, row.device_id))
        for row in rows
    }


def aliases(session: Session) -> dict[str, tuple[str, ...]]:
    """The ids that were merged into each device, by its own."""
    merged: dict[str, tuple[str, ...]] = {}
    for id, root in sorted(roots(session, IdentityKind.DEVICE).items()):
        if id != root:
            merged[root] = (*merged.get(root, ()), id)
    return merged


def names(session: Session) -> set[str]:
    """Every site that an image names, as it is compared."""
    return {name or UNNAMED for name in session.scalars(select(AcquisitionRow.site).distinct())}


def images(session: Session) -> dict[str, int]:
    """How many images name each site, by the site as it is compared."""
    rows = session.execute(select(AcquisitionRow.site, func.count()).group_by(AcquisitionRow.site))
    return {row[0] or UNNAMED: row[1] for row in rows}


def written_name(session: Session, site: str) -> str:
    """The site as the first image of it has it, else as it is compared."""
    name = session.scalars(
        select(AcquisitionRow.institution)
        .where(AcquisitionRow.site == site, AcquisitionRow.institution.is_not(None))
        .order_by(AcquisitionRow.revision_id)
        .limit(1)
    ).one_or_none()
    return name or site


def _event(row: Any) -> SiteEvent:
    return SiteEvent(
        row.id,
        row.site,
        row.model_id,
        SiteAction(row.action),
        row.calibration,
        None if row.record is None else SiteRecord.from_json(row.record),
        row.decided_by,
        row.decided_at,
    )
