# SPDX-License-Identifier: Apache-2.0
"""BERT in JAX: pre-training from raw text, fine-tuning, evaluation and checkpoint conversion.

What each stage of the command line does, a function here does with the same code. JAX is imported by the first call.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TYPE_CHECKING

from bert_jax.base.host import __version__

if TYPE_CHECKING:
    from bert_jax.base.types import JsonObject
    from bert_jax.config.finetune import FinetuneConfig
    from bert_jax.config.pretrain import PretrainConfig
    from bert_jax.conversion.convert import Certificate
    from bert_jax.finetuning.directory import OwnTask
    from bert_jax.finetuning.run import Result
    from bert_jax.preparation.request import PrepareSettings
    from bert_jax.runs.directory import RunDirectory
    from bert_jax.use.model import Pretrained

__all__ = ["__version__", "convert", "evaluate", "finetune", "load", "prepare", "pretrain"]


def load(path: str | Path, **options: Any) -> "Pretrained":
    """Load a model and its tokenizer from a run, a directory of Hugging Face's or a TF1 checkpoint: see `use.model.load`."""
    from bert_jax.use import model

    return model.load(path, **options)


def prepare(
    text: Sequence[str | Path], vocabulary: str | Path, output: str | Path, settings: "PrepareSettings | None" = None
) -> "JsonObject":
    """Turn text into prepared data, and return its passport (what passport.json holds).

    Args:
      text: files, folders, globs or TensorFlow data sets, as `bert-jax prepare --input` takes them.
      vocabulary: a vocab.txt, or a folder made by `bert-jax vocab`.
      output: a directory to make. One that holds the same already is left as it is.
      settings: kinds of examples, lengths and the like; None: rows of 128 and 512 for BERT's objective.

    Raises:
      UserError: text that cannot be used, or an `output` that holds something else.
    """
    from bert_jax.base.paths import any_path
    from bert_jax.preparation.job import prepare as run
    from bert_jax.preparation.request import PrepareSettings
    from bert_jax.tokenization import load_tokenizer

    manifest, _ = run(text, load_tokenizer(any_path(vocabulary)), any_path(output), settings or PrepareSettings())
    return manifest


def pretrain(
    config: "PretrainConfig | str",
    data: str | Path,
    output: str | Path,
    model: str | Path | None = None,
    teacher: str | Path | None = None,
) -> "RunDirectory":
    """Pre-train to the end of the configured steps, from the newest checkpoint of `output` if there is one.

    Args:
      config: a configuration, or the name of one in configs/, such as "demo".
      data: made by `prepare`.
      output: the run directory.
      model: a checkpoint of any format to begin with, which gives shape and vocabulary; None: weights are drawn.
      teacher: a checkpoint of any format to learn from, as `config.distill` says; None: from the data alone.

    Raises:
      UserError: bad input, named; a loss that is not finite; another process writes into `output`.
      Interrupted: asked to stop; the state is saved.
    """
    from bert_jax.base.paths import any_path
    from bert_jax.config.settings import load_config
    from bert_jax.conversion.teachers import open_teacher
    from bert_jax.train.pretraining import pretrain as run

    resolved = load_config(config) if isinstance(config, str) else config
    place, again = (any_path(data), any_path(output)), "the same call of bert_jax.pretrain"
    learned_from = None if teacher is None else open_teacher(any_path(teacher))
    if model is None:
        return run(resolved, *place, resume_command=again, teacher=learned_from)
    from bert_jax.conversion.further import pretrain_further, Start

    start = Start(any_path(model))
    return pretrain_further(resolved, [], start, *place, resume_command=again, teacher=learned_from)


def finetune(
    task: "str | OwnTask",
    data: str | Path,
    model: str | Path,
    output: str | Path,
    config: "FinetuneConfig | None" = None,
    teacher: str | Path | None = None,
) -> "Result":
    """Fine-tune a model on a task, score it on the dev split, and write predictions.

    Args:
      task: a recipe in configs/finetune.py, such as "sst2", or a description of one's own files.
      data: the folder of the task's official files, or "tfds:NAME".
      model: a checkpoint of any format.
      output: the directory of the fine-tuned run.
      config: the settings; None: those of the recipe.
      teacher: a fine-tuned model of the task to learn from, beside the labels; None: from these alone.

    Raises:
      UserError: bad input, named; a loss that is not finite; another process writes into `output`.
      Interrupted: asked to stop; the state is saved.
    """
    from bert_jax.base.paths import any_path, any_text
    from bert_jax.config.finetune import FinetuneConfig
    from bert_jax.finetuning.prepared import Wanted
    from bert_jax.finetuning.recipes import load_recipe
    from bert_jax.finetuning.run import finetune as run

    settings = config or FinetuneConfig()
    if isinstance(task, str):
        recipe = load_recipe(task)
        task, settings = recipe.task, config or recipe.config
    learned_from = None if teacher is None else any_path(teacher)
    wanted = Wanted(task, any_text(str(data)), any_path(model), settings, teacher=learned_from)
    return run(wanted, any_path(output), resume_command="the same call of bert_jax.finetune")


def evaluate(
    model: "str | Path | Pretrained", data: str | Path | None = None, *, text: Sequence[str | Path] = ()
) -> "JsonObject":
    """Score a model with an MLM head on the held-out part of prepared data, or on any text.

    Args:
      model: a checkpoint of any format, or one that is loaded.
      data: prepared data with the model's vocabulary. Beside `text`, n-gram models are made of its training split.
      text: what to score instead, as `bert-jax prepare --input` takes it.

    Returns:
      What `bert-jax evaluate --json` prints.

    Raises:
      UserError: nothing to score; the data is of another vocabulary; there is no MLM head.
    """
    from bert_jax.base.errors import UserError
    from bert_jax.feed.shards import open_data
    from bert_jax.use.evaluation import evaluate_data
    from bert_jax.use.intrinsic import evaluate_text

    loaded = load(model) if isinstance(model, str | Path) else model
    opened = None if data is None else open_data(data)
    if text:
        return evaluate_text(loaded, text, data=opened)
    if opened is None:
        raise UserError("nothing to score: give prepared data, or text=[...]")
    return evaluate_data(loaded, opened, "validation", None)


def convert(source: str | Path, destination: str | Path, to: str) -> "Certificate":
    """Convert a checkpoint of any format; `destination` appears only if both sides are proved to be the same.

    Args:
      source: a run, a directory of Hugging Face's or a TF1 checkpoint.
      destination: a directory that does not exist, or is empty.
      to: "bert-jax", "huggingface" or "tf1".

    Raises:
      UserError: what cannot be converted, named.
    """
    from bert_jax.base.paths import any_path
    from bert_jax.conversion.convert import convert as run

    return run(any_path(source), any_path(destination), to)
