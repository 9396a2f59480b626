# SPDX-License-Identifier: Apache-2.0
"""Configurations as dictionaries, as overrides by dotted keys, as files; and what differs between two.

A configuration is named (`base`, found in configs/), is a Python file that defines `config = PretrainConfig(...)`, or is
a `config.json` written by a run.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_jax.base.errors import UserError
from bert_jax.base.files import read_json, reading
from bert_jax.base.paths import any_path, local_path
from bert_jax.base.types import JsonObject
from bert_jax.config.fields import build, dotted, suggest, to_dict
from bert_jax.config.finetune import FinetuneRecipe
from bert_jax.config.model import MODEL_SIZES, ModelConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.training import TrainingConfig

RECIPES_FILE = "finetune.py"  # in configs/: the recipes of fine-tuning; every other file is one of pre-training
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
    "profile",
    "tracker",
    "on_bad_step",
    "most_bad_steps",
    "spike",
)
# Two ways to say the same: the other one is none then.
EITHER_OR = {
    "optimizer.warmup_steps": "optimizer.warmup_share",
    "optimizer.warmup_share": "optimizer.warmup_steps",
}


def from_dict(values: JsonObject) -> PretrainConfig:
    """The configuration that a nested dictionary describes.

    Raises:
      UserError: a key that does not exist, or a value of the wrong type.
    """
    return build(PretrainConfig, values)


# ---- overrides from the command line -------------------------------------------------------------------------------


# Settings of a model that are no part of its weights' shape or of what they compute.
OF_TRAINING = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "position_initializer_range",
)


def override[C](config: C, assignments: Sequence[str]) -> C:
    """Apply `KEY=VALUE` overrides with dotted keys, such as `optimizer.learning_rate=3e-4` or `phases.0.steps=100`.

    Of pre-training, `model=SIZE` takes the layers, width and heads of a named size (`MODEL_SIZES`), and `objective=NAME` is
    short for `objective.name=NAME`. Of two settings that say the same in two ways the one that is given counts.

    Raises:
      UserError: not of the form KEY=VALUE, an unknown key, or a value of the wrong type.
    """
    values = to_dict(config)
    _apply(values, config, assignments)
    return build(type(config), values)


def override_around(
    config: PretrainConfig, assignments: Sequence[str], model: ModelConfig, source: Path
) -> PretrainConfig:
    """Apply overrides, as `override`, to a configuration that takes the shape of a model that is there.

    Args:
      config: its own model counts for dropout and the range of new weights alone.
      assignments: `KEY=VALUE`.
      model: the shape.
      source: where that model lies, for messages.

    Raises:
      UserError: as `override`; a setting says another shape; rows are longer than the model has positions.
    """
    values, shape = to_dict(config), to_dict(model)
    shape |= {name: values["model"][name] for name in OF_TRAINING}
    values["model"] = dict(shape)
    _apply(values, config, assignments)
    longer = f"give it more first (bert-jax vocab extend {source} --positions N --output NEW) and begin with NEW"
    for name, value in values["model"].items():
        if name not in OF_TRAINING and value != shape[name]:
            remedy = longer if name == "max_position_embeddings" else "leave the setting out"
            raise UserError(f"model.{name}={value} is not that of {source}, which has {shape[name]}: {remedy}")
    for number, phase in enumerate(values["phases"]):
        if phase["sequence_length"] > model.max_position_embeddings:
            raise UserError(
                f"phases.{number}.sequence_length={phase['sequence_length']} is longer than the"
                f" {model.max_position_embeddings} positions of {source}: shorten the rows, or {longer}"
            )
    return build(PretrainConfig, values)


def _apply(values: JsonObject, config: object, assignments: Sequence[str]) -> None:
    """Put overrides into a configuration's nested dictionary."""
    given = {assignment.partition("=")[0] for assignment in assignments}
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
        if key == "objective" and isinstance(config, PretrainConfig):
            key = "objective.name"
        known = [name for name, _ in flatten(values)]
        if key not in known and isinstance(config, TrainingConfig) and (spelling := config.spelling(key)) is not None:
            raise UserError(f"there is no setting '{key}' here: write {spelling}")
        _assign(values, key, text, known)
        if (other := EITHER_OR.get(key)) is not None and other not in given and text.lower() != "none":
            _assign(values, other, "none", known)


def _assign(values: JsonObject, key: str, text: str, known: Sequence[str]) -> None:
    node: Any = values
    *path, last = key.split(".")
    for depth, part in enumerate(path):
        node = _descend(node, part, ".".join(path[:depth]), known)
    prefix = ".".join(path)
    current = _descend(node, last, prefix, known)
    if isinstance(current, dict | list):
        example = next(flatten(current, f"{key}."))[0]
        raise UserError(f"'{key}' is a group of settings: set one of them, such as {example}=...")
    node[int(last) if isinstance(node, list) else last] = _parse(key, text)


def _descend(node: Any, part: str, prefix: str, known: Sequence[str]) -> Any:
    if isinstance(node, list):
        if part not in map(str, range(len(node))):
            raise UserError(f"'{prefix}.{part}' does not exist: {prefix} has the entries 0 to {len(node) - 1}")
        return node[int(part)]
    if not isinstance(node, dict) or part not in node:
        here = node if isinstance(node, dict) else {}
        suggested = suggest(part, here, f"{prefix}." if prefix else "", known)
        raise UserError(f"unknown setting '{dotted(prefix, part)}'{suggested}")
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
    """Return where two configurations differ, as `key: old -> new`, without what a resumed run may change."""
    before, after = dict(flatten(to_dict(old))), dict(flatten(to_dict(new)))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if not key.startswith(RESUMABLE_CHANGES)]


def settings_help(config: Any = None) -> str:
    """Return every setting with its default and meaning, one a line; of pre-training, if no other configuration is given."""
    lines = []
    for key, value, text in documented(PretrainConfig() if config is None else config):
        lines.append(f"  {f'{key}={str(value).lower() if isinstance(value, bool | None) else value}':<44} {text}")
    return "\n".join(lines)


def documented(config: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield key, value and help of every setting: those of the kind of run first, then those that all kinds have."""
    own = type(config).__annotations__
    yield from _documented(config, "", lambda name: name not in own)


def _documented(config: Any, prefix: str, last: Callable[[str], bool]) -> Iterator[tuple[str, Any, str]]:
    for field in sorted(dataclasses.fields(config), key=lambda field: last(field.name)):
        value, key = getattr(config, field.name), f"{prefix}{field.name}"
        parts = {f"{key}.": value} if dataclasses.is_dataclass(value) else {}
        if isinstance(value, tuple):
            parts = {f"{key}.0.": value[0]}
        for inner, part in parts.items():
            yield from _documented(part, inner, lambda name: False)
        if not parts:
            yield key, value, field.metadata["help"]


# ---- named configurations and files --------------------------------------------------------------------------------


def load_config(name: str | Path) -> PretrainConfig:
    """The configuration of that name in configs/, of a Python file, or of a run's `config.json`.

    Raises:
      UserError: no such configuration, or a file that does not define one.
    """
    path = any_path(name)
    if path.suffix == ".json":
        return _load_json(path)
    path = local_path(name)
    if path.suffix != ".py":
        path = _configs_folder() / f"{name}.py"
        if not str(name).isidentifier() or not path.is_file():
            if name in named_recipes():
                raise UserError(f"{name} is a recipe of fine-tuning: write bert-jax finetune {name}")
            raise UserError(
                f"there is no configuration '{name}': name a .py file or one of {', '.join(config_names())}"
            )
    return _defined(path, "config", PretrainConfig)


def config_names() -> list[str]:
    """The names of the configurations of pre-training in configs/."""
    return sorted(file.stem for file in _configs_folder().glob("[!_]*.py") if file.name != RECIPES_FILE)


def named_recipes() -> dict[str, FinetuneRecipe]:
    """Return the recipes of fine-tuning in configs/finetune.py by name."""
    return _defined(_configs_folder() / RECIPES_FILE, "recipes", dict)


def recipe_file(path: str | Path) -> FinetuneRecipe:
    """Return the recipe of fine-tuning that a Python file defines.

    Raises:
      UserError: no such file, or it defines none.
    """
    return _defined(local_path(path), "recipe", FinetuneRecipe)


def _configs_folder() -> Path:
    spec = importlib.util.find_spec("bert_jax.configs")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _defined[T](path: Path, name: str, kind: type[T]) -> T:
    """Run a Python file and return what it calls `name`."""
    if not path.is_file():
        raise UserError(f"{path}: no such configuration file")
    spec = importlib.util.spec_from_file_location(f"_bert_jax_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        raise UserError(f"{path}: cannot be read as a configuration: {type(error).__name__}: {error}") from error
    value = getattr(module, name, None)
    if not isinstance(value, kind):
        raise UserError(f"{path}: does not define `{name} = {kind.__name__}(...)`")
    return value


def _load_json(path: Path) -> PretrainConfig:
    remedy = "restore the file"
    try:
        values = read_json(path, remedy)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    with reading(path, remedy):
        return from_dict(values)
