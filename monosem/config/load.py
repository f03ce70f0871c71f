"""Read a job file and its `key=value` overrides into frozen dataclasses, or say in one line why not."""

import difflib
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import TypeVar, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from monosem.config.fields import check_fields, name_in_file
from monosem.errors import InputError

Job = TypeVar("Job")
MAX_BYTES = 1_000_000
RECIPES = Path(__file__).parent / "recipes"
PLAIN_REFERENCE = re.compile(r"\$\{\.*[A-Za-z_][\w.\[\]]*\}")
"""To another field by its name: no resolver, and none that a reference inside would name."""
SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def load_job(schema: type[Job], path: str, overrides: list[str], called: str | None = None) -> Job:
    """The job in file `path` with `overrides` applied; every mistake is an InputError of one line.

    called   what messages call the file, if not by its path
    """
    given = _read(path)
    path = called or path
    _check_node(given, schema, path)

    def source(name: str) -> str:
        """Where a field, or an entry of its list, got its value: the last override that sets it, or the file."""
        name = name.split("[")[0]
        own = [o for o in overrides if f"{name}.".startswith(o.partition("=")[0].split("[")[0].strip() + ".")]
        return f"override {own[-1]!r}" if own else path

    for override in overrides:
        given = OmegaConf.merge(given, _parse_override(override, schema))
    try:
        if given.get("recipe") is not None:
            given = OmegaConf.merge(read_recipe(given.recipe, source("recipe")), given)
        merged = OmegaConf.merge(OmegaConf.structured(schema), _as_declared(given, schema))
        job = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise InputError(_wrong_kind(error, schema, given, source)) from error
    check_fields(job, source)
    if not SAFE_NAME.fullmatch(job.name):
        raise InputError(f"{source('name')}: name={job.name!r}: use 1 to 64 letters, digits, '.', '_' or '-'")
    return job


def read_recipe(name: str, source: str):
    """The values of a named recipe: a mapping with `sae` and `train`."""
    known = recipes()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, 1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"{source}: recipe={name!r}: known are {', '.join(known)}{hint}")
    return _read(str(RECIPES / f"{name}.yaml"))


def recipes() -> list[str]:
    """Names of the recipes that come with monosem."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def to_plain(job: object) -> dict:
    """The job as nested dicts and lists of plain values, under the names that a file uses."""
    if is_dataclass(job):
        return {name_in_file(f.name): to_plain(getattr(job, f.name)) for f in fields(job)}
    return list(job) if isinstance(job, list) else job


def _read(path: str):
    file = Path(path)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], 1)
        hint = f"; did you mean {file.parent / near[0]}?" if near else ""
        raise InputError(f"{path}: no such job file{hint}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot read the job file: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: {len(data):,} bytes is not a job file (at most {MAX_BYTES:,})")
    try:
        given = OmegaConf.create(data.decode())
    except Exception as error:  # PyYAML raises several kinds
        raise InputError(f"{path}: not valid YAML: {_one_line(str(error))}") from error
    if not OmegaConf.is_dict(given):
        raise InputError(f"{path}: a job file is a mapping of `key: value` lines")
    if not given and b"{" not in data:
        raise InputError(f"{path}: is empty; a job file is a mapping of `key: value` lines, {{}} for one of defaults")
    return given


def _parse_override(override: str, schema: type):
    key, sign, _ = override.partition("=")
    if not sign or not key.strip():
        raise InputError(f"override {override!r}: write key=value, for example train.steps=100")
    try:
        node = OmegaConf.from_dotlist([override])
    except Exception as error:
        raise InputError(f"override {override!r}: {_one_line(str(error))}") from error
    _check_node(node, schema, f"override {override!r}")
    return node


def _check_node(node, schema: type, source: str, prefix: str = "") -> None:
    """Unknown keys, sections that are not mappings, and interpolations that reach outside the file."""
    hints = _hints(schema)
    for key in node:
        name = f"{prefix}{key}"
        if key not in hints:
            raise InputError(f"{source}: {name}: unknown key{_neighbour(str(key), prefix, hints)}")
        value = OmegaConf.to_container(node, resolve=False)[key]
        if is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise InputError(
                    f"{source}: {name}={value!r}: is a section with keys {', '.join(_hints(hints[key]))}"
                )
            _check_node(node._get_node(key), hints[key], source, name + ".")
        elif isinstance(value, dict):
            raise InputError(f"{source}: {name}: is a single value, and has no {', '.join(map(str, value))}")
        else:
            _refuse_missing(value, name, source)
            _refuse_resolvers(value, name, source)


def _hints(schema: type) -> dict[str, type]:
    """Types of the fields, by their names in a file."""
    return {name_in_file(name): hint for name, hint in get_type_hints(schema).items()}


def _refuse_missing(value: object, name: str, source: str) -> None:
    """`???` would be a mandatory value that is still to be given: OmegaConf skips it without a word."""
    if "???" in (value if isinstance(value, list) else [value]):
        raise InputError(f"{source}: {name}='???': is no value; leave the line out for the default")


def _refuse_resolvers(value: object, name: str, source: str) -> None:
    """`${other.key}` is fine; `${oc.env:SECRET}` would copy a secret into the store, logs and W&B."""
    for item in value if isinstance(value, list) else [value]:
        rest = PLAIN_REFERENCE.sub("", item) if isinstance(item, str) else ""
        if "${" in rest:
            raise InputError(
                f"{source}: {name}={item!r}: is refused, of references only plain ones are allowed, ${{other.field}}; "
                "a job file is kept in the store in clear: give secrets in the environment"
            )


def _neighbour(key: str, prefix: str, hints: dict) -> str:
    for section, hint in hints.items():
        if is_dataclass(hint) and key in _hints(hint):
            return f"; did you mean {prefix}{section}.{key}?"
    near = difflib.get_close_matches(key, hints, 1, cutoff=0.6)
    if near:
        return f"; did you mean {prefix}{near[0]}?"
    return f"; known here: {', '.join(hints)}"


def _as_declared(given, schema: type):
    """A copy with the fields' own names, in which a single value has become a list where a list is wanted."""

    def walk(node: dict, schema: type) -> dict:
        found = {}
        for name, hint in get_type_hints(schema).items():
            if (key := name_in_file(name)) not in node:
                continue
            value = node[key]
            if is_dataclass(hint) and isinstance(value, dict):
                value = walk(value, hint)
            elif get_origin(hint) is list and not isinstance(value, list):
                value = [value]
            found[name] = value
        return found

    return OmegaConf.create(walk(OmegaConf.to_container(given, resolve=False), schema))


KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _wrong_kind(error: OmegaConfBaseException, schema: type, given, source: Callable[[str], str]) -> str:
    """What is wrong with a value that does not go into its field."""
    said = str(error).split("\n", 1)[0]
    if not error.full_key:
        return f"{source('')}: {said}"
    hint: type | None = schema
    for part in error.full_key.split("[")[0].split("."):
        hint = get_type_hints(hint).get(part) if is_dataclass(hint) else None
    name, kind = ".".join(map(name_in_file, error.full_key.split("."))), _kind(hint)
    value = OmegaConf.to_container(given, resolve=False)
    for part in name.split("[")[0].split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if kind is None or "${" in str(value):
        return f"{source(name)}: {name}: {said}"
    return f"{source(name)}: {name.split('[')[0]}={'' if value is None else repr(value)}: must be {kind}"


def _kind(hint) -> str | None:
    """A field's type in words."""
    inner = [part for part in get_args(hint) if part is not NoneType]
    if get_origin(hint) is list:
        return f"{_kind(inner[0])}, or a list of such" if _kind(inner[0]) else None
    return _kind(inner[0]) if len(inner) == 1 else KINDS.get(hint)


def _one_line(text: str) -> str:
    return " ".join(text.replace(' in "<unicode string>",', "").split())[:300]
