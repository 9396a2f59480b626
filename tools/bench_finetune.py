# SPDX-License-Identifier: Apache-2.0
"""Measure fine-tuning on SST-2 beside Hugging Face's Trainer on this CPU: a Markdown table, and JSON with every sample.

    python -m bert_jax.tools.bench_finetune --data SST-2 --vocab vocab.txt --output bench.json \\
        [--peer-python PYTHON_WITH_torch_transformers_AND_accelerate]

Models of each of `--sizes` get weights once, drawn from a normal distribution, and both sides begin with them. Each side
works in a process of its own, the sides in turn, `--repetitions` times; figures are medians. Texts, batch size, the
recipe and the number type (float32) are the same, and both use all cores; rows of the peer are padded to the longest of
their batch, and once more with its own grouping by length.

Ours compiles a program for each shape of rows, which the peer does not need. Those seconds are left out of the speed and
told beside it, with the number of examples after which they are paid back. Imports and reading are left out on both sides.
The machine should be idle: a busy neighbour slows both sides, and not alike.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bert_jax.tools import bench_finetune_sides as sides  # type: ignore[import-not-found,unused-ignore]
from bert_jax.tools.bench_data import (  # type: ignore[import-not-found,unused-ignore]
    absolute,
    machine,
    Measurements,
    median,
    Side,
    three_digits,
)

from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.model import ModelConfig
from bert_jax.conversion import names
from bert_jax.conversion.config_files import HUGGING_FACE_CONFIG, hugging_face_config
from bert_jax.conversion.names import HUGGING_FACE, NameRow
from bert_jax.conversion.safetensors_files import write_safetensors
from bert_jax.conversion.tensors import TensorEntry, Writable
from bert_jax.errors import UserError
from bert_jax.files import write_json
from bert_jax.tokenization import load_tokenizer

HEAD_SIZE = 64
EPOCHS = 2  # the first warms up
SAMPLINGS = {"Trainer": "random", "Trainer, group_by_length": "group_by_length"}
OURS = "bert-jax finetune"
# JAX would use an accelerator that is there, and take compiled programs from an earlier repetition.
ON_THE_CPU = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}


@dataclass(frozen=True)
class Speed:
    """Of one side: medians. The ratios are ours to the peer's, more than 1 where we are faster."""

    model: str
    side: str
    training: float  # examples per second
    training_valid: float  # share of tokens that are not padding
    prediction: float
    prediction_valid: float
    compilation: float | None = None  # seconds
    training_ratio: float | None = None
    prediction_ratio: float | None = None
    paid_back: float | None = None  # examples of training after which the compilation is; None: never


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    options = parser().parse_args(argv)
    try:
        check(options)
        measurements = Measurements(options.repetitions)
        with tempfile.TemporaryDirectory(prefix="bench-finetune-") as folder:
            speeds = list(measure(options, measurements, Path(folder)))
    except UserError as error:
        print(f"bench_finetune: {error}", file=sys.stderr)
        return 2
    report = {
        "conditions": conditions(options) | {"versions": measurements.versions},
        "table": [asdict(speed) for speed in speeds],
        "samples": measurements.samples,
    }
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(table(speeds))
    if options.peer_python is None:
        print("\nLeft out: Hugging Face's Trainer (give --peer-python)")
    return 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=absolute, required=True, metavar="DIR", help="with the train.tsv of SST-2")
    add("--vocab", type=absolute, required=True, metavar="FILE", help="vocab.txt of an uncased WordPiece vocabulary")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON to write")
    add("--peer-python", type=absolute, metavar="FILE", help="a Python that has torch, transformers and accelerate")
    add("--sizes", nargs="+", default=["4x128", "4x256"], metavar="LAYERSxHIDDEN", help="(default: 4x128 4x256)")
    add("--examples", type=int, default=8_000, help="the first ones of train.tsv (default: %(default)s)")
    add("--batch-size", type=int, default=32, help="(default: %(default)s)")
    add("--max-length", type=int, default=128, help="tokens of a row at most (default: %(default)s)")
    add("--peer-prediction-batch-size", type=int, default=32, metavar="ROWS", help="(default: %(default)s)")
    add("--repetitions", type=int, default=5, help="(default: %(default)s)")
    add("--ours", default={}, type=json.loads, metavar="JSON", help="other settings of our side, to try them")
    return parser


def check(options: argparse.Namespace) -> None:
    """Refuse before the first measurement what would fail in the middle of them."""
    for path in (options.data / "train.tsv", options.vocab, options.peer_python):
        if path is not None and not path.exists():
            raise UserError(f"{path} is missing: check the options")
    for name in ("repetitions", "examples", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)} is not possible: use 1 or more")
    for size in options.sizes:
        shape(size)


def shape(size: str) -> dict[str, Any]:
    """4x128 -> the sizes of a model; heads have 64 features, or it has one head."""
    layers, _, hidden = size.partition("x")
    if not (layers.isdecimal() and hidden.isdecimal()):
        raise UserError(f"--sizes {size} is not LAYERSxHIDDEN: write 4x128")
    width = int(hidden)
    heads = max(width // HEAD_SIZE, 1)
    return {
        "num_hidden_layers": int(layers),
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


# ---- what both sides are given -------------------------------------------------------------------------------


def write_data(source: Path, examples: int, folder: Path) -> None:
    """The first lines of train.tsv; without a dev.tsv nothing is scored."""
    lines = (source / "train.tsv").read_text(encoding="utf-8").rstrip("\n").split("\n")
    if len(lines) <= examples:
        raise UserError(f"{source / 'train.tsv'} has {len(lines) - 1} examples: ask for no more with --examples")
    folder.mkdir()
    (folder / "train.tsv").write_text("\n".join(lines[: examples + 1]) + "\n", encoding="utf-8")


def write_model(size: str, vocab: Path, max_length: int, folder: Path) -> None:
    """A directory as Hugging Face's library writes one, with drawn weights and a classifier of two classes."""
    tokenizer = load_tokenizer(vocab)
    model = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=max_length,
        hidden_act="gelu_erf",
        hidden_dropout_prob=sides.DROPOUT,
        attention_probs_dropout_prob=sides.DROPOUT,
        **shape(size),
    )
    description = ModelDescription(model, mlm=False, nsp=False, task=TaskHead("classification", 2))
    folder.mkdir()
    write_json(folder / HUGGING_FACE_CONFIG, hugging_face_config(description, tokenizer.pad_id))
    (folder / "vocab.txt").write_bytes(vocab.read_bytes())
    tensors = [_drawn(row, description, seed) for seed, row in enumerate(names.rows_of(description))]
    write_safetensors(folder / "model.safetensors", tensors)


def _drawn(row: NameRow, description: ModelDescription, seed: int) -> Writable:
    """A tensor as BERT begins: kernels and embeddings normal, norms 1, biases 0."""
    size = names.shape_of(row, description)
    size = size[::-1] if row.is_transposed(HUGGING_FACE) else size

    def make() -> np.ndarray:
        if row.ours.endswith(("/scale", "/bias")):
            return np.full(size, float(row.ours.endswith("/scale")), np.float32)
        deviation = description.model.initializer_range
        return np.random.default_rng(seed).normal(0, deviation, size).astype(np.float32)

    return Writable(row.huggingface, TensorEntry(size, "float32"), make)


# ---- the comparison ------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, measurements: Measurements, folder: Path) -> Iterator[Speed]:
    """All sides, for each size."""
    write_data(options.data, options.examples, folder / "data")
    for size in options.sizes:
        write_model(size, options.vocab, options.max_length, folder / size)
        settings: dict[str, Any] = {"data": str(folder / "data"), "model": str(folder / size), "epochs": EPOCHS}
        settings |= {"batch_size": options.batch_size, "max_length": options.max_length}
        parties = [Side(sides.ours, settings | {"options": options.ours}, name=OURS, environment=ON_THE_CPU)]
        if options.peer_python is not None:
            settings |= {"prediction_batch_size": options.peer_prediction_batch_size}
            parties += [
                Side(sides.hugging_face_trainer, settings | {"sampling": sampling}, str(options.peer_python), name, {})
                for name, sampling in SAMPLINGS.items()
            ]
        found = measurements.alternate(size, parties)
        yield from compared(size, found, [side.title for side in parties])


def compared(size: str, found: Mapping[str, Sequence[Any]], titles: Sequence[str]) -> Iterator[Speed]:
    """A line for each side; the first is ours."""
    layers, hidden = size.split("x")
    ours: Speed | None = None
    for title in titles:
        training, prediction = found[f"{title}: training"], found[f"{title}: prediction"]
        speed = Speed(
            f"{layers} layers of {hidden}",
            title,
            median(training, "examples_per_second"),
            median(training, "valid_share"),
            median(prediction, "examples_per_second"),
            median(prediction, "valid_share"),
        )
        if ours is None:
            ours = Speed(**asdict(speed) | {"compilation": median(training, "compilation_seconds")})
            yield ours
        else:
            yield beside(speed, ours)


def beside(peer: Speed, ours: Speed) -> Speed:
    """The peer's line with what ours is to it."""
    assert ours.compilation is not None
    saved = 1 / peer.training - 1 / ours.training  # seconds of an example
    return Speed(
        **asdict(peer)
        | {
            "training_ratio": ours.training / peer.training,
            "prediction_ratio": ours.prediction / peer.prediction,
            "paid_back": ours.compilation / saved if saved > 0 else None,
        }
    )


# ---- report --------------------------------------------------------------------------------------------------


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    names = ("examples", "batch_size", "max_length", "peer_prediction_batch_size", "repetitions", "sizes", "ours")
    return machine() | {"load_average": os.getloadavg()} | {name: getattr(options, name) for name in names}


COLUMNS = (
    ("model", "---"),
    ("side", "---"),
    ("training, examples/s", "--:"),
    ("ours is", "--:"),
    ("not padding", "--:"),
    ("prediction, examples/s", "--:"),
    ("ours is", "--:"),
    ("not padding", "--:"),
    ("compilation, s", "--:"),
    ("paid back after, examples", "--:"),
)


def table(speeds: Sequence[Speed]) -> str:
    """In Markdown."""
    lines = ["| " + " | ".join(name for name, _ in COLUMNS) + " |", "|" + "|".join(rule for _, rule in COLUMNS) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(_cells(speed)) + " |" for speed in speeds)])


def _cells(speed: Speed) -> list[str]:
    def times(ratio: float | None) -> str:
        return "" if ratio is None else f"{three_digits(ratio)}x"

    paid_back = "never" if speed.paid_back is None else f"{speed.paid_back:,.0f}"
    return [
        speed.model,
        speed.side,
        three_digits(speed.training),
        times(speed.training_ratio),
        f"{speed.training_valid:.0%}",
        three_digits(speed.prediction),
        times(speed.prediction_ratio),
        f"{speed.prediction_valid:.0%}",
        "" if speed.compilation is None else three_digits(speed.compilation),
        "" if speed.training_ratio is None else paid_back,
    ]


if __name__ == "__main__":
    sys.exit(main())
