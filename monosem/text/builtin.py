"""The built-in corpus: mixed text that needs no download and stores no borrowed sentence.

Three kinds of source, interleaved by fixed weights into one endless, seeded list of documents:

* what every machine has: the standard library's source and documentation, package descriptions
  and licences of the packages that monosem pins;
* Faker's locales, for fourteen languages in ten scripts;
* the seeded generators of `generators.py`.

The list is a pure function of (seed, Python version, pinned package versions). Which one it was
is recorded as the digest of the token index made from it.
"""

import ast
import hashlib
import importlib.metadata
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from monosem.text.documents import Document
from monosem.text.generators import GENERATORS

PIECE_CHARS = 4000
"""Longest document cut from a file; about 1,000 tokens."""

PACKAGES = [
    "torch",
    "numpy",
    "ray",
    "pyarrow",
    "s3fs",
    "fsspec",
    "omegaconf",
    "wandb",
    "tokenizers",
    "safetensors",
    "faker",
    "rich",
    "jinja2",
    "matplotlib",
    "pytest",
    "pip",
    "setuptools",
    "networkx",
    "sympy",
    "aiohttp",
    "botocore",
    "requests",
    "pydantic",
    "urllib3",
]
"""Whose descriptions and licences serve as prose; one that is not installed is passed over."""

LOCALES = {
    "arabic": "ar_AA",
    "hebrew": "he_IL",
    "russian": "ru_RU",
    "greek": "el_GR",
    "chinese": "zh_CN",
    "japanese": "ja_JP",
    "korean": "ko_KR",
    "persian": "fa_IR",
    "hindi": "hi_IN",
    "armenian": "hy_AM",
    "thai": "th_TH",
    "french": "fr_FR",
    "german": "de_DE",
    "spanish": "es_ES",
}
NO_LOREM = {"ko_KR", "hi_IN"}
"""Locales whose `paragraph` falls back to Latin; names, jobs and addresses are used instead."""

WEIGHTS = {"python": 26, "docs": 26, "licence": 3}
WEIGHTS |= dict.fromkeys(LOCALES, 2) | dict.fromkeys(GENERATORS, 2)


def documents(seed: int) -> Iterator[Document]:
    """The endless corpus of `seed`, in order. Keys are `builtin/<seed>/<number>`."""
    makers: dict[str, Iterator[str]] = {
        "python": _python_pieces(),
        "docs": _docs_pieces(),
        "licence": _licence_pieces(),
    }
    for domain in LOCALES:
        makers[domain] = _endless(_locale_writer(LOCALES[domain], seed), seed, domain)
    for domain, generate in GENERATORS.items():
        makers[domain] = _endless(generate, seed, domain)
    rng = Random(f"mix:{seed}")
    names, weights = list(makers), [WEIGHTS[name] for name in makers]
    number = 0
    while True:
        domain = rng.choices(names, weights)[0]
        text = next(makers[domain], None)
        if text is None:  # a finite source has been read to its end: go on without it
            weights[names.index(domain)] = 0
            continue
        yield Document(f"builtin/{seed}/{number}", domain, text)
        number += 1


def _endless(write: Callable[[Random], str], seed: int, domain: str) -> Iterator[str]:
    number = 0
    while True:
        yield write(Random(f"{domain}:{seed}:{number}"))
        number += 1


def _locale_writer(locale: str, seed: int) -> Callable[[Random], str]:
    """A function that writes a page of `locale`: paragraphs, and people with jobs and addresses."""
    fake = None

    def write(rng: Random) -> str:
        nonlocal fake
        if fake is None:
            from faker import Faker  # slow to import, needed by this source only

            fake = Faker(locale)
        fake.seed_instance(rng.getrandbits(64))
        lines = []
        for _ in range(rng.randint(3, 7)):
            lines.append(f"{fake.name()}, {fake.job()}, {fake.company()}. {fake.address()}.")
            if locale not in NO_LOREM:
                lines.append(fake.paragraph(nb_sentences=rng.randint(3, 8)))
        return "\n".join(lines) + "\n"

    return write


def _pieces(text: str) -> Iterator[str]:
    """Cut a text at line ends into pieces of at most PIECE_CHARS characters."""
    piece: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        if size and size + len(line) > PIECE_CHARS:
            yield "".join(piece)
            piece, size = [], 0
        piece.append(line[:PIECE_CHARS])
        size += len(line)
    if size > 200:  # a stub says nothing
        yield "".join(piece)


def _scattered(paths: list[Path], root: Path) -> list[Path]:
    """The paths in an order that is fixed by their names and looks random."""

    def rank(path: Path) -> bytes:
        return hashlib.sha256(path.relative_to(root).as_posix().encode()).digest()

    return sorted(paths, key=rank)


def _stdlib_files() -> list[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [p for p in root.rglob("*.py") if not {"site-packages", "pydoc_data"} & set(p.parts)]
    return _scattered(files, root)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="ignore")


def _python_pieces() -> Iterator[str]:
    for path in _stdlib_files():
        yield from _pieces(_read(path))


def _docs_pieces() -> Iterator[str]:
    """Reference topics, package descriptions, and docstrings joined file by file."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield from _pieces(topics[name])
    for name in PACKAGES:
        yield from _pieces(_description(name))
    for path in _stdlib_files():
        yield from _pieces(_docstrings(_read(path)))


def _docstrings(source: str) -> str:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # the standard library ships broken files on purpose
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return "\n\n".join(text for text in found if text and len(text) > 60) + "\n"


def _description(package: str) -> str:
    try:
        return importlib.metadata.metadata(package).get_payload()
    except importlib.metadata.PackageNotFoundError:
        return ""


def _licence_pieces() -> Iterator[str]:
    for name in PACKAGES:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in sorted(files, key=str):
            if "licen" in file.name.lower() and ".dist-info" in str(file):
                yield from _pieces(_read(Path(str(file.locate()))))
