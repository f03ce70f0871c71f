"""JSON and digests of bytes: what every record in a store is made of. Light: no torch."""

import hashlib
import json

from monosem.errors import IntegrityError


def sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def pack_json(value: object) -> bytes:
    """JSON for people and programs: sorted keys, finite numbers only, a newline at the end."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def unpack_json(data: bytes, what: str) -> dict:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{what}: a JSON object was expected")
    return value
