"""The loaded models of this process, by model id: loaded when needed, the last used ones kept."""

from detector.errors import ErrorCode, QCError
from model.bundle.bundle import Bundle
from model.judge import Judge
from qc_daemon.records.results import bundles
from qc_daemon.records.results.bundles import ActiveBundle
from qc_daemon.records.store import Store

# The active bundle and the one before it, which open exams may still need.
_KEPT = 2


class Models:
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

        Raises QCError when the bundle is gone or is no longer what it was.
        """
        with self._store.read() as session:
            known = bundles.list_bundles(session)
        wanted = [b for b in known if model_id in (None, b.model_id)]
        if not wanted:
            raise QCError(
                ErrorCode.BUNDLE_INCOMPLETE,
                "the bundle this exam was opened with is unknown; activate it again",
            )
        found = wanted[0]
        # Taken out and put back: the last is the one used last.
        judge = self._judges.pop(found.model_id, None) or self._open(found)
        self._judges[found.model_id] = judge
        while len(self._judges) > _KEPT:
            del self._judges[next(iter(self._judges))]
        return judge

    def _open(self, known: ActiveBundle) -> Judge:
        bundle = Bundle.open(known.path)
        if bundle.id.model_id != known.model_id:
            raise QCError(
                ErrorCode.BUNDLE_MISMATCH,
                f"bundle {known.name} has changed since it was activated; "
                "restore it, or activate it again",
            )
        return Judge.open(bundle, self._device, self._augment)
