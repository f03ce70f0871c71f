"""Tokens as text: what a window says, which words its tokens belong to, and how a word is looked up."""

import codecs
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

ESCAPE = re.compile(r"\\x([0-9a-f]{2})")
LONGEST_TERM, LONGEST_RUN = 40, 200


def _marks() -> str:
    """Combining marks of the basic plane: parts of words that `\\w` does not take for such."""
    return "".join(re.escape(chr(c)) for c in range(0x300, 0xFFFF) if unicodedata.category(chr(c)) in ("Mn", "Mc"))


WORD = re.compile(rf"(?:[^\W_]|[{_marks()}])+")
"""Letters, digits and their marks. Not `_`: what is active on the 8 of `river_8` is not active on a river."""


@dataclass(frozen=True)
class Window:
    """Text of a window of tokens; token j stands at [starts[j], ends[j]), a part of a character at that character."""

    text: str
    starts: list[int]
    ends: list[int]

    def words(self) -> list[tuple[str, int, int]]:
        """The words of the text and where they stand: (word, start, end)."""
        return [(m.group(), m.start(), m.end()) for m in WORD.finditer(self.text)]

    def is_in(self, j: int, start: int, end: int) -> bool:
        """Whether token j has a part in the stretch [start, end) of the text."""
        return start < self.ends[j] and end > self.starts[j]

    def run_at(self, j: int) -> str:
        """The stretch without white space that token j is part of."""
        a, b = self.starts[j], min(self.ends[j], len(self.text))
        while a < b and self.text[a].isspace():
            a += 1
        b = max(a, b)
        while a > 0 and not self.text[a - 1].isspace() and b - a < LONGEST_RUN:
            a -= 1
        while b < len(self.text) and not self.text[b].isspace() and b - a < LONGEST_RUN:
            b += 1
        return self.text[a:b][:LONGEST_RUN]


class Vocabulary:
    """Texts by token id, incomplete characters written as \\xNN."""

    def __init__(self, texts: list[str]):
        self.texts = texts
        self.parts = [bool(ESCAPE.search(text)) for text in texts]

    def window(self, tokens: list[int]) -> Window:
        """The text of `tokens`, with characters put together again that tokens had parted."""
        pieces = [self.texts[t] for t in tokens]
        if any(self.parts[t] for t in tokens):
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            pieces = [decoder.decode(_bytes(piece)) for piece in pieces]
        starts, ends, at = [], [], 0
        for piece in pieces:
            starts.append(at)
            at += len(piece)
            ends.append(max(at, starts[-1] + 1))
        return Window("".join(pieces), starts, ends)


@lru_cache(maxsize=1 << 16)
def _bytes(text: str) -> bytes:
    out, at = b"", 0
    for found in ESCAPE.finditer(text):
        out += text[at : found.start()].encode("utf-8", "replace") + bytes([int(found.group(1), 16)])
        at = found.end()
    return out + text[at:].encode("utf-8", "replace")


WITHOUT = re.compile(
    "[\u0300-\u036f\u1ab0-\u1abd\u1abf-\u1aff\u1dc0-\u1dff\u20d0-\u20dc\u20e1\u20e5-\u20f0\ufe20-\ufe2f"  # accents
    "\ufe00-\ufe0f\U000e0100-\U000e01ef"  # which of a character's forms
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"  # Hebrew
    "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u08ca-\u08e1\u08e3-\u08ff]"
)
"""Marks that people leave out. Those of other scripts are vowels and letters (Hindi, Thai, the dots of Japanese)."""
NOT_CYRILLIC = re.compile("[^\u0400-\u052f]+")
"""There, what looks like a letter with an accent is a letter of its own."""


@lru_cache(maxsize=1 << 18)
def normal(text: str) -> str:
    """How a word is looked up: any case, without accents and vowel points. search.js does the same."""
    if text.isascii():
        return text.lower().strip()
    parted = NOT_CYRILLIC.sub(lambda m: unicodedata.normalize("NFD", m[0]), unicodedata.normalize("NFKC", text))
    return unicodedata.normalize("NFC", WITHOUT.sub("", parted)).lower().strip()
