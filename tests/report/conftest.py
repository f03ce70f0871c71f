"""The made-up sweep as a site, written once."""

from pathlib import Path

import pytest

from monosem.stages.report import report
from tests.report.tables import made_sweep


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """The store of the made-up sweep."""
    root = tmp_path_factory.mktemp("made")
    made_sweep(str(root))
    return root


@pytest.fixture(scope="session")
def site(made, tmp_path_factory) -> Path:
    """Its feature browser."""
    out = tmp_path_factory.mktemp("site")
    report([f"{made}/made"], str(out), lambda line: None)
    return out
