"""The loaded models of this process, by model id: loaded once each, when first needed."""

from detector.codes import ErrorCode, QCError
from model.bundle import Bundle
from model.judge import Judge
from qc_daemon.records import bundles
from qc_daemon.records.store import Store


class Models:
    """Judges by model id; an exam is scored to its end with the bundle it was opened with."""

    def __init__(self, store: Store, device: str, augment: int = 0) -> None:
        self._store = store
        self._device = device
        self._augment = augment
        self._judges: dict[str, Judge] = {}

    def judge(self, model_id: str | None) -> Judge:
        """The judge of the bundle with this id, None: of the active one.

        Raises QCError when the bundle is gone or is no longer what it was.
        """
        with self._store.read() as session:
            known = bundles.known(session)
        wanted = [b for b in known if model_id in (None, b.model_id)]
        if not wanted:
            raise QCError(
                ErrorCode.BUNDLE_INCOMPLETE,
                "the bundle this exam was opened with is unknown; activate it again",
            )
        found = wanted[0]
        if found.model_id not in self._judges:
            bundle = Bundle.open(found.path)
            if bundle.id.model_id != found.model_id:
                raise QCError(
                    ErrorCode.BUNDLE_MISMATCH,
                    f"bundle {found.name} has changed since it was activated; "
                    "restore it, or activate it again",
                )
            self._judges[found.model_id] = Judge.open(bundle, self._device, self._augment)
        return self._judges[found.model_id]
