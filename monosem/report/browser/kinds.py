"""Kinds of text that a feature is active on, by rule: scripts and formats that show in its strongest examples.

A kind is named if most of the strongest examples are of it: the character of the example's token for scripts, the
stretch without white space around it for formats. Rules know nothing of any corpus.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from monosem.report.browser.words import Window

SHARE = 0.7
"""Of the strongest examples, so many have to be of a kind."""

SCRIPTS = {"ARABIC", "HEBREW", "CYRILLIC", "GREEK", "ARMENIAN", "GEORGIAN", "DEVANAGARI", "BENGALI", "TAMIL", "TELUGU",
           "THAI", "HANGUL", "HIRAGANA", "KATAKANA", "ETHIOPIC", "KHMER", "MYANMAR", "SINHALA", "GUJARATI"}  # fmt: skip
CHINESE = "CJK"
UNKNOWN = "\ufffd"
"""What a part of a character decodes to: a symbol by its category, which says nothing here."""

FORMATS = {
    "DNA": re.compile(r"(?=.*[GC])(?=.*[AT])[ACGTN\-]{8,}|(?=.*[gc])(?=.*[at])[acgtn\-]{8,}"),
    "base64": re.compile(r"(?=.*[A-Z].*[A-Z])(?=.*[a-z].*[a-z])(?=.*[0-9])[A-Za-z0-9+/]{14,}={0,2}"),
    "hexadecimal": re.compile(r"(?:0x)?(?=.*[0-9])(?=.*[a-fA-F])(?:[0-9a-f]{6,}|[0-9A-F]{6,})[,;:]?"),
    "web address": re.compile(r".*(?:https?://|www\.)\S+.*"),
    "path": re.compile(r"[\w.~-]*(?:/[\w.-]+){2,}/?"),
    "markup": re.compile(r".*</?[a-zA-Z][^>]*>?.*"),
    "LaTeX": re.compile(r".*\\[a-zA-Z]{2,}.*|.*\$[^$]+\$.*"),
    "snake_case": re.compile(r"\W*[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+\W*.*"),
}

CODES = {"DNA", "base64", "hexadecimal"}

TOKENS = {
    "number": re.compile(r"\s*[0-9][0-9.,]*\s*"),
    "capitals": re.compile(r"\W*[A-Z]{2,}\W*"),
    "line break": re.compile(r"\s*\n\s*"),
    "spaces": re.compile(r"[ \t]{2,}"),
}

PUNCTUATION = "punctuation"

NAMES = (*(s.capitalize() for s in sorted(SCRIPTS)), "Chinese characters", *FORMATS, *TOKENS, PUNCTUATION)


def kinds_of(examples: Sequence[tuple[Window, int]]) -> list[tuple[str, float]]:
    """Kinds of a feature with the share of `examples` (window, place of the example's token) of that kind."""
    if not examples:
        return []
    counts = Counter(kind for window, j in examples for kind in _kinds(window, j))
    return [(kind, n / len(examples)) for kind, n in counts.most_common() if n >= SHARE * len(examples)]


def _kinds(window: Window, j: int) -> set[str]:
    own = window.text[window.starts[j] : window.ends[j]]
    found = {script for c in own if not c.isascii() and (script := _script(c))}
    found |= {name for name, rule in TOKENS.items() if rule.fullmatch(own)}
    if (bare := own.strip()) and all(unicodedata.category(c)[0] in "PS" and c != UNKNOWN for c in bare):
        found.add(PUNCTUATION)
    formats = _formats(window.run_at(j))
    if formats & CODES:
        found -= set(TOKENS)  # capitals and digits are what such text is made of
    return found | formats


@lru_cache(maxsize=1 << 15)
def _formats(run: str) -> frozenset[str]:
    return frozenset(name for name, rule in FORMATS.items() if rule.fullmatch(run))


@lru_cache(maxsize=1 << 15)
def _script(character: str) -> str | None:
    first = unicodedata.name(character, "").split(" ")[0]
    if first == CHINESE:
        return "Chinese characters"
    return first.capitalize() if first in SCRIPTS else None
