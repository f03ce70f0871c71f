"""Token ids as text that can be shown: UTF-8 where a token's bytes are whole characters, \\xNN where they are not. A
token whose text itself has such a thing has \\x5c for its backslash, so that the two can be told apart."""

import json
import re

from tokenizers import Tokenizer


def token_texts(tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """Text of each id below `vocab_size`; the name of a special token is its text, an id without a token is empty."""
    names = [tokenizer.id_to_token(i) for i in range(vocab_size)]
    special = {t.content for t in tokenizer.get_added_tokens_decoder().values()}
    to_bytes = _byte_level if _is_byte_level(tokenizer) else _sentence_piece
    return [_shown(name.encode() if name in special else to_bytes(name)) if name else "" for name in names]


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    decoder = json.loads(tokenizer.to_str()).get("decoder") or {}
    parts = decoder.get("decoders", [decoder])
    return any(part.get("type") == "ByteLevel" for part in parts)


def _alphabet() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte: itself where it is printable, else one from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


_ALPHABET = _alphabet()


def _byte_level(name: str) -> bytes:
    return b"".join(bytes([_ALPHABET[c]]) if c in _ALPHABET else c.encode() for c in name)


def _sentence_piece(name: str) -> bytes:
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return bytes.fromhex(name[3:5])
    return name.replace("\u2581", " ").encode()


def _shown(data: bytes) -> str:
    return re.sub(rb"\\(?=x[0-9a-f]{2})", rb"\\x5c", data).decode("utf-8", "backslashreplace")
