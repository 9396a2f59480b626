# SPDX-License-Identifier: Apache-2.0
"""A model of two layers that learns in seconds, and tasks that one word decides: files as their official ones, made up."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from conversion_samples import hugging_face_shapes, write_hugging_face

from bert_jax.config.description import ModelDescription
from bert_jax.config.model import ModelConfig
from bert_jax.runs.cost import without_clock
from bert_jax.tokenization import WordPieceTokenizer

WORDS = [
    "the",
    "a",
    "film",
    "plot",
    "actor",
    "scene",
    "was",
    "is",
    "and",
    "in",
    "who",
    "where",
    "good",
    "bad",
    "ann",
    "rome",
]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *WORDS, *"0123456789", "##ly", "##s"]
MODEL = ModelConfig(
    vocab_size=len(VOCABULARY),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
)
# One device, few steps: every test that trains compiles as little as can be.
SETTINGS = (
    "mesh.data=1",
    "max_length=16",
    "optimizer.learning_rate=1e-2",
    "batch_size=8",
    "log_every=4",
)


def tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCABULARY, lowercase=True)


def write_model(folder: Path, model: ModelConfig = MODEL, seed: int = 0) -> Path:
    """A checkpoint in Hugging Face's format with drawn weights."""
    heads = not model.causal  # a left-to-right one has neither pooler nor NSP head
    description = ModelDescription(model, pooler=heads, nsp=heads)
    rng = np.random.default_rng(seed)

    def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
        drawn = 0.1 * rng.standard_normal(shape)
        return (drawn + ("LayerNorm.weight" in name)).astype(np.float32)

    weights = {name: weight(name, shape) for name, shape in hugging_face_shapes(description).items()}
    return write_hugging_face(folder, description, weights, VOCABULARY)


# ---- texts ---------------------------------------------------------------------------------------------------------


def sentences(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Texts of 4 to 13 tokens, and whether the word "good" stands among them; "bad" stands in the others."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        words = list(rng.choice(WORDS[:10], rng.integers(2, 12)))
        label = number % 2
        words.insert(rng.integers(len(words) + 1), ("bad", "good")[label])
        made.append((" ".join(words) + " .", label))
    return made


def write_sst2(folder: Path, train: int = 40, dev: int = 24) -> Path:
    """SST-2's files; the numbers are of examples."""
    folder.mkdir()
    for name, count, seed in (("train", train, 0), ("dev", dev, 1)):
        lines = [f"{text}\t{label}" for text, label in sentences(count, seed)]
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n", encoding="utf-8")
    test = [f"{number}\t{text}" for number, (text, _) in enumerate(sentences(dev, 2))]
    (folder / "test.tsv").write_text("\n".join(["index\tsentence", *test]) + "\n", encoding="utf-8")
    return folder


def write_stsb(folder: Path) -> Path:
    """STS-B's files: 5 where both texts have "good", 0 where the second has "bad"."""
    folder.mkdir()
    header = "index\tgenre\tsentence1\tsentence2\tscore"
    for name, count, seed in (("train", 40, 0), ("dev", 24, 1)):
        lines = [
            f"{number}\tmade up\tgood .\t{' '.join(text.split()[-7:])} {('bad', 'good')[label]}\t{5.0 * label}"
            for number, (text, label) in enumerate(sentences(count, seed))
        ]
        (folder / f"{name}.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder


def write_swag(folder: Path) -> Path:
    """SWAG's files: of four endings the one with "good" is right."""
    folder.mkdir()
    header = ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label"
    for name, count, seed in (("train", 32, 0), ("val", 20, 1)):
        rng, lines = np.random.default_rng(seed), []
        for number in range(count):
            right = int(rng.integers(4))
            ends = [f"{('bad', 'good')[end == right]} {' '.join(rng.choice(WORDS[:10], 3))}" for end in range(4)]
            lines.append(f"{number},v,{number},the actor,the film .,the actor,gold,{','.join(ends)},{right}")
        (folder / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder


def write_conll(folder: Path) -> Path:
    """CoNLL-2003's files (IOB1): "ann" is a person, "rome" a place."""
    folder.mkdir()
    tags = {"ann": "I-PER", "rome": "I-LOC"}
    for name, count, seed in (("eng.train", 40, 0), ("eng.testa", 24, 1)):
        rng, lines = np.random.default_rng(seed), ["-DOCSTART- -X- O O", ""]
        for _ in range(count):
            words = [*rng.choice(WORDS[:8], 3), "ann", *rng.choice(WORDS[:8], 2), "rome", "."]
            words[:-1] = rng.permutation(words[:-1])
            lines += [f"{word} NN O {tags.get(word, 'O')}" for word in words] + [""]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def questions(count: int, seed: int, version: str) -> dict[str, Any]:
    """A file as SQuAD's: "who" asks for ann, "where" for rome; of version 2.0 every third context does not tell."""
    rng, paragraphs = np.random.default_rng(seed), []
    for number in range(count):
        word, asked = (("ann", "who"), ("rome", "where"))[number % 2]
        silent = version == "2.0" and number % 3 == 0
        middle = [*rng.choice(WORDS[:6], 5)] + ([] if silent else ["ann", "rome"])
        rng.shuffle(middle)
        context = " ".join(middle) + "."
        entry: dict[str, Any] = {"id": f"q{number}", "question": f"{asked}?", "answers": []}
        if not silent:
            entry["answers"] = [{"text": word, "answer_start": context.index(word)}]
        if version == "2.0":
            entry["is_impossible"] = silent
        paragraphs.append({"context": context, "qas": [entry]})
    return {"version": version, "data": [{"title": "made up", "paragraphs": paragraphs}]}


def write_squad(folder: Path, version: str) -> Path:
    """SQuAD's files."""
    folder.mkdir()
    for name, count, seed in (("train", 40, 0), ("dev", 24, 1)):
        content = json.dumps(questions(count, seed, version))
        (folder / f"{name}-v{version}.json").write_text(content, encoding="utf-8")
    return folder


# ---- commands ------------------------------------------------------------------------------------------------------


def command(task: str, data: Path, model: Path, output: Path, *more: object) -> list[str]:
    """`bert-jax finetune` with `SETTINGS`."""
    named = ["finetune", task, "--data", data, "--model", model, "--output", output]
    return [str(part) for part in (*named, *SETTINGS, *more)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_times(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl, as far as they do not depend on the machine's speed."""
    return [dict(line) for line in without_clock(lines)]
