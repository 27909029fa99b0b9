"""Keeps the loaded models of this process, those used last, by model id."""

from detector.errors import ErrorCode, QCError
from model.bundle.bundle import Bundle
from model.judge import Judge
from model.runtime.precision import EXACT, FAST, bfloat16_flag, fast_networks
from qc_daemon.observe import log
from qc_daemon.records.results import bundles
from qc_daemon.records.results.bundles import ActiveBundle
from qc_daemon.records.store import Store
from qc_daemon.score.parts import named_parts
from qc_daemon.settings import ScoreSettings

_log = log.get(role="work")
# The active bundle and the one before it, which open exams may still need.
_MAX_JUDGES = 2


class JudgeCache:
    """Judges by model id; an exam is scored to its end with the bundle it was opened with."""

    def __init__(self, store: Store, settings: ScoreSettings) -> None:
        self._store = store
        self._settings = settings
        # With each whether it has every part that the settings name.
        self._judges: dict[str, tuple[Judge, bool]] = {}

    def load_active(self) -> None:
        """Load the active bundle before the first job needs it. Raises QCError as `judge`."""
        self.judge(None)

    def judge(self, model_id: str | None) -> Judge:
        """The judge of the bundle with this id, None: of the active one.

        Raises QCError when the bundle is missing or has changed since it was activated.
        """
        with self._store.read() as session:
            activated = bundles.list_bundles(session)
        candidates = [b for b in activated if model_id in (None, b.model_id)]
        if not candidates:
            raise QCError(
                ErrorCode.BUNDLE_INCOMPLETE,
                "the bundle this exam was opened with is unknown; activate it again",
            )
        bundle = candidates[0]
        is_active = bundle is activated[0]
        # Removed and inserted again: the last one is then the one used last.
        judge, is_complete = self._judges.pop(bundle.model_id, (None, False))
        if judge is None or (is_active and not is_complete):
            judge, is_complete = self._open(bundle, is_active), is_active
        self._judges[bundle.model_id] = judge, is_complete
        while len(self._judges) > _MAX_JUDGES:
            del self._judges[next(iter(self._judges))]
        return judge

    def _open(self, activated: ActiveBundle, is_active: bool) -> Judge:
        bundle = Bundle.open(activated.path)
        if bundle.id.model_id != activated.model_id:
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH,
                f"bundle {activated.name} has changed since it was activated; "
                "restore it, or activate it again",
            )
        return open_judge(bundle, self._settings, needs_parts=is_active)


def open_judge(bundle: Bundle, settings: ScoreSettings, *, needs_parts: bool = True) -> Judge:
    """The judge of a verified bundle, with the parts that the settings name.

    Without `needs_parts` a part that the bundle lacks is not asked, and a bundle that does not
    allow precision fast runs in full: the settings are about the bundle that is active now. Raises
    QCError as `Judge.open` and `named_parts`.
    """
    backbone, opinion_parts = named_parts(bundle, settings, needs_parts=needs_parts)
    precision: str = settings.precision
    if precision == FAST and not needs_parts:
        try:
            fast_networks(bundle.manifest, bfloat16_flag())
        except QCError as error:
            _log.warning("precision exact", reason=f"bundle {bundle.id.name}: {error.message}")
            precision = EXACT
    return Judge.open(
        bundle,
        settings.device,
        settings.augment,
        backbone,
        opinion_parts,
        settings.runtime,
        precision,
    )
