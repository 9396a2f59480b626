# SPDX-License-Identifier: Apache-2.0
"""The model that a checkpoint holds: its heads by its tensors, and what they predict by its config."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject
from bert_jax.config.description import ModelDescription, TaskHead, TASKS
from bert_jax.config.model import ModelConfig
from bert_jax.conversion import names
from bert_jax.conversion.config_files import HUGGING_FACE_CONFIG, LABELLED, labels_of, task_of
from bert_jax.conversion.names import HUGGING_FACE, NameRow, TF1
from bert_jax.conversion.tensors import StoredTensors
from bert_jax.tokenization import Tokenizer
from bert_jax.tokenization.encoding import TOKENIZER_FILE
from bert_jax.tokenization.loading import RECORDED

_LAYER_NUMBER = {
    HUGGING_FACE: re.compile(r"bert\.encoder\.layer\.(\d+)\."),
    TF1: re.compile(r"bert/encoder/layer_(\d+)/"),
}


def describe_tensors(
    format: str,
    model: ModelConfig,
    config: JsonObject,
    own: Mapping[str, str],
    tensors: StoredTensors,
    asked_task: str | None,
    take_head: bool,
) -> ModelDescription:
    """Describe the model: its heads are those whose tensors are there."""
    _check_layers(format, model, own, tensors.path)

    def has(rows: Iterable[NameRow]) -> bool:
        return any(row.name(format) in own for row in rows)

    mlm = has(names.MLM) or (format == HUGGING_FACE and names.DECODER_BIAS in own)
    if mlm and not model.tie_word_embeddings and names.UNTIED[0].name(format) not in own:
        raise UserError(
            f"{tensors.path} lacks {names.UNTIED[0].name(format)}, and its config says tie_word_embeddings=false: restore the"
            " tensor, or say true if the word embedding is the output matrix"
        )
    task = None
    for rows, span in ((names.SPAN, True), (names.CLASSIFIER, False)):
        kernel = rows[0].name(format)
        if kernel in own:
            outputs = tensors.entries[own[kernel]].shape[0]  # [C, D] in both formats
            task = _task(config, kernel, outputs, span, format, asked_task, take_head, tensors.path)
    pooler = has(names.POOLER)
    if model.causal and pooler:
        raise UserError(
            f"{tensors.path} has a pooler and its config says is_decoder=true: there it reads the first token, which sees no"
            f" other; leave out what stands on it: --skip {names.POOLER[0].name(format).removesuffix('weight')}*"
        )
    if task is not None and task.needs_pooler and not pooler and not take_head:
        task = TaskHead("tagging", task.outputs)
    if task is not None and task.needs_pooler and not pooler:
        raise UserError(
            f"{tensors.path} has no pooler, which a head for {task.kind} stands on: give --kind tagging, if its head stands on"
            " the tokens"
        )
    return ModelDescription(
        model if mlm else replace(model, tie_word_embeddings=True),
        pooler=pooler,
        mlm=mlm,
        nsp=has(names.NSP),
        task=task,
        rtd=has(names.RTD),
    )


def _task(
    config: JsonObject,
    kernel: str,
    outputs: int,
    span: bool,
    format: str,
    asked_task: str | None,
    take_head: bool,
    path: Path,
) -> TaskHead:
    config_file = path.parent / HUGGING_FACE_CONFIG
    if asked_task is not None and (asked_task == "span") == span:
        labels = labels_of(config, outputs) if asked_task in LABELLED else ()
        try:
            return TaskHead(asked_task, outputs, labels)
        except UserError as error:
            raise UserError(f"--kind {asked_task}: {path} has {kernel} of {outputs} outputs: {error}") from None
    told = task_of(config, outputs, span, config_file)
    if told is None and format == TF1:
        told = TaskHead("classification", outputs)  # run_classifier.py is the one that Google published
    if told is None and not take_head:
        told = TaskHead("tagging", outputs)
    if told is None:
        others = " or ".join(kind for kind in TASKS if kind != "span")
        raise UserError(
            f"{path}: config.json does not say what {kernel} of {outputs} outputs predicts: give --kind {others}"
        )
    return told


def require_plain_head(path: Path, description: ModelDescription) -> None:
    """Refuse to convert a fine-tuned head that other formats have no place for.

    Raises:
      UserError: naming what it has.
    """
    task = description.task
    if task is not None and not task.is_plain:
        raise UserError(
            f"{path}: its head for {task.kind} is more than a dense layer (layers={list(task.layers)}, lstm={task.lstm},"
            f" fusion={task.fusion}), which has no place elsewhere: run it with bert-jax predict, or fine-tune a plain one"
        )


def require_no_bilm(path: Path, description: ModelDescription, what: str) -> None:
    """Refuse what is not made of a model of LSTMs; `what` it is.

    Raises:
      UserError: naming it.
    """
    if description.model.is_recurrent:
        raise UserError(
            f"{path}: is a biLM (objective=bilm), and {what} has no place for it: bert-jax embed, evaluate and finetune run it"
            " as it is"
        )


def conclusions(
    format: str, description: ModelDescription, tokenizer: Tokenizer | None, asked_task: str | None
) -> Iterator[str]:
    """Yield what was assumed because no file says it, a sentence each."""
    task = description.task
    if format == TF1 and task is not None and task.kind == "classification" and asked_task is None:
        kernel = names.CLASSIFIER[0].tf1
        yield (
            f"{kernel} of {task.outputs} outputs is taken for a classification, as run_classifier.py writes it; give --kind"
            " for another kind"
        )
    if tokenizer is not None and not tokenizer.decided_by.startswith(RECORDED):
        case = "lower-cased" if tokenizer.lowercase else "cased"
        yield (
            f"text is taken to be {case}: {tokenizer.decided_by}; do_lower_case in a {TOKENIZER_FILE} beside them decides"
            " otherwise"
        )
    if tokenizer is not None and tokenizer.unreachable:
        yield (
            f"{len(tokenizer.unreachable)} of the {tokenizer.vocab_size} entries of the vocabulary, the first of them id"
            f" {tokenizer.unreachable[0]}, are empty or repeated further down: their ids stay, and no text is encoded to them"
        )


def _check_layers(format: str, model: ModelConfig, own: Iterable[str], path: Path) -> None:
    numbers = {int(match[1]) for name in own if (match := _LAYER_NUMBER[format].match(name))}
    count = model.num_hidden_layers
    if numbers and (len(numbers), min(numbers), max(numbers)) != (count, 0, count - 1):
        raise UserError(
            f"{path} holds layers {min(numbers)} to {max(numbers)} ({len(numbers)} of them) and its config says"
            f" num_hidden_layers={model.num_hidden_layers}: they do not belong together"
        )
