# SPDX-License-Identifier: Apache-2.0
"""bert-jax senses: a model + lines with one marked word each -> how alike its vectors are within and between senses."""

from collections.abc import Sequence

from bert_jax.pipelines import _checkpoint_options, _options

from bert_jax.base.bucket_cache import readable
from bert_jax.base.bucket_output import staged
from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path

EXAMPLES = ("english", "chinese")


def make_parser() -> _options.StageParser:
    """The command line."""
    parser = _options.StageParser(
        prog="bert-jax senses",
        description="Compare the vectors of one word in many lines, layer by layer: within a sense, between senses, and with"
        " other words. A line marks its word and may name the sense behind a tab: The *bank* of the river<TAB>river",
    )
    option = parser.add_argument
    option("model", type=any_path, metavar="MODEL", help=_checkpoint_options.ANY_FORMAT)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", type=readable, metavar="TEXT", help="a line for each use of a word, which is marked with *"
    )
    source.add_argument("--example", choices=EXAMPLES, help="lines that come with bert-jax")
    option("--output", type=any_path, required=True, metavar="PATH", help="new folder for senses.json and report.html")
    _checkpoint_options.add_checkpoint_options(parser, kind=False)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_args(argv)
    if arguments.input is not None and not arguments.input.is_file():
        raise UserError(f"--input {arguments.input} is missing: give a file with a marked word in each line")
    from bert_jax.use.model import load
    from bert_jax.use.senses import described, example_file, read_marked, RECORD, senses

    lines = read_marked(arguments.input or example_file(arguments.example))
    model = load(arguments.model, asked=_checkpoint_options.asked(arguments, head=False))
    with staged(arguments.output, "senses", RECORD, goes_on=False) as folder:
        print(described(senses(model, lines, folder)))
    print(f"written: {arguments.output / 'report.html'}")
    return 0
