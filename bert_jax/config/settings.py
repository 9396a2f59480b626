# SPDX-License-Identifier: Apache-2.0
"""Configurations as dictionaries, as overrides by dotted keys, as files; and what differs between two.

A configuration is named (`base`, found in configs/), is a Python file that defines `config = PretrainConfig(...)`, or is
a `config.json` written by a run.
"""

import dataclasses
import difflib
import importlib.util
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_jax.config.fields import dotted
from bert_jax.config.model import MODEL_SIZES
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.errors import UserError
from bert_jax.files import read_json, reading

# Settings that a resumed run may change: they do not alter what is computed, only where, how often it is
# reported, or in which order sums are taken.
RESUMABLE_CHANGES = (
    "mesh.",
    "micro_batches",
    "remat",
    "scan_layers",
    "attention",
    "eval_every",
    "eval_batches",
    "log_every",
    "save_every",
    "keep_checkpoints",
)


# ---- as nested dictionaries, and back ------------------------------------------------------------------------------


def to_dict(config: Any) -> dict[str, Any]:
    """A nested dictionary that JSON can hold, of a configuration's dataclass; `build` and `from_dict` invert it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: Mapping[str, Any]) -> PretrainConfig:
    """The configuration that a nested dictionary describes.

    Raises:
      UserError: a key that does not exist, or a value of the wrong type.
    """
    return build(PretrainConfig, values)


def build[C](kind: type[C], values: Mapping[str, Any]) -> C:
    """The configuration of a kind (a dataclass of this project) that a nested dictionary describes; raises as `from_dict`."""
    return _build(kind, values, "")


def _build(cls: Any, values: Any, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(f"{prefix.rstrip('.')} must hold named settings, not {values!r}")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise UserError(f"unknown setting '{prefix}{key}'{_suggest(key, hints, prefix)}")
    arguments = {}
    for name, value in values.items():
        kind, key = hints[name], f"{prefix}{name}"
        if dataclasses.is_dataclass(kind):
            arguments[name] = _build(kind, value, f"{key}.")
        elif typing.get_origin(kind) is tuple:
            if not isinstance(value, Sequence) or isinstance(value, str):
                raise UserError(f"{key} must be a list, not {value!r}")
            item = typing.get_args(kind)[0]
            entries = enumerate(value)
            if dataclasses.is_dataclass(item):
                arguments[name] = tuple(_build(item, entry, f"{key}.{i}.") for i, entry in entries)
            else:
                arguments[name] = tuple(_typed(f"{key}.{i}", item, entry) for i, entry in entries)
        else:
            arguments[name] = _typed(key, kind, value)
    return cls(**arguments)


def _suggest(key: str, known: Any, prefix: str) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    if near:
        return f": did you mean '{prefix}{near[0]}'?"
    return f": the settings here are {', '.join(known)}"


def _typed(key: str, kind: Any, value: Any) -> Any:
    """Check a value against its field's type; an int may stand for a float."""
    choices = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(value) in (int, float) and not -(2**63) <= value < 2**63:  # nor is NaN
        shown = value if type(value) is float else "a longer number"
        raise UserError(f"{key}={shown} is no number that can be used: it is out of range")
    if type(value) in choices:
        return value
    if float in choices and type(value) is int:
        return float(value)
    if str in choices and type(value) is int:
        return str(value)  # a number on the command line, such as freeze=2
    names = " or ".join("none" if choice is type(None) else choice.__name__ for choice in choices)
    raise UserError(f"{key}={value!r} is not of type {names}")


# ---- overrides from the command line -------------------------------------------------------------------------------


def override[C](config: C, assignments: Sequence[str]) -> C:
    """Apply `KEY=VALUE` overrides with dotted keys, such as `optimizer.learning_rate=3e-4` or `phases.0.steps=100`.

    Of pre-training, `model=SIZE` takes the layers, width and heads of a named size (`MODEL_SIZES`), and `objective=NAME` is
    short for `objective.name=NAME`.

    Raises:
      UserError: not of the form KEY=VALUE, an unknown key, or a value of the wrong type.
    """
    values = to_dict(config)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            example = next(key for key, _ in flatten(values) if key.endswith("learning_rate"))
            raise UserError(f"'{assignment}' is not a setting: write KEY=VALUE, such as {example}=3e-4")
        if key == "model" and isinstance(config, PretrainConfig):
            if text not in MODEL_SIZES:
                raise UserError(f"model={text} is not a known size: choose one of {', '.join(MODEL_SIZES)}")
            values["model"].update(MODEL_SIZES[text])
            continue
        if key == "objective":
            key = "objective.name"
        _assign(values, key, text)
    return build(type(config), values)


def _assign(values: Any, key: str, text: str) -> None:
    node = values
    *path, last = key.split(".")
    for depth, part in enumerate(path):
        node = _descend(node, part, ".".join(path[:depth]))
    prefix = ".".join(path)
    current = _descend(node, last, prefix)
    if isinstance(current, dict | list):
        example = next(flatten(current, f"{key}."))[0]
        raise UserError(f"'{key}' is a group of settings: set one of them, such as {example}=...")
    place = int(last) if isinstance(node, list) else last
    node[place] = _parse(key, text)


def _descend(node: Any, part: str, prefix: str) -> Any:
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise UserError(f"'{prefix}.{part}' does not exist: {prefix} has the entries 0 to {len(node) - 1}")
        return node[int(part)]
    if not isinstance(node, dict) or part not in node:
        known = node if isinstance(node, dict) else {}
        raise UserError(
            f"unknown setting '{dotted(prefix, part)}'{_suggest(part, known, f'{prefix}.' if prefix else '')}"
        )
    return node[part]


def _parse(key: str, text: str) -> Any:
    """Read a value: true, false, none, a number, else the text itself; `from_dict` then checks its type."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text.replace("_", "") if kind is int else text)
        except ValueError:
            continue
    return text


def flatten(values: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All (dotted key, value) pairs of a nested dictionary."""
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    for name, value in items:
        if isinstance(value, dict | list):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(old: Any, new: Any) -> list[str]:
    """What differs between two configurations, as `key: old -> new`, without what a resumed run may change."""
    before, after = dict(flatten(to_dict(old))), dict(flatten(to_dict(new)))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if not key.startswith(RESUMABLE_CHANGES)]


def settings_help(config: Any = None) -> str:
    """Every setting with its default and meaning, one a line; of pre-training, if no other configuration is given."""
    lines = []
    for key, value, text in documented(PretrainConfig() if config is None else config):
        lines.append(f"  {f'{key}={str(value).lower() if isinstance(value, bool | None) else value}':<44} {text}")
    return "\n".join(lines)


def documented(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted key, value, meaning) of every setting of a configuration's dataclass; of phases those of the first."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from documented(value, f"{prefix}{field.name}.")
        elif isinstance(value, tuple):
            yield from documented(value[0], f"{prefix}{field.name}.0.")
        else:
            yield f"{prefix}{field.name}", value, field.metadata["help"]


# ---- named configurations and files --------------------------------------------------------------------------------


def load_config(name: str | Path) -> PretrainConfig:
    """The configuration of that name in configs/, of a Python file, or of a run's `config.json`.

    Raises:
      UserError: no such configuration, or a file that does not define one.
    """
    path = Path(name)
    if path.suffix == ".json":
        return _load_json(path)
    if path.suffix != ".py":
        path = _configs_folder() / f"{name}.py"
        if not str(name).isidentifier() or not path.is_file():
            raise UserError(
                f"there is no configuration '{name}': name a .py file or one of {', '.join(config_names())}"
            )
    if not path.is_file():
        raise UserError(f"{path}: no such configuration file")
    return _load_python(path)


def config_names() -> list[str]:
    """The names of the configurations in configs/."""
    return sorted(file.stem for file in _configs_folder().glob("[!_]*.py"))


def _configs_folder() -> Path:
    spec = importlib.util.find_spec("bert_jax.configs")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _load_python(path: Path) -> PretrainConfig:
    spec = importlib.util.spec_from_file_location(f"_bert_jax_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        raise UserError(f"{path}: cannot be read as a configuration: {type(error).__name__}: {error}") from error
    config = getattr(module, "config", None)
    if not isinstance(config, PretrainConfig):
        raise UserError(f"{path}: does not define `config = PretrainConfig(...)`")
    return config


def _load_json(path: Path) -> PretrainConfig:
    remedy = "restore the file"
    try:
        values = read_json(path, remedy)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    with reading(path, remedy):
        return from_dict(values)
