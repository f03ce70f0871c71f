"""The law of the house: who may import whom, where each library may be named, and how long things may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "monosem"

FLOORS = [
    {"errors", "mkl", "__init__"},
    {"memory", "threads"},
    {"config", "rows"},
    {"sae"},
    {"store"},
    {"text", "track", "dataset"},
    {"host"},
    {"stream", "evals", "truth", "features"},
    {"learn", "report", "plan"},
    {"stages"},
    {"fleet"},
    {"cli"},
    {"__main__"},
]
"""A module imports only from lower floors or from its own folder."""

ONLY_IN = {
    "ray": {"fleet"},
    "wandb": {"track"},
    "pyarrow": {"dataset", "stream", "text", "fleet", "features", "report"},
    "transformers": {"host"},
    "huggingface_hub": {"host", "text"},
    "datasets": {"text", "dataset"},
    "omegaconf": {"config", "stages", "fleet"},
    "fsspec": {"store", "text"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "rich": {"track", "report"},
    "umap": {"report"},
    "sklearn": {"report"},
    "faker": {"text"},
    "numba": {"sae"},
    "triton": {"sae"},
}

FILES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_fall(path):
    mine = room(path)
    for module in imports(path):
        top, *rest = module.split(".")
        if top == "monosem":
            theirs = rest[0] if rest else "__init__"
            assert theirs == mine or floor(theirs) < floor(mine), f"{path.name} imports {module}: an arrow up"
        elif top in ONLY_IN:
            assert mine in ONLY_IN[top], f"{path.name} imports {top}, which belongs in {ONLY_IN[top]}"


def test_no_circles_inside_folders():
    names = {".".join(("monosem", *p.relative_to(ROOT).with_suffix("").parts)): p for p in FILES}
    edges = {name: imports(path) & names.keys() for name, path in names.items()}
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple) -> None:
        assert state.get(name) != 1, f"circle: {' -> '.join((*trail, name))}"
        if name not in state:
            state[name] = 1
            for other in edges[name]:
                visit(other, (*trail, name))
            state[name] = 2

    for name in names:
        visit(name, ())


def imported_at_once(path: Path) -> set[str]:
    """What a module imports when it is imported itself, a module of a package by both of its names."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_nobody_uses_torch_without_the_choice_of_kernels():
    """See `monosem.mkl`: whoever imports a module of ours that uses torch has imported that one as well."""
    named = {".".join(p.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}
    edges = {name: imported_at_once(path) for name, path in named.items()}

    def reached(name: str, found: set) -> set:
        for other in edges[name] & named.keys() - found:
            found.add(other)
            reached(other, found)
        return found

    using = [name for name in named if "torch" in {module.split(".")[0] for module in edges[name]}]
    assert len(using) > 50
    assert [name for name in using if "monosem.mkl" not in reached(name, {name})] == []


def test_every_room_has_a_floor():
    assert {room(p) for p in FILES} == set().union(*FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    source = path.read_text()
    assert source.count("\n") <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name} is too long"


def test_every_file_says_what_it_is():
    for path in FILES:
        if path.stat().st_size:
            assert ast.get_docstring(ast.parse(path.read_text())), path


def test_map_in_readme_names_every_file():
    readme = (ROOT.parent / "README.md").read_text()
    for path in FILES:
        if path.name != "__init__.py":
            assert f"`{path.name}`" in readme, f"README's map does not name {path.relative_to(ROOT)}"


@pytest.mark.parametrize(
    "statement, forbidden",
    [
        ("import monosem", {"torch", "ray", "pyarrow", "wandb"}),
        ("import monosem; monosem.load, monosem.Sae, monosem.Learner", {"ray", "pyarrow", "wandb"}),
        ("import monosem.cli.main", {"torch", "ray"}),
        ("import monosem.config.load, monosem.config.job", {"torch", "ray"}),
    ],
)
def test_light_imports(statement, forbidden):
    code = f"import sys\n{statement}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not forbidden & set(loaded)


def test_public_names():
    import monosem

    for name in monosem.__all__:
        assert getattr(monosem, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = monosem.laod


def test_errors_survive_pickling():
    import pickle

    from monosem import errors

    for name in ("InputError", "Interrupted", "StoreError", "IntegrityError", "Diverged"):
        error = getattr(errors, name)("what happened")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == "what happened"


def test_nothing_unpickles():
    """No module of the package reads pickles, evaluates strings or runs remote code."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name == "torch.load":  # torch's restricted unpickler admits tensors and calls nothing
                    safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
                    assert safe and path.name == "dictionary_learning.py", path.name
                assert name not in {"eval", "exec", "pickle.load", "pickle.loads"}, f"{path.name}: {name}"
