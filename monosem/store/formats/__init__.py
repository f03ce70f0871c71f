"""How other tools keep a dictionary: files as bytes to an SAE, and back.

Each format is a module with the same three names: `NEEDS`, the files that show that a directory is of this format;
`read(files, uri)`; `write(sae, metadata)`. Reading a stranger's files executes nothing.
"""

from collections.abc import Callable
from types import ModuleType

from monosem.errors import InputError
from monosem.sae.model import Sae
from monosem.store.formats import dictionary_learning, saelens, sparsify

FORMATS: dict[str, ModuleType] = {
    "saelens": saelens,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
}


def read_any(get: Callable[[str], bytes], uri: str) -> tuple[Sae, dict[str, bytes]]:
    """The dictionary whose files `get(name)` gives (FileNotFoundError if there is none), and those files."""
    missing = []
    for module in FORMATS.values():
        try:
            files = {name: get(name) for name in module.NEEDS}
        except FileNotFoundError:
            missing.append(" and ".join(module.NEEDS))
            continue
        return module.read(files, uri), files
    raise InputError(f"{uri}: no dictionary there (looked for {'; '.join(missing)})")
