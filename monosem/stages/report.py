"""`monosem report URI... --out DIR`: the feature browser of sweeps or single runs, as static files."""

from collections.abc import Callable, Sequence

from monosem.errors import InputError
from monosem.report.browser.site import write_browser
from monosem.store import layout
from monosem.store.store import Store, open_store

FORMS = "write STORE/SWEEP or STORE/sweeps/SWEEP/runs/RUN, for example ./monosem-store/quickstart"


def report(uris: Sequence[str], out: str, say: Callable[[str], None]) -> str:
    """Write the site of all that `uris` name into the directory or URL `out`. Returns where its start page is."""
    return write_browser(_sources(uris), open_store(out), "", say)


def report_sweep(store: Store, sweep: str, say: Callable[[str], None]) -> str:
    """The site of one sweep, in its store beside its runs. Returns where its start page is."""
    return write_browser([(store, sweep, [])], store, f"{layout.browser(sweep)}/", say)


def _sources(uris: Sequence[str]) -> list[tuple[Store, str, list[str]]]:
    """(store, sweep, its runs; none for all) of each sweep, runs of one sweep together, in the order given."""
    asked: dict[tuple[str, str], list[str] | None] = {}
    for uri in uris:
        root, sweep, run = _parts(uri)
        runs = asked.setdefault((root, sweep), [])
        if run is None:
            asked[root, sweep] = None
        elif runs is not None:
            runs.append(run)
    return [(open_store(root), sweep, runs or []) for (root, sweep), runs in asked.items()]


def _parts(uri: str) -> tuple[str, str, str | None]:
    """Root of the store, sweep, and run if one is named."""
    path, run = uri.rstrip("/"), None
    head, _, last = path.rpartition("/")
    if head.endswith("/runs"):
        path, run = head.removesuffix("/runs"), last
    root, _, sweep = path.rpartition("/")
    root = root.removesuffix("/sweeps")
    if not root or not sweep:
        raise InputError(f"{uri!r}: {FORMS}")
    return root, sweep, run
