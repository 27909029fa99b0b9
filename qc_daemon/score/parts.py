"""The parts that the settings name: the backbone, and those that give opinions."""

from detector.errors import ErrorCode, QCError
from model.bundle.bundle import Bundle
from model.parts.opinion import SECOND_OPINION, VIEW_CLASSIFIER
from model.parts.part import Part, find_part
from qc_daemon.observe import log
from qc_daemon.settings import ScoreSettings

BACKBONE = "backbone"
_log = log.get(role="work")


def named_parts(
    bundle: Bundle, settings: ScoreSettings, *, needs_parts: bool = True
) -> tuple[Part | None, dict[str, Part]]:
    """The backbone's part, and by role those that give opinions, as the settings name them.

    Raises QCError on a part that cannot be opened, and BUNDLE_INCOMPLETE for a name that the bundle
    has no part of, unless that does not matter (`needs_parts`).
    """
    values = {
        BACKBONE: settings.backbone,
        SECOND_OPINION: settings.second_opinion,
        VIEW_CLASSIFIER: settings.view_classifier,
    }
    parts: dict[str, Part] = {}
    for role, value in values.items():
        setting = f"score.{role.replace('-', '_')}"
        part = None if value is None else find_part(value, bundle.path)
        if part is not None:
            parts[role] = part
        elif value is not None and needs_parts:
            names = ", ".join(each.id.name for each in bundle.parts()) or "none"
            raise QCError(
                ErrorCode.BUNDLE_INCOMPLETE,
                f"{setting}: bundle {bundle.id.name} has no part {value!r} (it has: {names}); name"
                " one of them, or a part's folder with a / in its path",
            )
        elif value is not None:
            _log.warning(
                "part not asked",
                setting=setting,
                reason=f"bundle {bundle.id.name} has no such part",
            )
    backbone = parts.pop(BACKBONE, None)
    return backbone, parts
