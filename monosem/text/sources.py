"""Where the text of a job comes from: one face over the built-in corpus, files and the Hugging Face Hub."""

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from monosem.config.job import CorpusConfig
from monosem.errors import InputError
from monosem.text import builtin, files, hub
from monosem.text.documents import Document
from monosem.text.quarantine import Quarantine

BUILTIN = "builtin"


@dataclass(frozen=True)
class Source:
    """A source that was found and can be read.

    identity   what the text is, known without reading it: plain values, part of the corpus's name
    documents  the usable documents in order; those passed over are put into the Quarantine
    revision   the commit of a Hub dataset, else None
    changed    whether it is no longer what `identity` says
    """

    identity: dict
    documents: Callable[[Quarantine], Iterator[Document]]
    revision: str | None
    changed: Callable[[], bool]


def open_source(config: CorpusConfig) -> Source:
    """The source of `config`, looked up but not read. InputError if it is not there or an option does not apply."""
    _check_options(config)
    if config.source == BUILTIN:
        identity = {"builtin": builtin_identity(), "seed": config.seed}
        return Source(identity, lambda quarantine: builtin.documents(config.seed), None, lambda: False)
    columns = [config.text_column, config.domain_column]
    if config.source.startswith(hub.PREFIX):
        dataset = hub.locate(config.source, config.split, config.revision)
        was = dataset.identity()
        return Source(
            was | {"columns": columns},
            lambda quarantine: hub.documents(dataset, *columns, quarantine),
            dataset.commit,
            lambda: dataset.identity() != was,
        )
    found = files.identity(config.source)
    return Source(
        {"files": found, "columns": columns},
        lambda quarantine: files.documents(config.source, *columns, quarantine),
        None,
        lambda: files.identity(config.source) != found,
    )


def _check_options(config: CorpusConfig) -> None:
    """InputError for an option that says something and does nothing with this source."""
    hugging_face, generated = config.source.startswith(hub.PREFIX), config.source == BUILTIN
    rules = {
        "revision": (hugging_face, "only a source hf:... has one"),
        "split": (hugging_face, "only a source hf:... has splits"),
        "seed": (generated, "only the builtin corpus is generated from one"),
        "text_column": (not generated, "the builtin corpus has no columns"),
        "domain_column": (not generated, "the builtin corpus has no columns"),
    }
    for name, (applies, why) in rules.items():
        value = getattr(config, name)
        if not applies and value != getattr(CorpusConfig(), name):
            raise InputError(f"corpus.{name}={value!r}: {why}; leave it out")


def builtin_identity() -> list[str]:
    """What the built-in corpus is made from: the Python version and those of the packages it reads."""
    versions = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return [sys.version, *(f"{name}={versions.get(name)}" for name in builtin.PACKAGES)]
