# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on SST-2 beside Hugging Face's Trainer, on this CPU.

Both sides begin with the same weights, drawn once, and take the same texts, batch size, recipe and number type (float32), and
all cores; rows of the peer are padded to the longest of their batch, and once more with its own grouping by length. Ours
compiles a program for each shape of rows, which the peer does not need: those seconds are left out of the speed and told
beside it, with the number of examples after which they are paid back. Imports and reading are left out on both sides.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import write_json
from bert_jax.base.types import JsonObject
from bert_jax.bench.measure import alternate, paired_ratio, summary
from bert_jax.bench.side_process import find_peer, fresh_process, ON_THE_CPU
from bert_jax.bench.suite import parse_size
from bert_jax.bench.workbench import Record, Workbench
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.model import ModelConfig
from bert_jax.config.settings import to_dict
from bert_jax.conversion import names
from bert_jax.conversion.config_files import HUGGING_FACE_CONFIG, hugging_face_config
from bert_jax.conversion.names import HUGGING_FACE, NameRow
from bert_jax.conversion.safetensors_files import write_safetensors
from bert_jax.conversion.tensors import TensorEntry, Writable
from bert_jax.tokenization import load_tokenizer

HEAD_SIZE = 64
DROPOUT = 0.1
OURS = "bert-jax finetune"
SAMPLINGS = {"Trainer": "random", "Trainer, group_by_length": "group_by_length"}
FIGURES = ("examples_per_second", "valid_share")


def measure(bench: Workbench) -> Iterator[Record]:
    """Yield a record of each size of model; or the one that says why there is none."""
    if not (bench.inputs.data and bench.inputs.vocab):
        yield bench.absent("fine-tuning", "SST-2 and a vocabulary", "--data and --vocab")
        return
    if find_peer(bench.inputs.peer_python) is None:
        yield bench.absent("Hugging Face's Trainer", "PyTorch transformers", "--peer-python")
    sizes = bench.suite.sizes.finetune_models.split(",")
    yield from bench.each(sizes, lambda size: measure_size(bench, size))


def measure_size(bench: Workbench, size: str) -> Record:
    """Train and predict with a model of one size, LAYERSxHIDDEN, on every side in turn."""
    sizes, config = bench.suite.sizes, bench.suite.finetune
    length, batch_size = config.max_length, config.batch_size
    assert bench.inputs.data and bench.inputs.vocab and length and batch_size
    # A line of metrics for each epoch: the last one's is its speed.
    config = replace(config, log_every=-(-sizes.finetune_examples // batch_size))
    data, model = bench.folder / "sst-2", bench.folder / size
    write_data(bench.inputs.data, sizes.finetune_examples, data)
    write_model(size, bench.inputs.vocab, length, model)
    work: JsonObject = {"do": "finetune", "data": str(data), "model": str(model), "config": to_dict(config)}
    sides = {OURS: partial(fresh_process, "bert_jax.bench.sides.finetuning", environment=ON_THE_CPU, **work)}
    if (python := find_peer(bench.inputs.peer_python)) is not None:
        work |= {"python": python, "environment": {}, "prediction_batch_size": sizes.peer_prediction_rows}
        for title, sampling in SAMPLINGS.items():
            sides[title] = partial(fresh_process, "pytorch", sampling=sampling, **work)
    samples = alternate(sides, sizes.rounds)
    return compared_runs(size, samples) | {
        "examples": sizes.finetune_examples,
        "versions": {side: found[0]["versions"] for side, found in samples.items()},
    }


def compared_runs(size: str, samples: dict[str, list[JsonObject]]) -> Record:
    """Return the record of one size from what each side told in each round; the first side is ours."""
    (first, ours), *peers = samples.items()
    compilation = summary([sample["training"]["compilation_seconds"] for sample in ours])
    record: Record = {"name": size, "kind": "finetune", "compilation_seconds": compilation, "sides": {}}
    for side, found in samples.items():
        record["sides"][side] = {
            what: {figure: summary([sample[what][figure] for sample in found]) for figure in FIGURES}
            for what in ("training", "prediction")
        }
        record["sides"][side]["samples"] = found
    rate = {side: one["training"]["examples_per_second"]["median"] for side, one in record["sides"].items()}
    for side, found in peers:
        one = record["sides"][side]
        for what in ("training", "prediction"):
            rates = ([sample[what]["examples_per_second"] for sample in both] for both in (ours, found))
            one[what]["ratio"] = paired_ratio(*rates)
        saved = 1 / rate[side] - 1 / rate[first]  # seconds of an example
        one["examples_to_pay_back"] = compilation["median"] / saved if saved > 0 else "never"
    return record


# ---- what both sides are given -------------------------------------------------------------------------------


def write_data(source: Path, examples: int, folder: Path) -> None:
    """Write the head and the first examples of train.tsv; without a dev.tsv nothing is scored."""
    lines = (source / "train.tsv").read_text(encoding="utf-8").rstrip("\n").split("\n")
    if len(lines) <= examples:
        raise UserError(
            f"{source / 'train.tsv'} has {len(lines) - 1} examples: set bench.finetune_examples to no more than that"
        )
    folder.mkdir(exist_ok=True)
    (folder / "train.tsv").write_text("\n".join(lines[: examples + 1]) + "\n", encoding="utf-8")


def write_model(size: str, vocab: Path, max_length: int, folder: Path) -> None:
    """Write a directory as Hugging Face's library does, with drawn weights and a classifier of two classes."""
    tokenizer, (layers, hidden) = load_tokenizer(vocab), parse_size(size)
    model = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=max(hidden // HEAD_SIZE, 1),
        intermediate_size=4 * hidden,
        max_position_embeddings=max_length,
        hidden_act="gelu_erf",
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
    )
    description = ModelDescription(model, mlm=False, nsp=False, task=TaskHead("classification", 2))
    folder.mkdir()
    write_json(folder / HUGGING_FACE_CONFIG, hugging_face_config(description, tokenizer.pad_id))
    (folder / "vocab.txt").write_bytes(vocab.read_bytes())
    tensors = [_drawn(row, description, seed) for seed, row in enumerate(names.rows_of(description))]
    write_safetensors(folder / "model.safetensors", tensors)


def _drawn(row: NameRow, description: ModelDescription, seed: int) -> Writable:
    """Return a tensor as BERT begins: kernels and embeddings normal, norms 1, biases 0."""
    shape = names.shape_of(row, description)
    shape = shape[::-1] if row.is_transposed(HUGGING_FACE) else shape

    def make() -> np.ndarray:
        if row.ours.endswith(("/scale", "/bias")):
            return np.full(shape, float(row.ours.endswith("/scale")), np.float32)
        deviation = description.model.initializer_range
        return np.random.default_rng(seed).normal(0, deviation, shape).astype(np.float32)

    return Writable(row.huggingface, TensorEntry(shape, "float32"), make)
