"""Documents from the Hugging Face Hub, or a local dataset directory, streamed by the `datasets` package.

    hf:name    hf:owner/name    hf:owner/name/config    hf:/a/local/directory

A revision is resolved to the commit it names, once, before anything is read; the commit is part of the corpus's name.
Datasets are data: version 4 of the package has no way to run a dataset's code, and an older one is refused. A
document's key is `<source>:<split>#<row>`, without the commit, so that the held-out split outlives an update.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec

from monosem.errors import InputError
from monosem.text.columns import BATCH_ROWS, batch_rows, check_column
from monosem.text.documents import Document
from monosem.text.files import versions
from monosem.text.quarantine import Quarantine, accept
from monosem.text.streams import one_line

PREFIX = "hf:"
COMMIT = re.compile(r"[0-9a-f]{40}")
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
HINT = "pip install -U 'monosem[hf]'"


@dataclass(frozen=True)
class HubDataset:
    """One split of a dataset at one commit. A local directory has no commit; its files stand in for it."""

    source: str
    name: str
    config: str | None
    split: str
    commit: str | None

    def identity(self) -> dict:
        """What the text is, without reading it; finite plain values."""
        at = self.commit if self.commit else _directory_versions(self.name)
        return {"hf": [self.name, self.config, self.split, at]}


def locate(source: str, split: str, revision: str | None) -> HubDataset:
    """The dataset that `source` names. InputError: package missing, malformed, not there, not reachable."""
    _package(source)
    rest = source[len(PREFIX) :]
    if rest.startswith(("/", ".", "~")):
        directory = Path(rest).expanduser().absolute()
        if not directory.is_dir():
            raise InputError(f"corpus.source={source!r}: no such directory")
        if revision is not None:
            raise InputError(f"corpus.revision={revision!r}: a local directory has no revisions; leave it out")
        return HubDataset(source, str(directory), None, split, None)
    parts = rest.split("/")
    if len(parts) > 3 or not all(PART.fullmatch(part) for part in parts):
        raise InputError(f"corpus.source={source!r}: write hf:owner/name, hf:owner/name/config or hf:/directory")
    name = "/".join(parts[:2])
    config = parts[2] if len(parts) == 3 else None
    return HubDataset(source, name, config, split, _commit(source, name, revision))


def documents(dataset: HubDataset, text_column: str, domain_column: str, quarantine: Quarantine) -> Iterator[Document]:
    """Every usable document of the split, in its order; the others go to `quarantine`."""
    for number, (text, domain) in enumerate(_rows(dataset, _open_split(dataset), text_column, domain_column)):
        document = accept(f"{dataset.source}:{dataset.split}#{number}", text, domain, quarantine)
        if document:
            yield document


def _package(source: str):
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"corpus.source={source!r}: needs the datasets package: {HINT}") from error
    if int(datasets.__version__.split(".")[0]) < 4:
        raise InputError(f"corpus.source={source!r}: datasets {datasets.__version__} can run a dataset's code: {HINT}")
    return datasets


def _commit(source: str, name: str, revision: str | None) -> str:
    """The commit that `revision` (None: the newest) names. A full commit is taken as it is, without asking."""
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=20).sha
    except RevisionNotFoundError as error:
        raise InputError(f"corpus.revision={revision!r}: {name} has no such commit, tag or branch") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"corpus.source={source!r}: no dataset {name} on the Hub, or a private one") from error
    except Exception as error:  # the HTTP library's errors have no common base that could be named here
        raise InputError(
            f"corpus.source={source!r}: the Hub cannot be reached: {one_line(error)} "
            "(corpus.revision=<full commit> needs no look-up for an index that is already in the store)"
        ) from error


def _open_split(dataset: HubDataset):
    """A streaming dataset of Arrow tables."""
    datasets = _package(dataset.source)
    try:
        found = datasets.load_dataset(dataset.name, dataset.config, revision=dataset.commit, streaming=True)
    except Exception as error:  # builders, file systems and HTTP each have errors of their own
        raise _failed(dataset, error) from error
    if dataset.split not in found:
        near = difflib.get_close_matches(dataset.split, list(found), 1)
        raise InputError(
            f"corpus.split={dataset.split!r}: {dataset.source} has the splits {', '.join(found)}"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    return found[dataset.split]


def _rows(dataset: HubDataset, split, text_column: str, domain_column: str) -> Iterator[tuple[object, object]]:
    """(text, domain) of every row, from Arrow tables of a few rows with only the columns that are used."""
    try:
        names = split.column_names or list(next(iter(split), {}))
        if not names:
            return
        check_column(names, text_column, dataset.source)
        wanted = [name for name in dict.fromkeys((text_column, domain_column)) if name in names]
        for table in split.select_columns(wanted).with_format("arrow").iter(batch_size=BATCH_ROWS):
            for batch in table.to_batches():
                yield from batch_rows(batch, text_column, domain_column)
    except InputError:
        raise
    except Exception as error:  # as above
        raise _failed(dataset, error) from error


def _failed(dataset: HubDataset, error: Exception) -> InputError:
    return InputError(f"corpus.source={dataset.source!r}: cannot be read: {one_line(error)}")


def _directory_versions(directory: str) -> list[list]:
    fs = fsspec.filesystem("file")
    return versions(fs, sorted(fs.find(directory)))
