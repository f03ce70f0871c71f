"""The files of a Hugging Face model: a local directory, or a snapshot of the hub's; complete, and none that is run."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monosem.errors import InputError

_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_SHARD = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors")
_WANTED = {"allow_patterns": ["*.json", "model*.safetensors"], "ignore_patterns": ["*/*"]}
SPECIAL_TOKENS = ("tokenizer_config.json", "special_tokens_map.json")
"""Where the end-of-text token is named, in order; a model may have none of them."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"hf:([\w.-]+/)?[\w.-]+")


def locate(reference: str, revision: str | None) -> tuple[Path, str | None]:
    """The directory that holds the files, and the hub's commit."""
    if reference.startswith("hf:"):
        directory, commit = _fetched(reference, revision)
    elif revision is not None:
        raise InputError(f"host.revision={revision!r}: only hf: models have revisions, {reference!r} is a directory")
    else:
        directory, commit = Path(reference), None
    if not directory.is_dir():
        beside = [p.name for p in directory.parent.iterdir() if p.is_dir()] if directory.parent.is_dir() else []
        hint = near(directory.name, beside)
        raise InputError(f"host.model={reference!r}: no such directory{hint}; or name hf:org/name")
    check_files(reference, [p.name for p in directory.iterdir()])
    return directory, commit


def _fetched(reference: str, revision: str | None) -> tuple[Path, str]:
    """The snapshot of a hub model, only the files that are read. A commit that is already here asks nobody.

    One without a file that names the special tokens may lack it, and is taken as it is only if the hub cannot be asked.
    """
    if not _REPOSITORY.fullmatch(reference):
        raise InputError(f"host.model={reference!r}: must be hf:org/name, as in hf:EleutherAI/pythia-70m")
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    repo = reference.removeprefix("hf:")
    here = _cached(repo, revision) if revision and _COMMIT.fullmatch(revision) else None
    if here and any((here / name).exists() for name in SPECIAL_TOKENS):
        return here, revision
    try:
        commit, names = _contents(HfApi(), repo, revision)
        check_files(reference, names)  # before gigabytes move
        return Path(snapshot_download(repo, revision=commit, **_WANTED)), commit
    except RepositoryNotFoundError as error:  # the hub answers the same for a private one
        raise InputError(f"host.model={reference!r}: no such model, or none that your HF_TOKEN may read") from error
    except (httpx2.HTTPError, OSError) as error:
        if here:
            return here, revision
        raise InputError(
            f"host.model={reference!r}: not to be had from the Hugging Face hub ({type(error).__name__}: "
            f"{one_line(error)}); a local directory works too"
        ) from error


def _contents(api: Any, repo: str, revision: str | None) -> tuple[str, list[str]]:
    """The commit that a revision means now, and the names of its files."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        info = api.model_info(repo, revision=revision)
    except RevisionNotFoundError as error:
        refs = api.list_repo_refs(repo)
        hint = near(str(revision), [ref.name for ref in (*refs.branches, *refs.tags)])
        raise InputError(f"host.revision={revision!r}: {repo} has no such commit, tag or branch{hint}") from error
    return info.sha, [sibling.rfilename for sibling in info.siblings or []]


def _cached(repo: str, commit: str) -> Path | None:
    """The complete snapshot of a commit in this machine's cache. A commit never changes."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        here = Path(snapshot_download(repo, revision=commit, local_files_only=True, **_WANTED))
        check_files(repo, [p.name for p in here.iterdir()])
    except (LocalEntryNotFoundError, InputError):  # not here, or only in part: the hub has the rest
        return None
    return here


def weight_files(names: Iterable[str]) -> list[str]:
    """Those of the files that hold the weights: one file, or all shards. Empty if any is missing."""
    if "model.safetensors" in names:
        return ["model.safetensors"]
    shards = sorted(name for name in names if _SHARD.fullmatch(name))
    complete = shards and "model.safetensors.index.json" in names and len(shards) == int(shards[0][-17:-12])
    return shards if complete else []


def check_files(reference: str, names: list[str]) -> None:
    """InputError unless the files of a model that can be read are all there."""
    where = f"host.model={reference!r}"
    if "config.json" not in names:
        raise InputError(f"{where}: no config.json there; a Hugging Face model's files are needed")
    if "adapter_config.json" in names:
        raise InputError(f"{where}: is an adapter; merge it into its base model and save that")
    if not weight_files(names):
        pickled = next((name for name in names if name.endswith(_PICKLED)), None)
        why = f"{pickled} is a pickle, which is refused" if pickled else "model.safetensors or a shard is missing"
        raise InputError(f"{where}: {why}; save_pretrained of transformers writes *.safetensors")
    if "tokenizer.json" not in names:
        raise InputError(f"{where}: no tokenizer.json; save the model's fast tokenizer (AutoTokenizer) beside it")


def near(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, names, 1)
    return f" (did you mean {found[0]}?)" if found else ""


def one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
