# SPDX-License-Identifier: Apache-2.0
"""BERT's forward pass in NumPy, by the other side's names and orientations: the referee of conversions.

It restates google-research/bert (modeling.py and the heads of run_pretraining.py, run_classifier.py and run_squad.py)
and modeling_bert.py of `transformers`, and shares with the rest of this library neither the model nor the table of
names: a mistake there cannot be repeated here.

Arithmetic is float64, whatever type is stored, and only what is returned is rounded to float32: a difference to it is
the other side's rounding, not the sum of two. Tensors are read one at a time and dropped once used.

Shapes: B rows, S tokens, D features, O outputs, H heads, K features of a head, L layers, V vocabulary, C classes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from bert_jax.base.errors import UserError
from bert_jax.config.model import ModelConfig
from bert_jax.conversion.numpy_bert_names import NAMES, Names, TASKS
from bert_jax.conversion.tensors import StoredTensors

FROM_POOLED = ("classification", "multi_label", "regression", "choice")  # the other heads read every token

INPUTS = ("input_ids", "segment_ids", "input_mask")
WEIGHT_TYPES = ("float16", "bfloat16", "float32", "float64")
VOCABULARY_SLICE = 4096  # words whose logits are computed at once: bounds the float64 copy of the output matrix


def forward(
    tensors: StoredTensors,
    naming: str,
    model: ModelConfig,
    inputs: Mapping[str, np.ndarray],
    *,
    task: str | None = None,
    all_layers: bool = False,
) -> dict[str, np.ndarray]:
    """Compute the outputs of a checkpoint of Google or Hugging Face, without dropout.

    Args:
      tensors: the checkpoint.
      naming: `hugging_face` (with or without the prefixes `module.` and `bert.`; LayerNorm's `gamma` and `beta` too),
        `tf1`, or `electra` (modeling_electra.py).
      model: sizes, form of GELU, epsilon of LayerNorm, and whether a token sees those before it only.
      inputs: `input_ids`, `segment_ids` and `input_mask` (1 at a token, 0 at padding), each [B, S] of integers; one
        example a row, positions counted from 0.
      task: the fine-tuned head to apply, one of `TASKS`.
      all_layers: return the embeddings and the output of every layer too.

    Returns:
      float32 arrays, those whose tensors are there: `sequence_output` [B, S, D], `pooled_output` [B, D], `mlm_logits`
      [B, S, V], `nsp_logits` [B, 2], `rtd_logits` [B, S, 1]; if asked for, `task_logits` ([B, C] from the pooled output
      for classification, multi_label, regression and choice, one row a choice; [B, S, C] for span, start before end, and
      tagging) and `hidden_states` [L + 1, B, S, D]. Padding attends to the tokens of its row, as in both originals, and
      means nothing.

    Raises:
      UserError: a tensor that is missing, of another shape than `model` says, not floating point or not finite; more
        layers than `model` says; inputs that the model cannot take.
    """
    if naming not in NAMES:
        raise UserError(f"naming={naming} is not known: choose one of {', '.join(NAMES)}")
    if task is not None and task not in TASKS:
        raise UserError(f"task={task} is not known: choose one of {', '.join(TASKS)}")
    _check_inputs(inputs, model)
    weights = _open(tensors, NAMES[naming], model)
    states = _encode(weights, inputs, keep=all_layers)
    outputs = {"sequence_output": states[-1], **({"hidden_states": np.stack(states)} if all_layers else {})}
    outputs |= _pooled_and_nsp(weights, states[-1])
    outputs |= _mlm(weights, states[-1])
    outputs |= _replaced(weights, states[-1])
    if task is not None:
        outputs["task_logits"] = _task_logits(weights, task, outputs)
    return {name: output.astype(np.float32, copy=False) for name, output in outputs.items()}


# ---- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Weights:
    """A checkpoint with the prefixes that its names were found to have."""

    tensors: StoredTensors
    names: Names
    model: ModelConfig
    encoder: str
    heads: str

    def has(self, name: str) -> bool:
        return name in self.tensors.entries

    def has_any(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.tensors.entries)

    def stored(self, shape: tuple[int, ...], *names: str) -> np.ndarray:
        """The first of these tensors that is there, in the type it is stored in."""
        path, entries = self.tensors.path, self.tensors.entries
        name = next((name for name in names if name in entries), None)
        if name is None:
            raise UserError(
                f"{path}: there is no tensor {' or '.join(names)}: complete the checkpoint, or choose another one"
            )
        entry = entries[name]
        if entry.shape != shape:
            raise UserError(
                f"{path}: {name} is {list(entry.shape)}, but the model asks for {list(shape)}:"
                f" give the configuration, and the task, that belong to these weights"
            )
        if entry.dtype not in WEIGHT_TYPES:
            raise UserError(
                f"{path}: {name} is {entry.dtype}, none of {', '.join(WEIGHT_TYPES)}: choose a checkpoint that is not"
                f" quantized"
            )
        array = self.tensors.read(name)
        if not np.isfinite(array).all():
            raise UserError(
                f"{path}: {name} holds NaN or infinity: the run that wrote it diverged; choose an earlier one"
            )
        return array

    def wide(self, shape: tuple[int, ...], *names: str) -> np.ndarray:
        """The same as float64."""
        return self.stored(shape, *names).astype(np.float64)

    def dense(self, x: np.ndarray, name: str, outputs: int) -> np.ndarray:
        """[..., D] -> [..., O]."""
        shape = (x.shape[-1], outputs)
        if self.names.kernel_is_transposed:
            product = x @ self.wide(shape[::-1], name + self.names.kernel).T
        else:
            product = x @ self.wide(shape, name + self.names.kernel)
        return product + self.wide((outputs,), name + self.names.bias)

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        """LayerNorm over the last axis, with the variance of the population."""
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + self.model.layer_norm_eps)
        scale = self.wide(x.shape[-1:], *(name + end for end in self.names.scale))
        return centred / deviation * scale + self.wide(x.shape[-1:], *(name + end for end in self.names.shift))


def _open(tensors: StoredTensors, names: Names, model: ModelConfig) -> _Weights:
    found = [prefix for prefix in names.prefixes if prefix + names.word in tensors.entries]
    if not found:
        first = next(iter(tensors.entries), "none at all")
        raise UserError(
            f"{tensors.path}: there is no {' or '.join(prefix + names.word for prefix in names.prefixes)} (its first"
            f" tensor: {first}): choose a checkpoint of BERT, and the naming it is in"
        )
    if len(found) > 1:
        raise UserError(
            f"{tensors.path}: {' and '.join(prefix + names.word for prefix in found)} are both there: choose a"
            f" checkpoint of one model"
        )
    weights = _Weights(tensors, names, model, found[0], names.prefixes[found[0]])
    extra = weights.encoder + names.layer.format(model.num_hidden_layers)
    if weights.has_any(extra):
        raise UserError(
            f"{tensors.path}: it has tensors {extra}*, but model.num_hidden_layers={model.num_hidden_layers}:"
            f" give the configuration that belongs to these weights"
        )
    return weights


# ---- the encoder ---------------------------------------------------------------------------------------------------


def _encode(weights: _Weights, inputs: Mapping[str, np.ndarray], keep: bool) -> list[np.ndarray]:
    """Embeddings and layers, each [B, S, D]; without `keep` the last layer only."""
    states = [_embed(weights, inputs)]
    for number in range(weights.model.num_hidden_layers):
        before = weights.encoder + weights.names.layer.format(number)
        x = _layer(weights, before, states[-1], inputs["input_mask"])
        states = [*states, x] if keep else [x]
    return states


def _embed(weights: _Weights, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    names, model, before = weights.names, weights.model, weights.encoder
    length = inputs["input_ids"].shape[1]
    positions = np.arange(length)[None]
    x = np.zeros((*inputs["input_ids"].shape, model.table_size))
    for name, rows, ids in (
        (names.word, model.vocab_size, inputs["input_ids"]),
        (names.position, model.max_position_embeddings, positions),
        (names.segment, model.type_vocab_size, inputs["segment_ids"]),
    ):
        x += weights.stored((rows, model.table_size), before + name)[ids].astype(np.float64)
    x = weights.norm(x, before + names.embeddings_norm)
    return weights.dense(x, before + names.projection, model.hidden_size) if model.is_projected else x


def _layer(weights: _Weights, before: str, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One layer, [B, S, D]; LayerNorm comes after each sum."""
    names, features = weights.names, x.shape[-1]
    query, key, value = (weights.dense(x, before + part, features) for part in (names.query, names.key, names.value))
    context = np.stack([_attend(*row, weights.model) for row in zip(query, key, value, mask, strict=True)])
    del query, key, value
    attended = weights.dense(context, before + names.attention_output, features)
    x = weights.norm(attended + x, before + names.attention_norm)
    inner = _gelu(weights)(weights.dense(x, before + names.intermediate, weights.model.intermediate_size))
    return weights.norm(weights.dense(inner, before + names.output, features) + x, before + names.output_norm)


def _attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, mask: np.ndarray, model: ModelConfig) -> np.ndarray:
    """One row: [S, D] three times and its mask [S] -> [S, D]. Features of a head lie together."""
    (S, D), heads = query.shape, model.num_attention_heads
    query, key, value = (x.reshape(S, heads, D // heads).swapaxes(0, 1) for x in (query, key, value))  # [H, S, K]
    scores = query @ key.swapaxes(1, 2) / math.sqrt(D // heads)  # [H, S, S]
    scores[:, :, mask == 0] = -np.inf
    if model.causal:
        scores[:, np.triu(np.ones((S, S), bool), 1)] = -np.inf
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return (scores / scores.sum(-1, keepdims=True) @ value).swapaxes(0, 1).reshape(S, D)


def _gelu(weights: _Weights) -> Callable[[np.ndarray], np.ndarray]:
    return {"gelu_tanh": _gelu_tanh, "gelu_erf": _gelu_erf}[weights.model.hidden_act]


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    """Google's `gelu`, Hugging Face's `gelu_new`."""
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gelu_erf(x: np.ndarray) -> np.ndarray:
    """Hugging Face's `gelu`."""
    product: np.ndarray = x * 0.5 * (1 + erf(x / math.sqrt(2)))
    return product


# ---- heads ---------------------------------------------------------------------------------------------------------


def _pooled_and_nsp(weights: _Weights, sequence: np.ndarray) -> dict[str, np.ndarray]:
    """The pooler and the next-sentence head, as far as they are there."""
    names = weights.names
    pooler, nsp = weights.encoder + names.pooler, [weights.heads + name for name in names.nsp]
    has_nsp = any(map(weights.has, nsp))
    if names.first_token and weights.has_any(f"{weights.heads}{names.first_token}."):
        first = weights.dense(sequence[:, 0], weights.heads + names.first_token, sequence.shape[-1])
        return {"pooled_output": _gelu(weights)(first)}
    if not (has_nsp or weights.has_any(pooler)):
        return {}
    pooled = np.tanh(weights.dense(sequence[:, 0], pooler, sequence.shape[-1]))
    outputs = {"pooled_output": pooled}
    if has_nsp:
        outputs["nsp_logits"] = _classes(weights, pooled, nsp[0], nsp[1], 2)
    return outputs


def _mlm(weights: _Weights, sequence: np.ndarray) -> dict[str, np.ndarray]:
    """The masked-LM head on every token, if it is there."""
    names, model, before = weights.names, weights.model, weights.heads
    if not weights.has_any(before + names.mlm):
        return {}
    x = _gelu(weights)(weights.dense(sequence, before + names.transform, model.table_size))
    x = weights.norm(x, before + names.transform_norm)
    tied = model.tie_word_embeddings and not weights.has(before + names.decoder)
    decoder = weights.encoder + names.word if tied else before + names.decoder
    bias = weights.wide((model.vocab_size,), *(before + name for name in names.decoder_bias))
    matrix = weights.stored((model.vocab_size, model.table_size), decoder)
    logits = np.empty((*x.shape[:-1], model.vocab_size), np.float32)
    for start in range(0, model.vocab_size, VOCABULARY_SLICE):
        words = slice(start, start + VOCABULARY_SLICE)
        logits[..., words] = x @ matrix[words].astype(np.float64).T + bias[words]
    return {"mlm_logits": logits}


def _replaced(weights: _Weights, sequence: np.ndarray) -> dict[str, np.ndarray]:
    """The discriminator's head on every token, if it is there: [B, S, 1]."""
    dense, prediction = (weights.heads + name for name in (weights.names.replaced, weights.names.replaced_output))
    if not (weights.names.replaced and weights.has_any(f"{dense}.")):
        return {}
    x = _gelu(weights)(weights.dense(sequence, dense, sequence.shape[-1]))
    return {"rtd_logits": weights.dense(x, prediction, 1)}


def _task_logits(weights: _Weights, task: str, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """A fine-tuned head; the number of classes is that of its matrix."""
    kernel, bias = (weights.heads + name for name in weights.names.tasks[task])
    output = "pooled_output" if task in FROM_POOLED else "sequence_output"
    if output not in outputs:
        raise UserError(
            f"{weights.tensors.path}: task={task} needs the pooler, but there is no {weights.encoder}"
            f"{weights.names.pooler}{weights.names.kernel}: complete the checkpoint, or choose another task"
        )
    entry = weights.tensors.entries.get(kernel)
    classes = TASKS[task] or (entry.shape[0] if entry and entry.shape else 1)
    return _classes(weights, outputs[output], kernel, bias, classes)


def _classes(weights: _Weights, x: np.ndarray, kernel: str, bias: str, classes: int) -> np.ndarray:
    """[..., D] -> [..., C] by a matrix that both sides store as [C, D]."""
    return x @ weights.wide((classes, x.shape[-1]), kernel).T + weights.wide((classes,), bias)


# ---- inputs --------------------------------------------------------------------------------------------------------


def _check_inputs(inputs: Mapping[str, np.ndarray], model: ModelConfig) -> None:
    missing = [name for name in INPUTS if name not in inputs]
    if missing:
        raise UserError(f"the inputs lack {', '.join(missing)}: give {', '.join(INPUTS)}, each [rows, tokens]")
    shapes = {name: list(inputs[name].shape) for name in INPUTS}
    shape = shapes["input_ids"]
    if len(shape) != 2 or 0 in shape or any(other != shape for other in shapes.values()):
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise UserError(f"the inputs have the shapes {said}: give all as [rows, tokens], at least one of each")
    if shape[1] > model.max_position_embeddings:
        raise UserError(
            f"rows of {shape[1]} tokens are longer than"
            f" model.max_position_embeddings={model.max_position_embeddings}: give shorter ones"
        )
    bounds = {"input_ids": model.vocab_size, "segment_ids": model.type_vocab_size, "input_mask": 2}
    for name, bound in bounds.items():
        values = inputs[name]
        if values.dtype.kind not in "iu" or (values < 0).any() or (values >= bound).any():
            raise UserError(f"{name} ({values.dtype.name}) must be integers from 0 to {bound - 1}: mend the inputs")
    if not inputs["input_mask"].any(axis=1).all():
        raise UserError("a row of input_mask has no token: leave such rows out of the inputs")
