"""Which versions of a model are on disk, loaded and being served."""

import contextlib
import dataclasses
import gc
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping

from tfrs_prerank.serving.local.servable import Servable
from tfrs_prerank.serving.local.status import Code, StatusError, invalid, one_line

_logger = logging.getLogger(__name__)

# A version that fails to load is tried again after the poll interval, then after
# twice as long, and so on up to this many seconds.
_MAX_RETRY_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """What the status call says of one version."""

    version: int
    state: str
    code: Code = Code.OK
    message: str = ""


@dataclasses.dataclass
class _Loaded:
    servable: Servable
    requests: int = 0
    retired: bool = False


@dataclasses.dataclass
class _Failure:
    attempts: int
    wait: float
    retry_at: float


class Versions:
    """Serves the latest version under a directory and follows the directory.

    Wanted are the version with the largest number and every version that has a
    label. A new version is loaded first; only then are unwanted ones retired, and a
    retired version is freed when its last request has been answered. A version that
    does not load is logged and retried; until it loads the old one stays.

    Args:
        name: Name of the model.
        base_path: Directory that holds one directory for each version, named by an
            integer. Other names are ignored.
        labels: Versions by label.
        poll_seconds: Seconds between two looks at the directory.
    """

    def __init__(
        self,
        name: str,
        base_path: str,
        labels: Mapping[str, int],
        poll_seconds: float,
    ):
        self.name = name
        self.base_path = base_path
        self._labels = dict(labels)
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._loaded: dict[int, _Loaded] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failures: dict[int, _Failure] = {}
        self._garbage = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Loads the wanted versions, then watches the directory in a thread.

        Raises:
            FileNotFoundError: The directory is missing or holds no version.
            ValueError: The latest version does not load, or a label names a version
                that is not there.
        """
        found = self._scan()
        self._check_found(found)
        self.poll()
        latest = max(found)
        available = self.available()
        if latest not in available:
            raise ValueError(
                f"Version {latest} of model {self.name!r} in {found[latest]} does not "
                "load; export it again, or remove it to serve the one before: "
                f"{self._statuses[latest].message}"
            )
        for label, version in self._labels.items():
            if version not in available:
                raise ValueError(
                    f"Label {label!r} names version {version} of model {self.name!r}, "
                    f"which is not available; available are {available}."
                )
        self._thread = threading.Thread(
            target=self._watch, name=f"versions of {self.name}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stops watching and frees every version."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for version in self.available():
            self._retire(version)
        gc.collect()

    def available(self) -> list[int]:
        """Returns the versions that answer requests, in ascending order."""
        with self._lock:
            return sorted(self._loaded)

    @contextlib.contextmanager
    def acquire(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> Iterator[tuple[int, Servable]]:
        """Holds a version for one request, so that it is not freed meanwhile.

        Yields:
            The version's number and the loaded model.

        Raises:
            StatusError: NOT_FOUND if there is no such model or version,
                INVALID_ARGUMENT if there is no such label.
        """
        if not name:
            raise invalid("ModelSpec has no name specified.")
        if label is not None:
            if name != self.name or label not in self._labels:
                raise invalid(f"Unrecognized servable version label: {label}")
            version = self._labels[label]
        with self._lock:
            chosen = max(self._loaded, default=None) if version is None else version
            entry = self._loaded.get(chosen) if chosen is not None else None
            if entry is None or chosen is None or name != self.name:
                asked = f"Latest({name})"
                if version is not None:
                    asked = f"Specific({name}, {version})"
                raise StatusError(
                    Code.NOT_FOUND, f"Servable not found for request: {asked}"
                )
            entry.requests += 1
        try:
            yield chosen, entry.servable
        finally:
            with self._lock:
                entry.requests -= 1
                if entry.retired and not entry.requests:
                    self._end(chosen)

    def statuses(self, name: str, version: int | None = None) -> list[VersionStatus]:
        """Returns the status of one or all versions, the largest number first.

        Raises:
            StatusError: There is no such model or version.
        """
        with self._lock:
            known = dict(self._statuses) if name == self.name else {}
        if version is not None:
            if version not in known:
                raise StatusError(
                    Code.NOT_FOUND, f"Could not find version {version} of model {name}"
                )
            return [known[version]]
        if not known:
            raise StatusError(
                Code.NOT_FOUND, f"Could not find any versions of model {name}"
            )
        return [known[number] for number in sorted(known, reverse=True)]

    def poll(self) -> None:
        """Looks at the directory once; loads and retires what changed."""
        found = self._scan()
        if not found:
            # An unreachable disk must not take the service down.
            _logger.warning(
                "No version of model %s under %s; the loaded ones stay",
                self.name,
                self.base_path,
            )
            return
        latest = max(found)
        wanted = {latest} | (set(self._labels.values()) & set(found))
        for version in sorted(wanted - set(self.available()), reverse=True):
            failure = self._failures.get(version)
            if failure is None or time.monotonic() >= failure.retry_at:
                self._load(version, found[version])
        available = set(self.available())
        if latest in available:
            for version in available - wanted:
                self._retire(version)
        if self._garbage:
            # A loaded model is a cycle of references; without this its memory would
            # be held until Python happens to look.
            self._garbage = False
            gc.collect()

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.poll()
            except Exception:
                _logger.exception("Watching %s failed; going on", self.base_path)

    def _scan(self) -> dict[int, str]:
        try:
            with os.scandir(self.base_path) as entries:
                return {
                    int(entry.name): entry.path
                    for entry in entries
                    if entry.name.isascii() and entry.name.isdigit() and entry.is_dir()
                }
        except OSError:
            return {}

    def _check_found(self, found: Mapping[int, str]) -> None:
        if found:
            return
        path = self.base_path
        if not os.path.isdir(path):
            raise FileNotFoundError(
                f"The model directory {path} does not exist; give the directory that "
                "holds the version directories, such as saved_models/<name>."
            )
        if os.path.exists(os.path.join(path, "saved_model.pb")):
            raise FileNotFoundError(
                f"{path} is itself a version; give its parent {os.path.dirname(path)}."
            )
        raise FileNotFoundError(
            f"{path} holds no version; export one to {os.path.join(path, '1')}."
        )

    def _set(self, status: VersionStatus) -> None:
        self._statuses[status.version] = status

    def _load(self, version: int, path: str) -> None:
        with self._lock:
            self._set(VersionStatus(version, "LOADING"))
        try:
            servable = Servable(path)
        except Exception as error:
            failed = self._failures.get(version)
            attempts = failed.attempts + 1 if failed else 1
            wait = min(
                2 * failed.wait if failed else self._poll_seconds, _MAX_RETRY_SECONDS
            )
            self._failures[version] = _Failure(attempts, wait, time.monotonic() + wait)
            code = StatusError.of(error).code
            with self._lock:
                self._set(VersionStatus(version, "END", code, one_line(error)))
            if self._thread is not None:  # `start` raises what it finds.
                _logger.error(
                    "Version %d of model %s in %s does not load (attempt %d): %s",
                    version,
                    self.name,
                    path,
                    attempts,
                    one_line(error),
                )
            return
        self._failures.pop(version, None)
        with self._lock:
            self._loaded[version] = _Loaded(servable)
            self._set(VersionStatus(version, "AVAILABLE"))
        _logger.info("Serving version %d of model %s", version, self.name)

    def _retire(self, version: int) -> None:
        with self._lock:
            entry = self._loaded.pop(version)
            entry.retired = True
            self._set(VersionStatus(version, "UNLOADING"))
            if not entry.requests:
                self._end(version)
        _logger.info("Retired version %d of model %s", version, self.name)

    def _end(self, version: int) -> None:
        self._garbage = True
        # The same version may have been loaded anew while its last request ran.
        if version not in self._loaded:
            self._set(VersionStatus(version, "END"))
