"""Datasets as Hugging Face's `datasets` saves them, as bytes: which files one consists of, and whether a file is whole.

Light: neither `datasets` nor pyarrow, so that both text and activations can be read by the same rules.
"""

from monosem.errors import InputError, IntegrityError
from monosem.store.plain import unpack_json

STATE = "state.json"
"""Stands beside the files of a saved dataset and names them. What an earlier, longer save left there is not named."""
CONTINUED = b"\xff\xff\xff\xff"
"""What every message of an Arrow stream begins with; files from before 2019 lack it."""


def named_files(data: bytes, where: str) -> list[str]:
    """The file names in a `state.json`, in order; InputError if it has none, or names anything but files beside it."""
    try:
        entries = unpack_json(data, where).get("_data_files")
    except IntegrityError as error:
        raise InputError(str(error)) from error
    entries = entries if isinstance(entries, list) else []
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: names no files (_data_files) as `datasets` does; save the dataset again")
    wrong = [name for name in names if "/" in name or "\\" in name or not name.endswith(".arrow")]
    if wrong or len(set(names)) < len(names):
        raise InputError(f"{where}: _data_files: {(wrong or names)[0]!r}: .arrow files beside it are needed, each once")
    return names


def is_whole_stream(head: bytes, tail: bytes) -> bool:
    """Whether an Arrow stream that begins with `head` and ends with `tail` (8 bytes each) has its end marker.

    A reader takes the end of the file for the end of the stream: one that was cut between two batches looks whole.
    """
    return tail[4:] == bytes(4) and (tail[:4] == CONTINUED or head[:4] != CONTINUED)
