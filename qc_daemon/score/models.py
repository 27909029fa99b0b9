"""Keeps the loaded models of this process, those used last, by model id."""

from detector.errors import ErrorCode, QCError
from model.bundle.bundle import Bundle
from model.judge import Judge
from qc_daemon.records.results import bundles
from qc_daemon.records.results.bundles import ActiveBundle
from qc_daemon.records.store import Store

# The active bundle and the one before it, which open exams may still need.
_MAX_JUDGES = 2


class JudgeCache:
    """Judges by model id; an exam is scored to its end with the bundle it was opened with."""

    def __init__(self, store: Store, device: str, augment: int = 0) -> None:
        self._store = store
        self._device = device
        self._augment = augment
        self._judges: dict[str, Judge] = {}

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
        # Removed and inserted again: the last one is then the one used last.
        judge = self._judges.pop(bundle.model_id, None) or self._open(bundle)
        self._judges[bundle.model_id] = judge
        while len(self._judges) > _MAX_JUDGES:
            del self._judges[next(iter(self._judges))]
        return judge

    def _open(self, activated: ActiveBundle) -> Judge:
        bundle = Bundle.open(activated.path)
        if bundle.id.model_id != activated.model_id:
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH,
                f"bundle {activated.name} has changed since it was activated; "
                "restore it, or activate it again",
            )
        return Judge.open(bundle, self._device, self._augment)
