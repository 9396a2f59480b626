# SPDX-License-Identifier: Apache-2.0
"""`bert-jax convert`: a checkpoint of TensorFlow 1, Hugging Face or ours -> any of the others, with a certificate."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bert_jax.pipelines import _checkpoint_options  # type: ignore[import-not-found,unused-ignore]

from bert_jax.base.errors import UserError
from bert_jax.conversion.names import FORMATS

DESCRIPTION = """\
Convert a checkpoint. What SRC is, is found out: a run directory of ours, a directory of Hugging Face's (model.safetensors or
pytorch_model.bin with config.json), or a TensorFlow 1 checkpoint of google-research/bert (its prefix or directory, with
bert_config.json). Every tensor is used, skipped with a reason, or refused by name. Afterwards all tensors are compared bit
for bit and both sides are run on the same inputs; DST appears only if they agree, with the proof in conversion.json."""


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = parser().parse_args(argv)
    if arguments.to is None and not arguments.compare:
        raise UserError(
            f"--to is missing: choose one of {', '.join(FORMATS)}, or --compare two checkpoints that are there"
        )
    if arguments.compare and (arguments.to is not None or arguments.dtype != "float32"):
        raise UserError("--compare writes nothing: leave out --to and --dtype, or leave out --compare to convert")
    from bert_jax.conversion.convert import compare, convert
    from bert_jax.conversion.finished import CERTIFICATE, was_made

    asked = _checkpoint_options.asked(arguments, task=arguments.task)
    peer = arguments.peer_python
    if peer is not None and not peer.exists():
        raise UserError(f"--peer-python {peer} is missing: give a Python that has torch and transformers")
    if arguments.compare:
        certificate = compare(arguments.source, arguments.destination, asked, peer)
    else:
        place = arguments.source, arguments.destination
        if was_made(*place, arguments.to, asked, arguments.dtype):
            print(f"{arguments.destination} holds this conversion already; its certificate is in {CERTIFICATE}")
            return 0
        certificate = convert(*place, arguments.to, asked, arguments.dtype, peer)
    print(f"{arguments.source}: {certificate.source.format}, {certificate.source.description.summary()}")
    print("\n".join(certificate.lines()))
    if not arguments.compare:
        print(f"written: {arguments.destination}" if certificate.holds else f"left in {certificate.left_in}")
    return 0 if certificate.holds else 1


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog="bert-jax convert",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit status: 0 the certificate holds, 1 it does not, 2 the input cannot be converted",
    )
    option = result.add_argument
    option("source", type=Path, metavar="SRC", help="a checkpoint of any format")
    option("destination", type=Path, metavar="DST", help="a new directory")
    option("--to", choices=FORMATS, help="the format of DST")
    option(
        "--compare",
        action="store_true",
        help="DST is a checkpoint: write nothing, say what differs and what it looks like",
    )
    option("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of a DST for Hugging Face")
    option(
        "--peer-python", type=Path, metavar="FILE", help="a Python that has torch and transformers: it runs their side"
    )
    _checkpoint_options.add_checkpoint_options(result, "SRC")
    return result
