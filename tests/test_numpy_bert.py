# SPDX-License-Identifier: Apache-2.0
"""The referee of conversions against PyTorch's BERT, under both sides' names.

tests/golden/bert_torch.npz and bert_heads_torch.npz hold outputs of Hugging Face's models, made by
tests/golden_from_torch.py.
"""

import ast
import json
import math
import re
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import real_data
from golden_from_torch import CHOICES, formula_weights, HEADS_SIZES, shapes_of, SIZES

from bert_jax.base.errors import UserError
from bert_jax.config.model import ModelConfig
from bert_jax.conversion import numpy_bert, numpy_bert_names
from bert_jax.conversion.numpy_bert import forward
from bert_jax.conversion.numpy_bert_names import NAMINGS, TASKS
from bert_jax.conversion.tensors import stored, StoredTensors, TensorEntry

Weights = dict[str, np.ndarray]

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_ACTS = {"gelu_erf": "gelu", "gelu_tanh": "gelu_new"}  # ours -> Hugging Face's
PATH = Path("there/model.ckpt")
MODEL = ModelConfig(**SIZES)
HEADS_MODEL = ModelConfig(**HEADS_SIZES)


# ---- the golden files ----------------------------------------------------------------------------------------------


@cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name) as file:
        return dict(file)


def golden_inputs(name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix("inputs/"): value for key, value in golden(name).items() if key.startswith("inputs/")}


def same_as_stored(weights: Weights, total: np.ndarray) -> Weights:
    found = sum(np.abs(value).sum(dtype=np.float64) for value in weights.values())
    assert math.isclose(found, total, rel_tol=1e-7), "NumPy's random numbers changed: run tests/golden_from_torch.py"
    return weights


@cache
def pretraining_weights() -> Weights:
    """Of bert_torch.npz."""
    file, prefix = golden("bert_torch.npz"), "gelu/gradient/"
    shapes = {name.removeprefix(prefix): value.shape for name, value in file.items() if name.startswith(prefix)}
    return same_as_stored(formula_weights(shapes), file["gelu/weight_sum"])


@cache
def head_weights(head: str) -> Weights:
    """Of bert_heads_torch.npz."""
    file = golden("bert_heads_torch.npz")
    return same_as_stored(formula_weights(shapes_of(file[f"{head}/parameters"])), file[f"{head}/weight_sum"])


# ---- the same weights, named otherwise -----------------------------------------------------------------------------


def in_tf1_names(weights: Weights) -> Weights:
    """Google's names and orientations: kernels [in, out]; output matrices and embeddings as they are."""
    if "cls.predictions.decoder.bias" in weights:  # the one that is added
        weights = {**weights, "cls.predictions.bias": weights["cls.predictions.decoder.bias"]}
        del weights["cls.predictions.decoder.bias"]
    renamed = {}
    for name, value in weights.items():
        name = re.sub(r"layer\.(\d+)\.", r"layer_\1.", name)
        name = re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", name)
        name = re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name)
        name = re.sub(r"_embeddings\.weight$", "_embeddings", name)
        name = re.sub(r"^cls\.predictions\.bias$", "cls.predictions.output_bias", name)
        name = re.sub(r"^cls\.predictions\.decoder\.", "cls.predictions.output_", name)
        name = re.sub(r"^cls\.seq_relationship\.", "cls.seq_relationship.output_", name)
        name = re.sub(r"^classifier\.", "output_", name)
        name = re.sub(r"^qa_outputs\.", "cls.squad.output_", name)
        name = re.sub(r"output_weight$", "output_weights", name)
        if name.endswith(".weight"):
            name, value = name.replace(".weight", ".kernel"), np.ascontiguousarray(value.T)
        renamed[name.replace(".", "/")] = value
    return renamed


def named(weights: Weights, naming: str) -> Weights:
    return in_tf1_names(weights) if naming == "tf1" else weights


def encoder_only(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if name.startswith("bert.") and "pooler" not in name}


def without_bert(weights: Weights) -> Weights:
    return {name.removeprefix("bert."): value for name, value in weights.items()}


def with_module(weights: Weights) -> Weights:
    return {f"module.{name}": value for name, value in weights.items()}


def gamma_and_beta(weights: Weights) -> Weights:
    ends = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    for old, new in ends:
        weights = {name.replace(old, new): value for name, value in weights.items()}
    return weights


# ---- running it ----------------------------------------------------------------------------------------------------


def run(weights: Weights, model: ModelConfig = MODEL, naming: str = "hugging_face", **options: Any) -> Weights:
    """The weights, in Hugging Face's names unless they are renamed already, on the golden inputs of their size."""
    inputs = golden_inputs("bert_torch.npz" if model.vocab_size == MODEL.vocab_size else "bert_heads_torch.npz")
    return forward(stored(PATH, weights), naming, model, inputs, **options)


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max())


def assert_equal(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    assert largest_difference(found, expected) < tolerance  # not of a NaN


# ---- against PyTorch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("hidden_act", GOLDEN_ACTS)
def test_pretraining_model_equals_pytorch(hidden_act, naming):
    """Embeddings, each layer, pooler, MLM and NSP heads, under the names of both sides."""
    file, expected = golden("bert_torch.npz"), GOLDEN_ACTS[hidden_act]
    model = replace(MODEL, hidden_act=hidden_act)
    outputs = run(named(pretraining_weights(), naming), model, naming, all_layers=True)
    assert set(outputs) == {"hidden_states", "sequence_output", "pooled_output", "mlm_logits", "nsp_logits"}
    assert {value.dtype.name for value in outputs.values()} == {"float32"}

    valid = file["inputs/input_mask"] == 1
    states = file[f"{expected}/hidden_states"]
    for layer in range(MODEL.num_hidden_layers + 1):
        assert_equal(outputs["hidden_states"][layer][valid], states[layer])
    assert_equal(outputs["sequence_output"][valid], states[-1])
    assert_equal(outputs["pooled_output"], file[f"{expected}/pooled_output"])
    rows, slots = np.nonzero(file["inputs/masked_lm_weights"])
    masked = file["inputs/masked_lm_positions"][rows, slots]
    assert_equal(outputs["mlm_logits"][rows, masked], file[f"{expected}/mlm_logits"])
    assert_equal(outputs["nsp_logits"], file[f"{expected}/nsp_logits"])


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("hidden_act", GOLDEN_ACTS)
@pytest.mark.parametrize(
    "task", [task for task in TASKS if task != "multi_label"]
)  # which is computed as classification
def test_fine_tuned_head_equals_pytorch(task, hidden_act, naming):
    """Another size, an epsilon that shows, three segments; span: the start comes first."""
    file, expected = golden("bert_heads_torch.npz"), GOLDEN_ACTS[hidden_act]
    model = replace(HEADS_MODEL, hidden_act=hidden_act)
    outputs = run(named(head_weights(task), naming), model, naming, task=task)
    valid = file["inputs/input_mask"] == 1
    assert_equal(outputs["sequence_output"][valid], file[f"{expected}/sequence_output"])

    logits = outputs["task_logits"]
    if task in ("span", "tagging"):
        assert "pooled_output" not in outputs  # BertForQuestionAnswering has no pooler
        logits = logits[valid]
    elif task == "choice":
        assert logits.shape == (len(valid), 1)
        logits = logits.reshape(-1, CHOICES)
    assert_equal(logits, file[f"{expected}/{task}/task_logits"])


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("hidden_act", GOLDEN_ACTS)
def test_output_matrix_of_its_own_equals_pytorch(hidden_act, naming):
    """Taking the word embedding instead, or `cls.predictions.bias` for the decoder's own bias, would show here."""
    file, expected = golden("bert_heads_torch.npz"), GOLDEN_ACTS[hidden_act]
    model = replace(HEADS_MODEL, hidden_act=hidden_act, tie_word_embeddings=False)
    outputs = run(named(head_weights("untied"), naming), model, naming)
    valid = file["inputs/input_mask"] == 1
    assert_equal(outputs["mlm_logits"][valid], file[f"{expected}/untied/mlm_logits"])
    assert_equal(outputs["nsp_logits"], file[f"{expected}/untied/nsp_logits"])
    assert_equal(outputs["pooled_output"], file[f"{expected}/pooled_output"])


# ---- against Google's own list of tensors --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["uncased_L-4_H-256_A-4", "uncased_L-8_H-512_A-8"])
def test_reads_every_tensor_of_a_genuine_google_checkpoint(name):
    """Of the published shapes; a tensor that is never read or one that is not there would show."""
    pytest.importorskip("tensorflow")
    from bert_jax.conversion.tf1 import open_tf1

    folder = real_data(f"tf1-index/{name}")
    config = json.loads((folder / "bert_config.json").read_text())
    sizes = {key: value for key, value in config.items() if key in SIZES}
    entries = open_tf1(folder / "bert_model.ckpt").entries
    asked = []

    def read(name: str) -> np.ndarray:
        asked.append(name)
        return np.zeros(entries[name].shape, entries[name].dtype)

    inputs = {key: np.ones((1, 3), np.int32) for key in numpy_bert.INPUTS}
    forward(StoredTensors(folder, entries, read), "tf1", ModelConfig(**sizes), inputs)
    assert set(asked) == set(entries) - {"global_step"}


# ---- what files in the wild look like ------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [with_module, gamma_and_beta, lambda weights: with_module(gamma_and_beta(weights))])
def test_older_names_and_prefixes_change_nothing(change):
    plain, found = run(pretraining_weights()), run(change(pretraining_weights()))
    assert set(found) == set(plain)
    for name in plain:
        np.testing.assert_array_equal(found[name], plain[name])


@pytest.mark.parametrize("change", [without_bert, lambda weights: with_module(without_bert(weights))])
@pytest.mark.parametrize("pooler", [True, False])
def test_encoder_alone_returns_what_is_there(change, pooler):
    weights = pretraining_weights()
    body = {name: value for name, value in weights.items() if name.startswith("bert.")}
    plain, found = run(weights), run(change(body if pooler else encoder_only(weights)))
    assert set(found) == ({"sequence_output", "pooled_output"} if pooler else {"sequence_output"})
    for name in found:
        np.testing.assert_array_equal(found[name], plain[name])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_stored_type_is_only_a_type(dtype):
    """Half-precision files are computed with as the exact numbers they hold."""
    halves = {name: value.astype(dtype) for name, value in pretraining_weights().items()}
    found, expected = run(halves), run({name: value.astype(np.float32) for name, value in halves.items()})
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_tied_file_may_hold_the_output_matrix_too():
    """Files of pytorch_model.bin do: cls.predictions.decoder.weight is the word embedding once more."""
    weights = pretraining_weights()
    twice = {
        "cls.predictions.decoder.weight": weights["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": weights["cls.predictions.bias"],
    }
    expected = run(weights)["mlm_logits"]
    for tied in (True, False):
        found = run(weights | twice, replace(MODEL, tie_word_embeddings=tied))["mlm_logits"]
        np.testing.assert_array_equal(found, expected)


def test_optimizer_slots_and_other_tensors_are_left_alone():
    weights = in_tf1_names(pretraining_weights())
    slots = {f"{name}/adam_{slot}": np.full_like(value, np.nan) for name, value in weights.items() for slot in "mv"}
    found = run(weights | slots | {"global_step": np.array(3)}, naming="tf1")
    np.testing.assert_array_equal(found["mlm_logits"], run(weights, naming="tf1")["mlm_logits"])


def test_vocabulary_is_multiplied_in_slices(monkeypatch):
    """A last slice that is not full, and a slice of one word, lose nothing."""
    whole = run(pretraining_weights())["mlm_logits"]
    monkeypatch.setattr(numpy_bert, "VOCABULARY_SLICE", 19)  # 96 = 5 x 19 + 1
    assert_equal(run(pretraining_weights())["mlm_logits"], whole, 1e-6)


def test_one_tensor_is_in_memory_at_a_time():
    weights, held, asked, together = in_tf1_names(pretraining_weights()), weakref.WeakSet(), [], []

    class Tracked(np.ndarray):
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def read(name: str) -> np.ndarray:
        asked.append(name)
        together.append(len(held))
        array = weights[name].copy().view(Tracked)
        held.add(array)
        return array

    entries = {name: TensorEntry(value.shape, value.dtype.name) for name, value in weights.items()}
    forward(StoredTensors(PATH, entries, read), "tf1", MODEL, golden_inputs("bert_torch.npz"))
    assert sorted(asked) == sorted([*weights, "bert/embeddings/word_embeddings"])  # once more for the tied MLM head
    assert max(together) == 0, "a tensor was still held when the next one was read"


# ---- what a referee is for -----------------------------------------------------------------------------------------


def swapped(first: str, second: str) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, first: weights[second], second: weights[first]}


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, name: change(weights[name])}


LAYER = "bert.encoder.layer.1."
MISTAKES = {
    "transposed query kernel": (changed(f"{LAYER}attention.self.query.weight", np.transpose), "sequence_output"),
    "transposed attention output": (changed(f"{LAYER}attention.output.dense.weight", np.transpose), "sequence_output"),
    "transposed pooler": (changed("bert.pooler.dense.weight", np.transpose), "pooled_output"),
    "query for key": (
        swapped(f"{LAYER}attention.self.query.weight", f"{LAYER}attention.self.key.weight"),
        "sequence_output",
    ),
    "key for value": (
        swapped(f"{LAYER}attention.self.key.weight", f"{LAYER}attention.self.value.weight"),
        "sequence_output",
    ),
    "scale for shift": (
        swapped(f"{LAYER}output.LayerNorm.weight", f"{LAYER}output.LayerNorm.bias"),
        "sequence_output",
    ),
    "LayerNorms of a layer": (
        swapped(f"{LAYER}output.LayerNorm.weight", f"{LAYER}attention.output.LayerNorm.weight"),
        "sequence_output",
    ),
    "order of segments": (
        changed("bert.embeddings.token_type_embeddings.weight", np.flipud),
        "sequence_output",
    ),
    "positions shifted by one": (
        changed("bert.embeddings.position_embeddings.weight", lambda table: np.roll(table, 1, 0)),
        "sequence_output",
    ),
    "order of the vocabulary": (changed("bert.embeddings.word_embeddings.weight", np.flipud), "sequence_output"),
    "heads' features interleaved": (
        changed(f"{LAYER}attention.self.value.weight", lambda x: x.reshape(4, 6, -1).swapaxes(0, 1).reshape(24, -1)),
        "sequence_output",
    ),
    "order of NSP": (changed("cls.seq_relationship.weight", np.flipud), "nsp_logits"),
    "order of the output bias": (changed("cls.predictions.bias", np.flip), "mlm_logits"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_of_a_conversion_shows(mistake):
    """By a thousand tolerances of 1e-5: shapes alone would let each of these pass."""
    change, output = MISTAKES[mistake]
    valid = golden("bert_torch.npz")["inputs/input_mask"] == 1
    found, expected = run(change(pretraining_weights()))[output], run(pretraining_weights())[output]
    of_tokens = output in ("sequence_output", "mlm_logits")
    assert largest_difference(found[valid] if of_tokens else found, expected[valid] if of_tokens else expected) > 1e-2


def test_form_of_gelu_shows():
    """They differ by 5e-4 at most: above the tolerance of 1e-4 for a whole network."""
    tanh, erf = (run(pretraining_weights(), replace(MODEL, hidden_act=act)) for act in ("gelu_tanh", "gelu_erf"))
    assert largest_difference(tanh["sequence_output"], erf["sequence_output"]) > 2e-4


def test_padding_reaches_no_token():
    inputs = golden_inputs("bert_torch.npz")
    padding = inputs["input_mask"] == 0
    other = {**inputs, "input_ids": np.where(padding, 7, inputs["input_ids"])}
    found, expected = (forward(stored(PATH, pretraining_weights()), "hugging_face", MODEL, x) for x in (other, inputs))
    np.testing.assert_array_equal(found["sequence_output"][~padding], expected["sequence_output"][~padding])
    assert largest_difference(found["sequence_output"][padding], expected["sequence_output"][padding]) > 0.1


def test_shares_neither_model_nor_names_with_the_library():
    imported = set()
    for module in (numpy_bert, numpy_bert_names):
        tree = ast.parse(Path(module.__file__).read_text())
        imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    ours = {name for name in imported if name and name.startswith("bert_jax")}
    allowed = {"bert_jax.config.model", "bert_jax.conversion.tensors", "bert_jax.base.errors"}
    assert ours == allowed | {"bert_jax.conversion.numpy_bert_names"}


# ---- bad input -----------------------------------------------------------------------------------------------------

WORDS = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value for name, value in weights.items() if name not in names}


def renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name.replace(old, new): value for name, value in weights.items()}


def with_nan(table: np.ndarray) -> np.ndarray:
    table = table.copy()
    table[-1, -1] = np.nan
    return table


BAD_CHECKPOINTS: Mapping[str, tuple[Callable[[Weights], Weights], str]] = {
    "missing kernel": (without(QUERY), f"there is no tensor {QUERY}: "),
    "missing norm": (
        without("bert.embeddings.LayerNorm.bias"),
        "there is no tensor bert.embeddings.LayerNorm.bias or bert.embeddings.LayerNorm.beta: ",
    ),
    "missing bias of the output": (
        without("cls.predictions.bias"),
        "there is no tensor cls.predictions.decoder.bias or cls.predictions.bias: ",
    ),
    "NSP without pooler": (
        without("bert.pooler.dense.weight", "bert.pooler.dense.bias"),
        "there is no tensor bert.pooler.dense.weight: ",
    ),
    "half an NSP head": (without("cls.seq_relationship.weight"), "there is no tensor cls.seq_relationship.weight: "),
    "padded vocabulary": (
        changed(WORDS, lambda table: np.pad(table, ((0, 8), (0, 0)))),
        f"{WORDS} is [104, 24], but the model asks for [96, 24]: ",
    ),
    "transposed kernel": (
        changed("bert.encoder.layer.2.output.dense.weight", np.transpose),
        "bert.encoder.layer.2.output.dense.weight is [56, 24], but the model asks for [24, 56]: ",
    ),
    "more layers": (
        lambda weights: weights | {"bert.encoder.layer.3.output.dense.bias": np.zeros(24, np.float32)},
        "it has tensors bert.encoder.layer.3.*, but model.num_hidden_layers=3: ",
    ),
    "quantized": (
        changed(QUERY, lambda x: x.astype(np.int8)),
        f"{QUERY} is int8, none of float16, bfloat16, float32, float64: ",
    ),
    "NaN": (changed(WORDS, with_nan), f"{WORDS} holds NaN or infinity: "),
    "RoBERTa": (renamed("bert.", "roberta."), "(its first tensor: roberta."),
    "nothing": (lambda weights: {}, "(its first tensor: none at all)"),
    "two models": (
        lambda weights: weights | without_bert(weights),
        "bert.embeddings.word_embeddings.weight and embeddings.word_embeddings.weight are both there: ",
    ),
}


def refusal(call: Callable[[], Any]) -> str:
    """What it says, in one line."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_bad_checkpoint_is_refused_by_name(kind):
    change, says = BAD_CHECKPOINTS[kind]
    message = refusal(lambda: run(change(pretraining_weights())))
    assert message.startswith(f"{PATH}: ")
    assert says in message


def test_names_of_the_other_side_are_refused():
    weights = pretraining_weights()
    assert "there is no bert/embeddings/word_embeddings " in refusal(lambda: run(weights, naming="tf1"))
    assert f"there is no {WORDS} or " in refusal(lambda: run(in_tf1_names(weights)))
    assert "naming=keras is not known: choose one of hugging_face, tf1" in refusal(lambda: run(weights, naming="keras"))


def test_output_matrix_that_is_missing_is_not_replaced():
    """Untied says the configuration: to take the word embedding silently would be another model."""
    model = replace(MODEL, tie_word_embeddings=False)
    assert "there is no tensor cls.predictions.decoder.weight: " in refusal(lambda: run(pretraining_weights(), model))


BAD_TASKS: Mapping[str, tuple[str, Callable[[Weights], Weights], str]] = {
    "not known": (
        "ranking",
        dict,
        "task=ranking is not known: choose one of classification, multi_label, regression, ",
    ),
    "no head": ("span", dict, "there is no tensor qa_outputs.weight: "),
    "no bias": ("tagging", without("classifier.bias"), "there is no tensor classifier.bias: "),
    "no pooler": (
        "classification",
        without("bert.pooler.dense.weight", "bert.pooler.dense.bias"),
        "task=classification needs the pooler, but there is no bert.pooler.dense.weight: ",
    ),
    "classes of a choice": (
        "choice",
        dict,
        "classifier.weight is [3, 30], but the model asks for [1, 30]: ",
    ),
    "classes of a span": (
        "span",
        renamed("classifier.", "qa_outputs."),
        "qa_outputs.weight is [3, 30], but the model asks for [2, 30]: ",
    ),
    "classes of the bias": (
        "classification",
        changed("classifier.bias", lambda bias: bias[:2]),
        "classifier.bias is [2], but the model asks for [3]: ",
    ),
}


@pytest.mark.parametrize("kind", BAD_TASKS)
def test_bad_task_is_refused(kind):
    task, change, says = BAD_TASKS[kind]
    assert says in refusal(lambda: run(change(head_weights("classification")), HEADS_MODEL, task=task))


BAD_INPUTS: Mapping[str, tuple[dict[str, Any], str]] = {
    "id": ({"input_ids": 96}, "input_ids (int32) must be integers from 0 to 95: "),
    "negative id": ({"input_ids": -1}, "input_ids (int32) must be integers from 0 to 95: "),
    "fraction": ({"input_ids": 0.5}, "input_ids (float64) must be integers from 0 to 95: "),
    "segment": ({"segment_ids": 2}, "segment_ids (int32) must be integers from 0 to 1: "),
    "mask": ({"input_mask": 2}, "input_mask (int32) must be integers from 0 to 1: "),
    "no token": ({"input_mask": 0}, "a row of input_mask has no token: "),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_bad_inputs_are_refused(kind):
    values, says = BAD_INPUTS[kind]
    inputs = {name: np.full((2, 5), values.get(name, 1)) for name in numpy_bert.INPUTS}
    inputs = {name: value.astype(np.int32) if value.dtype.kind == "i" else value for name, value in inputs.items()}
    assert says in refusal(lambda: forward(stored(PATH, pretraining_weights()), "hugging_face", MODEL, inputs))


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"segment_ids": (2, 4)}, "input_ids [2, 5], segment_ids [2, 4], input_mask [2, 5]: "),
        (dict.fromkeys(numpy_bert.INPUTS, (5,)), "input_ids [5], segment_ids [5], input_mask [5]: "),
        (dict.fromkeys(numpy_bert.INPUTS, (0, 5)), "input_ids [0, 5], segment_ids [0, 5], input_mask [0, 5]: "),
        (
            dict.fromkeys(numpy_bert.INPUTS, (1, 41)),
            "rows of 41 tokens are longer than model.max_position_embeddings=40: ",
        ),
    ],
)
def test_inputs_of_bad_shapes_are_refused(shapes, says):
    inputs = {name: np.ones(shapes.get(name, (2, 5)), np.int32) for name in numpy_bert.INPUTS}
    assert says in refusal(lambda: forward(stored(PATH, pretraining_weights()), "hugging_face", MODEL, inputs))


def test_missing_input_is_named():
    inputs = {"input_ids": np.ones((1, 2), np.int32)}
    message = refusal(lambda: forward(stored(PATH, pretraining_weights()), "hugging_face", MODEL, inputs))
    assert message.startswith("the inputs lack segment_ids, input_mask: ")
