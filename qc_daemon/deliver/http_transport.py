"""What the transports over HTTP share: a session, its end after a failure, and the words of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import requests

from detector.errors import ErrorCode, QCError
from qc_daemon.dicom import dicomweb
from qc_daemon.settings import DestinationSettings


class HttpTransport:
    """Keeps its connection open from one object to the next."""

    def __init__(self, destination: DestinationSettings) -> None:
        self.destination = destination
        self._session: requests.Session | None = None

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _open_session(self) -> requests.Session:
        if self._session is None:
            self._session = dicomweb.session(self.destination)
        return self._session

    @contextmanager
    def _closing_on_failure(self) -> Iterator[None]:
        """End the session where the destination cannot be reached (QCError DELIVERY_UNREACHABLE in
        place of requests' own) or refuses us: the next session reads the credentials again."""
        try:
            yield
        except requests.RequestException as error:
            self.close()
            why = dicomweb.describe_failure(error)
            raise self._error(
                ErrorCode.DELIVERY_UNREACHABLE, f"cannot be reached: {why}"
            ) from error
        except QCError as error:
            if error.code is ErrorCode.DELIVERY_FORBIDDEN:
                self.close()
            raise

    def _error(self, code: ErrorCode, what: str) -> QCError:
        return QCError(code, f"destination {self.destination.name} {what}")
