# SPDX-License-Identifier: Apache-2.0
"""Small checkpoints for the tests of conversion, written without our code: names are spelt out, safetensors by its library.

Runs of ours are written by ours.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from golden_from_torch import formula_weights
from safetensors.numpy import save_file

from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.model import ModelConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.training import OptimizerConfig
from bert_jax.conversion.names import NameRow, shape_of
from bert_jax.conversion.own_format import write_run
from bert_jax.tokenization import WordPieceTokenizer

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "##a", "##b", "the", "of"]
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
}
MODEL = ModelConfig(**SIZES)  # gelu_tanh
PRETRAINING = ModelDescription(MODEL)

# Every kind of model that is converted.
KINDS: dict[str, ModelDescription] = {
    "pretraining": PRETRAINING,
    "pretraining, erf": ModelDescription(replace(MODEL, hidden_act="gelu_erf")),
    "untied": ModelDescription(replace(MODEL, tie_word_embeddings=False)),
    "mlm": ModelDescription(MODEL, pooler=False, nsp=False),
    "nsp": ModelDescription(MODEL, mlm=False),
    "encoder and pooler": ModelDescription(MODEL, mlm=False, nsp=False),
    "encoder": ModelDescription(MODEL, pooler=False, mlm=False, nsp=False),
    "classification": ModelDescription(
        MODEL, mlm=False, nsp=False, task=TaskHead("classification", 3, ("no", "yes", "?"))
    ),
    "regression": ModelDescription(MODEL, mlm=False, nsp=False, task=TaskHead("regression", 1)),
    "choice": ModelDescription(MODEL, mlm=False, nsp=False, task=TaskHead("choice", 1)),
    "span": ModelDescription(MODEL, pooler=False, mlm=False, nsp=False, task=TaskHead("span", 2)),
    "tagging": ModelDescription(MODEL, pooler=False, mlm=False, nsp=False, task=TaskHead("tagging", 5)),
}
ARCHITECTURES = {
    "classification": "BertForSequenceClassification",
    "regression": "BertForSequenceClassification",
    "choice": "BertForMultipleChoice",
    "span": "BertForQuestionAnswering",
    "tagging": "BertForTokenClassification",
}


def hugging_face_shapes(description: ModelDescription) -> dict[str, tuple[int, ...]]:
    """The state dict of Hugging Face's class, name by name, as modeling_bert.py builds it."""
    model = description.model
    D, F, V = model.hidden_size, model.intermediate_size, model.vocab_size
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (V, D),
        "bert.embeddings.position_embeddings.weight": (model.max_position_embeddings, D),
        "bert.embeddings.token_type_embeddings.weight": (model.type_vocab_size, D),
    }

    def add(name: str, outputs: int, inputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def add_norm(name: str) -> None:
        shapes[f"{name}.LayerNorm.weight"] = shapes[f"{name}.LayerNorm.bias"] = (D,)

    add_norm("bert.embeddings")
    for n in range(model.num_hidden_layers):
        layer = f"bert.encoder.layer.{n}"
        for part in ("query", "key", "value"):
            add(f"{layer}.attention.self.{part}", D, D)
        add(f"{layer}.attention.output.dense", D, D)
        add_norm(f"{layer}.attention.output")
        add(f"{layer}.intermediate.dense", F, D)
        add(f"{layer}.output.dense", D, F)
        add_norm(f"{layer}.output")
    if description.pooler:
        add("bert.pooler.dense", D, D)
    if description.mlm:
        shapes["cls.predictions.bias"] = (V,)
        add("cls.predictions.transform.dense", D, D)
        add_norm("cls.predictions.transform")
    if description.mlm and not model.tie_word_embeddings:
        shapes["cls.predictions.decoder.weight"], shapes["cls.predictions.decoder.bias"] = (V, D), (V,)
    if description.nsp:
        add("cls.seq_relationship", 2, D)
    if description.task:
        add("qa_outputs" if description.task.kind == "span" else "classifier", description.task.outputs, D)
    return shapes


def hugging_face_config(description: ModelDescription) -> dict[str, object]:
    """config.json."""
    model, task = description.model, description.task
    values = {name: value for name, value in asdict(model).items() if name in SIZES}
    names = {
        (True, True): "BertForPreTraining",
        (True, False): "BertForMaskedLM",
        (False, True): "BertForNextSentencePrediction",
    }
    values |= {
        "architectures": [
            ARCHITECTURES[task.kind] if task else names.get((description.mlm, description.nsp), "BertModel")
        ],
        "model_type": "bert",
        "hidden_act": {"gelu_tanh": "gelu_new", "gelu_erf": "gelu"}[model.hidden_act],
        "tie_word_embeddings": model.tie_word_embeddings,
    }
    if model.causal:
        values |= {"is_decoder": True, "add_cross_attention": False, "use_cache": True}
        values["architectures"] = values["architectures"] if task else ["BertLMHeadModel"]
    if task and task.labels:
        values["id2label"] = {str(number): label for number, label in enumerate(task.labels)}
    if task and task.kind == "regression":
        values |= {"problem_type": "regression", "id2label": {"0": "LABEL_0"}}
    return values


def sample_weights(description: ModelDescription) -> dict[str, np.ndarray]:
    """Hugging Face's names -> weights that depend on the name alone."""
    weights = formula_weights(hugging_face_shapes(description))
    if "cls.predictions.decoder.bias" in weights:  # the one that transformers adds; a file of ours has it twice
        weights["cls.predictions.bias"] = weights["cls.predictions.decoder.bias"]
    return weights


def write_hugging_face(
    folder: Path,
    description: ModelDescription,
    weights: dict[str, np.ndarray] | None = None,
    vocabulary: Sequence[str] = VOCABULARY,
) -> Path:
    """A directory as Hugging Face's library writes one, with an uncased vocabulary."""
    folder.mkdir(parents=True)
    weights = sample_weights(description) if weights is None else weights
    save_file(
        {name: np.ascontiguousarray(value) for name, value in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    (folder / "config.json").write_text(json.dumps(hugging_face_config(description)))
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in vocabulary))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    )
    return folder


def write_own_run(folder: Path, more_rows: int = 0, **optimizer: object) -> PretrainConfig:
    """A run of ours after 7 steps, with moments; `more_rows` than entries, and a recipe that is not the default."""
    model = replace(MODEL, vocab_size=len(VOCABULARY) + more_rows)
    phase = PhaseConfig(16, steps=10, batch_size=8, max_predictions_per_seq=3)
    recipe = OptimizerConfig(**{"warmup_steps": 2, "learning_rate": 3e-4, **optimizer})
    config = PretrainConfig(model=model, phases=(phase,), optimizer=recipe, seed=5, packing="buckets")
    description = ModelDescription(model)

    def weight(row: NameRow) -> np.ndarray:
        normal = np.random.default_rng(zlib.crc32(row.ours.encode())).standard_normal(shape_of(row, description))
        return (row.ours.endswith("scale") + 0.3 * normal).astype(np.float32)

    WordPieceTokenizer(VOCABULARY, lowercase=True).save(folder)
    write_run(folder, description, weight, config, 7, lambda row: (weight(row) / 8, weight(row) ** 2))
    return config
