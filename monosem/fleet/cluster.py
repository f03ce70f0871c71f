"""Reaching a Ray: one of our own for the length of a sweep, or one that is running."""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monosem.errors import InputError

ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}
"""Ray runs actors' methods in threads, and glibc gives a thread a heap that holds no block above 64 MiB: what a step
frees would go back to the system and be paged in anew by the next (1.43 s in place of 1.04 for 131,072 features)."""


def set_environment(address: str | None) -> None:
    """Settings that Ray reads when it is imported; call this before anything imports it.

    A Ray of our own gets a random token that only this process tree knows. Elsewhere token authentication is
    turned on where a token is set up, which Ray's own tools do not do by themselves.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    if address is None:
        for name, value in ONE_HEAP.items():
            os.environ.setdefault(name, value)  # the processes of a Ray of our own inherit it
    if "RAY_AUTH_MODE" in os.environ:
        return
    if address is None:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or str(Path.home() / ".ray" / "auth_token")
    if os.environ.get("RAY_AUTH_TOKEN") or Path(path).exists():
        os.environ["RAY_AUTH_MODE"] = "token"


def check_reachable(address: str | None) -> None:
    """InputError if nothing answers at HOST:PORT: known at once, and not after an hour of tokenising."""
    if address in (None, "auto"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--address {address}: no Ray answers there ({error})") from error


@contextmanager
def connected(address: str | None, store_bytes: int) -> Iterator[None]:
    """Inside, Ray is initialised: a local one, closed to others, or the one at `address`."""
    check_reachable(address)
    import ray

    try:
        if address is None:
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=store_bytes,
                log_to_driver=True,
                logging_level="warning",
            )
        else:
            ray.init(
                address=address, log_to_driver=True, logging_level="warning", runtime_env={"env_vars": ONE_HEAP}
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot start or reach Ray (--address {address}): {error}") from error
    try:
        yield
    finally:
        ray.shutdown()
