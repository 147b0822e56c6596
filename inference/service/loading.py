"""A thread that brings one version up: fetch, verify, compare the environment, start, ask its example answers."""

import shutil
import tempfile
import threading
import time
from pathlib import Path

from inference.environment import check_environment
from inference.server import ModelServer, ServeError
from registry.errors import RegistryError, VerificationError
from registry.versions import Version, fetch, verify

TIMEOUT = 120.0


class Loading(threading.Thread):
    """Brings a version up beside the one that serves.

    Parameters
    ----------
    version : Version
    state : Path
        Its private copy is ``versions/<number>`` in there; one from earlier is used if it verifies.

    Attributes
    ----------
    server : ModelServer or None
        Once it was started.
    failure : str or None
        Why the version cannot serve, once that is known.
    """

    def __init__(self, version: Version, state: Path) -> None:
        super().__init__(name=f"loading-{version.number}", daemon=True)
        self.version = version
        self.server: ModelServer | None = None
        self.failure: str | None = None
        self._state = state
        self._copy = state / "versions" / str(version.number)
        self._deadline = time.monotonic() + TIMEOUT
        self._cancelled = False
        self._turn = threading.Lock()

    def run(self) -> None:
        """Bring it up."""
        try:
            self._obtain()
            check_environment(self._copy)
            with self._turn:
                if self._cancelled:
                    return
                self.server = ModelServer.start(self.version.number, self._copy, self._state)
            left = self._deadline - time.monotonic()
            self.server.wait_until_itself(self._copy, left, lambda: self._cancelled)
        except (RegistryError, ServeError) as error:
            self.failure = error.message
        except Exception as error:  # a fault of any kind must not replace a good version, nor go unseen
            self.failure = f"it cannot be started: {error!r}"

    def overdue(self) -> bool:
        """Return whether it takes too long, wherever it is."""
        return time.monotonic() > self._deadline + 5

    def cancel(self) -> None:
        """Start nothing any more, and wait for nothing."""
        with self._turn:
            self._cancelled = True

    def _obtain(self) -> None:
        """Have a verified copy in place."""
        if self._copy.is_symlink() or self._copy.is_file():
            self._copy.unlink()
        if self._copy.exists() and self._verifies():
            return
        shutil.rmtree(self._copy, ignore_errors=True)
        self._copy.parent.mkdir(exist_ok=True)
        try:
            fresh = Path(tempfile.mkdtemp(prefix="new-", dir=self._copy.parent))
        except OSError as error:
            raise ServeError(f"its files cannot be kept: {error}") from None
        try:
            fetched = fetch(self.version, fresh)
            with self._turn:
                if not self._cancelled:
                    fetched.rename(self._copy)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _verifies(self) -> bool:
        """Return whether the copy from earlier is still what was registered."""
        try:
            for cache in list(self._copy.rglob("__pycache__")):
                shutil.rmtree(cache)
            verify(self.version, self._copy)
        except (VerificationError, OSError):
            return False
        return True
