# SPDX-License-Identifier: Apache-2.0
"""`bert-jax embed`: a vector for every line of a file, from a checkpoint of any format."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bert_jax.pipelines import _checkpoint_options  # type: ignore[import-not-found,unused-ignore]

from bert_jax.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = parser().parse_args(argv)
    if not arguments.input.is_file():
        raise UserError(f"--input {arguments.input} is missing: give a file with one text a line")
    from bert_jax.embedding import embed_lines, EmbedSettings
    from bert_jax.files import file_sha256
    from bert_jax.pretrained import load
    from bert_jax.train_state import COMPUTE_DTYPES

    settings = EmbedSettings(
        pooling=arguments.pooling,
        layers=tuple(arguments.layers),
        combine=arguments.combine,
        too_long=arguments.too_long,
        dtype=arguments.dtype,
        shard_size=arguments.shard_size,
    )
    asked = _checkpoint_options.asked(arguments)
    model = load(arguments.model, dtype=COMPUTE_DTYPES[arguments.compute_dtype], asked=asked)
    lines = _lines(arguments.input)
    size = arguments.input.stat().st_size
    digest = file_sha256(arguments.input)
    record = embed_lines(lines, size, model, settings, arguments.output, str(arguments.input), digest)
    if record.get("made_before"):
        print(f"{arguments.output} holds these vectors already: {record['texts']:,} of {record['width']}")
        return 0
    cut = f", {record['truncated']:,} of them cut to {model.description.model.max_position_embeddings} tokens"
    print(f"{arguments.output}: {record['texts']:,} vectors of {record['width']}{cut if record['truncated'] else ''}")
    print(json.dumps(record["settings"]))
    return 0


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, without their ends."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: is not UTF-8 at its byte {error.start}: convert the file"
                ) from None


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(prog="bert-jax embed", description="Write a vector for every line of a file.")
    option = result.add_argument
    option(
        "model", type=Path, metavar="MODEL", help="a run, a directory of Hugging Face's, or a TensorFlow 1 checkpoint"
    )
    option("--input", type=Path, required=True, metavar="FILE", help="one text a line; vector n is that of line n")
    option("--output", type=Path, required=True, metavar="PATH", help="FILE.npz, or a new directory for shards (.npy)")
    option(
        "--pooling",
        choices=("mean", "cls", "pooled"),
        default="mean",
        help="of tokens, or the pooler's output (default: mean)",
    )
    option(
        "--layers",
        type=int,
        nargs="+",
        default=[-1],
        metavar="N",
        help="0: embeddings, 1 ... L, -1: the last (default)",
    )
    option("--combine", choices=("concat", "sum", "mean"), default="concat", help="of several layers (default: concat)")
    option(
        "--too-long",
        choices=("error", "truncate"),
        default="error",
        help="a text beyond the model's positions (default: error)",
    )
    option("--dtype", choices=("float32", "float16"), default="float32", help="of the vectors in the files")
    option("--compute-dtype", choices=("float32", "bfloat16"), default="float32", help="the network is computed in")
    option("--shard-size", type=int, default=100_000, metavar="N", help="vectors in a shard (default: %(default)s)")
    _checkpoint_options.add_checkpoint_options(result, "MODEL")
    return result
