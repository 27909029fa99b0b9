"""Tiles of the live board as HTML, each made once for all boards that show it alike."""

from collections.abc import Callable, Hashable, Sequence

from qc_daemon.operations.board import BoardExam


class TileCache:
    """The tiles of the exams of the board; for use by many threads."""

    def __init__(self) -> None:
        self._tiles: dict[tuple[int, Hashable], tuple[BoardExam, str | None]] = {}

    def tile(
        self, exam: BoardExam, shown_as: Hashable, make: Callable[[], str | None]
    ) -> str | None:
        """The exam's tile as a board shows it that is like others of the same `shown_as`; None
        where it does not show the exam. Made if the exam has changed since."""
        key = (exam.exam_id, shown_as)
        known = self._tiles.get(key)
        if known is not None and known[0] is exam:
            return known[1]
        html = make()
        self._tiles[key] = (exam, html)
        return html

    def keep(self, exams: Sequence[BoardExam]) -> None:
        """Forget the tiles of all other exams, and of these as they were before."""
        current = {exam.exam_id: exam for exam in exams}
        for key, (exam, _) in list(self._tiles.items()):
            if current.get(exam.exam_id) is not exam:
                self._tiles.pop(key, None)
