# SPDX-License-Identifier: Apache-2.0
"""`bert-jax convert`: a checkpoint of TensorFlow 1, Hugging Face or ours -> any of the others, with a certificate."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from bert_jax.pipelines import _checkpoint_options, _options

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path, local_path
from bert_jax.conversion.names import FORMATS

DESCRIPTION = """\
Convert a checkpoint. What MODEL is, is found out: a run directory of ours, a directory of Hugging Face's (model.safetensors or
pytorch_model.bin with config.json), or a TensorFlow 1 checkpoint of google-research/bert (its prefix or directory, with
bert_config.json). Every tensor is used, skipped with a reason, or refused by name. Afterwards all tensors are compared bit
for bit and both sides are run on the same inputs; DST appears only if they agree, with the proof in conversion.json."""


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = parser().parse_args(argv)
    _check(arguments)
    from bert_jax.conversion.convert import compare, convert
    from bert_jax.conversion.finished import CERTIFICATE, was_made
    from bert_jax.conversion.sentence_files import Served

    asked = replace(_checkpoint_options.asked(arguments, kind=arguments.kind), generator=arguments.generator)
    peer = arguments.peer_python
    if arguments.compare:
        place = arguments.compare[0], arguments.compare[1]
        certificate = compare(*place, asked, peer)
    else:
        place = arguments.source, arguments.destination
        served = Served(arguments.pooling, arguments.normalize)
        if was_made(*place, arguments.to, asked, arguments.dtype, served):
            print(f"{arguments.destination} holds this conversion already; its certificate is in {CERTIFICATE}")
            return 0
        certificate = convert(*place, arguments.to, asked, arguments.dtype, peer, served)
    print(f"{place[0]}: {certificate.source.format}, {certificate.source.description.summary()}")
    print("\n".join(certificate.lines()))
    if not arguments.compare:
        print(f"written: {arguments.destination}" if certificate.holds else f"left in {certificate.left_in}")
    return 0 if certificate.holds else 1


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be told apart, or would do nothing."""
    form = (arguments.source, arguments.to, arguments.pooling, arguments.normalize, arguments.generator or None)
    if arguments.compare and (form != (None,) * 5 or arguments.dtype != "float32"):
        raise UserError(
            "--compare A B writes nothing: leave out MODEL, DST, --to, --dtype, --pooling, --normalize and --generator, or"
            " leave out --compare to convert"
        )
    if not arguments.compare and (arguments.to is None or arguments.destination is None):
        lacking = "--to" if arguments.to is None else "DST"
        formats = ", ".join(FORMATS)
        raise UserError(f"{lacking} is missing: write MODEL DST --to FORMAT ({formats}), or --compare A B")
    peer = arguments.peer_python
    if peer is not None and not peer.exists():
        raise UserError(f"--peer-python {peer} is missing: give a Python that has torch and transformers")


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = _options.StageParser(
        prog="bert-jax convert",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit status: 0 the certificate holds, 1 it does not, 2 the input cannot be converted",
    )
    option = result.add_argument
    option("source", type=any_path, nargs="?", metavar="MODEL", help=_checkpoint_options.ANY_FORMAT)
    option("destination", type=any_path, nargs="?", metavar="DST", help="a new directory")
    option("--to", choices=FORMATS, metavar="FORMAT", help=f"the format of DST: {', '.join(FORMATS)}")
    between = "two checkpoints: write nothing, say what differs and what it looks like"
    option("--compare", type=any_path, nargs=2, metavar=("A", "B"), help=between)
    stored = "number format of a DST for Hugging Face: float32 (default), float16 or bfloat16"
    option("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", metavar="DTYPE", help=stored)
    pooling = (
        "of tokens, by servers of a DST for Hugging Face: mean, cls, max (default: as MODEL's modules.json, else mean)"
    )
    option("--pooling", choices=("mean", "cls", "max"), metavar="POOLING", help=pooling)
    normalize = "divide their vectors by the length (default: as MODEL's modules.json says, else not)"
    option("--normalize", action=argparse.BooleanOptionalAction, default=None, help=normalize)
    option(
        "--generator",
        action="store_true",
        help="of a run of objective=rtd: the generator (ElectraForMaskedLM), not the discriminator (ElectraForPreTraining)",
    )
    option(
        "--peer-python",
        type=local_path,
        metavar="FILE",
        help="a Python that has torch and transformers: it runs their side",
    )
    _checkpoint_options.add_checkpoint_options(result)
    return result
