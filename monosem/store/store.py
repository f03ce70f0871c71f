"""Bytes under names: one small face over a local directory, S3, or memory.

Four guarantees everything above leans on:

* `put` is atomic: a reader sees the old object or the new one, never a part;
* `create` writes only if nothing is there (create-only), so that of two writers one wins;
* names are relative, checked, and stay below the root;
* a missing object is `FileNotFoundError`, every other trouble is a `StoreError`.
"""

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from monosem.errors import InputError, StoreError

CONFLICT_S = (0.1, 0.3, 1.0, 3.0)
"""Waits before a create is tried again whose answer was 409: two at once, and neither of them won."""
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._=-]{0,127}")
"""One component of a path in the store."""


class Store(Protocol):
    url: str

    def get(self, path: str) -> bytes: ...
    def get_range(self, path: str, start: int, size: int) -> bytes: ...
    def put(self, path: str, data: bytes | memoryview) -> None: ...
    def create(self, path: str, data: bytes) -> bool: ...
    def exists(self, path: str) -> bool: ...
    def list(self, path: str) -> list[str]: ...
    def delete(self, path: str) -> None: ...
    def delete_tree(self, path: str) -> None: ...


def open_store(url: str) -> Store:
    """The store at `url`: a path, `file://`, `memory://` or any fsspec URL such as `s3://bucket/prefix`."""
    if url.startswith("file://"):
        url = url[len("file://") :]
    if "://" not in url:
        return LocalStore(url)
    return FsspecStore(url)


def check_path(path: str) -> str:
    """`path` itself, or InputError if a component could leave the root or confuse a file system."""
    for part in path.split("/"):
        if not NAME.fullmatch(part) or ".." in part:
            raise InputError(f"store path {path!r}: {part!r} is not a plain name (letters, digits, . _ = -)")
    return path


class LocalStore:
    """A directory. `put` renames a finished temporary file; `create` links one (link fails if taken)."""

    def __init__(self, root: str):
        self.root = Path(root).expanduser().absolute()
        self.url = str(self.root)

    def get(self, path: str) -> bytes:
        with self._reading(path) as file:
            return file.read()

    def get_range(self, path: str, start: int, size: int) -> bytes:
        """Bytes [start, start + size); fewer where the object ends before that."""
        with self._reading(path) as file:
            file.seek(start)
            return file.read(size)

    @contextmanager
    def _reading(self, path: str) -> Iterator[BinaryIO]:
        """FileNotFoundError where no file is, a file for a directory included; StoreError for what goes wrong else."""
        try:
            with open(self._at(path), "rb", buffering=0) as file:
                yield file
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"store {self.url}: cannot read {path}: {error.strerror}") from error

    @contextmanager
    def _asked(self, verb: str, path: str) -> Iterator[None]:
        """StoreError for what the file system refuses."""
        try:
            yield
        except OSError as error:
            raise StoreError(f"store {self.url}: cannot {verb} {path}: {error.strerror}") from error

    def put(self, path: str, data: bytes | memoryview) -> None:
        target = self._at(path)
        with self._asked("write", path), _staged(target, data) as temporary:
            os.replace(temporary, target)
            _sync_directory(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        target = self._at(path)
        with self._asked("create", path):
            with _staged(target, data) as temporary:
                try:
                    os.link(temporary, target)
                except FileExistsError:
                    return False
            _sync_directory(target.parent)
        return True

    def exists(self, path: str) -> bool:
        with self._asked("look for", path):
            return self._at(path).exists()

    def list(self, path: str) -> list[str]:
        """Names directly below `path`, sorted; empty if there is no such directory."""
        with self._asked("list", path), suppress(FileNotFoundError, NotADirectoryError):
            return sorted(n for n in os.listdir(self._at(path)) if not n.startswith("."))
        return []

    def delete(self, path: str) -> None:
        with self._asked("delete", path), suppress(FileNotFoundError, NotADirectoryError):
            self._at(path).unlink()

    def delete_tree(self, path: str) -> None:
        """Everything below `path`; nothing there is fine."""
        with self._asked("delete", path), suppress(FileNotFoundError):
            shutil.rmtree(self._at(path))

    def _at(self, path: str) -> Path:
        return self.root / check_path(path) if path else self.root


@contextmanager
def _staged(target: Path, data: bytes | memoryview) -> Iterator[Path]:
    """`data` in a temporary file beside `target`, for the while; if it was not renamed it is gone then."""
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()  # a full disk would only become fuller


def _sync_directory(path: Path) -> None:
    """Make a rename or link in `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class FsspecStore:
    """Anything fsspec reaches. An object store's PUT is already atomic; `create` is a conditional PUT."""

    def __init__(self, url: str):
        self.protocol, _, path = url.partition("://")
        self.prefix = path.rstrip("/")
        self.url = f"{self.protocol}://{self.prefix}"
        self.fs = _filesystem(self.protocol)

    def get(self, path: str) -> bytes:
        at = self._at(path)
        try:
            return self.fs.cat_file(at)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise self._error("read", path, error) from error

    def get_range(self, path: str, start: int, size: int) -> bytes:
        """Bytes [start, start + size); fewer where the object ends before that."""
        if size <= 0:
            return b""
        at = self._at(path)
        try:
            return self.fs.cat_file(at, start=start, end=start + size)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise self._error("read", path, error) from error

    def put(self, path: str, data: bytes | memoryview) -> None:
        at = self._at(path)
        try:
            self.fs.pipe_file(at, bytes(data))  # the same object if it is bytes; clients take nothing else
        except Exception as error:
            raise self._error("write", path, error) from error

    def create(self, path: str, data: bytes) -> bool:
        """A server that stored the object and lost its answer makes the client try again and lose to itself: an
        object with the very bytes that were to be written counts as written by us.
        """
        if self.protocol == "memory" and self.exists(path):  # fsspec's memory store takes no mode
            return False
        at = self._at(path)
        mode = {} if self.protocol == "memory" else {"mode": "create"}
        for wait_s in (*CONFLICT_S, None):
            try:
                self.fs.pipe_file(at, data, **mode)
            except FileExistsError:
                return self.get(path) == data
            except Exception as error:
                status = _http_status(error)
                if status == 412:  # some servers' "precondition failed" arrives as a bare OSError
                    return self.get(path) == data
                if status != 409 or wait_s is None:
                    raise self._error("create", path, error) from error
                time.sleep(wait_s)
            else:
                return True
        raise AssertionError("the last round returns or raises")

    def exists(self, path: str) -> bool:
        at = self._at(path)
        try:
            return self.fs.exists(at)
        except Exception as error:
            raise self._error("look for", path, error) from error

    def list(self, path: str) -> list[str]:
        """Names directly below `path`, sorted; empty if there is nothing."""
        self.fs.invalidate_cache()  # another process may have written since
        at = self._at(path)
        try:
            found = self.fs.ls(at, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._error("list", path, error) from error
        return sorted({name.rstrip("/").rsplit("/", 1)[-1] for name in found})

    def delete(self, path: str) -> None:
        at = self._at(path)
        try:
            self.fs.rm_file(at)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._error("delete", path, error) from error

    def delete_tree(self, path: str) -> None:
        """Everything below `path`; nothing there is fine."""
        self.fs.invalidate_cache()
        try:
            self.fs.rm(self._at(path), recursive=True)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._error("delete", path, error) from error

    def _at(self, path: str) -> str:
        return "/".join(filter(None, (self.prefix, check_path(path)))) if path else self.prefix

    def _error(self, verb: str, path: str, error: Exception) -> StoreError:
        return StoreError(f"store {self.url}: cannot {verb} {path}: {type(error).__name__}: {error}")


def _filesystem(protocol: str):
    import fsspec

    try:
        options = _s3_options() if protocol == "s3" else {}
        fs = fsspec.filesystem(protocol, **options)
    except (ValueError, ImportError) as error:
        raise InputError(f"store: {protocol}:// is not a known kind of store: {error}") from error
    if protocol == "s3":
        fs.retries = 1  # botocore tries again by itself; both together would wait for half an hour
        _drop_expect_header(fs)
    return fs


def _s3_options() -> dict:
    """Timeouts and retries. Endpoint and keys come from the environment or ~/.aws, never from a job file.

    Checksums in trailers are asked for only where the server requires them: several S3 servers
    answer them with HTTP 411, and monosem keeps digests of its own.
    """
    config = {
        "connect_timeout": 10,
        "read_timeout": 30,
        "retries": {"max_attempts": 6, "mode": "standard"},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return {"config_kwargs": config, "use_listings_cache": False} | ({"endpoint_url": endpoint} if endpoint else {})


def _drop_expect_header(fs) -> None:
    """Without this a PUT to a server that accepts and never answers waits for ever for `100 Continue`."""

    def drop(request, **_):
        if "Expect" in request.headers:
            del request.headers["Expect"]

    fs.connect()
    fs.s3.meta.events.register("before-send.s3", drop)


def _http_status(error: BaseException | None) -> int | None:
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        error = error.__cause__
    return None
