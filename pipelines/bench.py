# SPDX-License-Identifier: Apache-2.0
"""`bert-jax bench`: how fast this machine trains and prepares data, against what it could do and against peers."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from bert_jax.pipelines import _options

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_text, local_path, local_text
from bert_jax.base.types import JsonObject
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import load_config, settings_help

FAILED = 1  # exit status: something could not be measured
OPTION_FILES = {
    "peer_python": "",
    "vocab": "",
    "google": "create_pretraining_data.py",
    "data": "train.tsv",
    "model": "config.json",
}


def make_parser(subjects: dict[str, str], default: Sequence[str]) -> _options.StageParser:
    """Return the command line."""
    from bert_jax.bench.suite import BenchSizes

    listed = "\n".join(f"  {name:<11} {text}" for name, text in subjects.items())
    parser = _options.StageParser(
        prog="bert-jax bench",
        description="Measure this machine, sides that are compared in turn. Prints tables; --output keeps every sample.",
        epilog=f"subjects:\n{listed}\n\nsizes, set by bench.NAME=VALUE, and finetune.NAME=VALUE as of bert-jax finetune:\n"
        f"{settings_help(BenchSizes())}\n\nexit status: 0 all measured, {FAILED} something failed (it is named, the rest is"
        " measured)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.config = PretrainConfig()
    add = parser.add_argument
    add("config", type=any_text, nargs="?", metavar="CONFIG", help="measure this configuration's model and phases")
    add("settings", nargs="*", metavar="KEY=VALUE", help="changed settings of what is measured, such as attention=xla")
    add("--only", nargs="+", choices=list(subjects), metavar="SUBJECT", help=f"instead of {' '.join(default)}")
    add("--all", action="store_true", help="every subject, also the long ones, as far as what they need is given")
    add("--output", type=local_path, metavar="PATH", help="folder for bench.json, bench.md and duel.html")
    group = parser.add_argument_group("what some subjects need, and are left out without")
    add = group.add_argument
    add("--peer-python", type=local_path, metavar="FILE", help="a Python that has torch, transformers and accelerate")
    add(
        "--text",
        type=local_text,
        nargs="+",
        default=[],
        metavar="TEXT",
        help="text, as bert-jax prepare takes its --input",
    )
    add("--vocab", type=local_path, metavar="VOCAB", help="vocab.txt of an uncased WordPiece vocabulary")
    add(
        "--google", type=local_path, metavar="DIR", help="a checkout of google-research/bert (it needs TensorFlow here)"
    )
    add("--data", type=local_path, metavar="DATA", help="folder with the train.tsv of SST-2")
    add(
        "--model",
        type=local_path,
        metavar="MODEL",
        help="a run or a directory of Hugging Face's, whose vectors are made",
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    from bert_jax.bench.subjects import DEFAULT, SUBJECTS

    arguments = make_parser(SUBJECTS, DEFAULT).parse_intermixed_args(argv)
    if arguments.all and arguments.only:
        raise UserError("--all and --only: one at a time")
    subjects = list(SUBJECTS) if arguments.all else arguments.only or list(DEFAULT)
    name, settings = split_config(arguments.config, arguments.settings)
    require_use(arguments, subjects)
    if "peer" in subjects:  # both sides share the memory of a GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

    import jax

    from bert_jax.bench.report import DUEL_FILE, failures
    from bert_jax.bench.runner import make_suite, run_bench
    from bert_jax.bench.workbench import BenchInputs

    config = None if name is None else (name, load_config(name))
    suite = make_suite(jax.local_devices()[0].platform, jax.local_device_count(), config, settings)
    paths = {option: path and path.absolute() for option in OPTION_FILES for path in [getattr(arguments, option)]}
    inputs = BenchInputs(text=arguments.text, **paths)
    report = run_bench(suite, subjects, arguments.output, inputs, f"bert-jax bench {shlex.join(argv)}".strip())
    print_report(report)
    failed = failures(report)
    for what, error in failed:
        print(f"bert-jax bench: {what} could not be measured: {error}", file=sys.stderr)
    if arguments.output is not None:
        files = (arguments.output / name for name in ("bench.json", "bench.md", DUEL_FILE))
        print(f"\nbenched: {', '.join(str(file) for file in files if file.is_file())}")
    return FAILED if failed else 0


def require_use(arguments: argparse.Namespace, subjects: Sequence[str]) -> None:
    """Refuse before the first measurement an option that no subject uses, and a file that is not there.

    Raises:
      UserError: names the option.
    """
    from bert_jax.bench.subjects import NEEDED_BY

    for option, users in NEEDED_BY.items():
        flag = f"--{option.replace('_', '-')}"
        if getattr(arguments, option) and not set(users) & set(subjects):
            raise UserError(f"{flag} is for {', '.join(users)}, not measured here: add one to --only, or leave it out")
    if arguments.text and arguments.vocab is None:
        raise UserError("--text is prepared and tokenised with a vocabulary: add --vocab")
    for option, file in OPTION_FILES.items():
        path = getattr(arguments, option)
        if path is not None and not (path / file if file else path).is_file():
            raise UserError(f"--{option.replace('_', '-')} {path}: no such file: name one that has {file or 'it'}")


def print_report(report: JsonObject) -> None:
    """Print the tables of every subject, and which peers are absent."""
    from bert_jax.bench.report import absent
    from bert_jax.bench.tables import tables_of

    for entry in report["subjects"].values():
        for part in [*tables_of(entry), *absent(entry)]:
            print(f"\n{part}")


def split_config(config: str | None, settings: Sequence[str]) -> tuple[str | None, list[str]]:
    """The first argument may be a setting: without a configuration, the platform's own sizes are changed."""
    if config is not None and "=" in config:
        return None, [config, *settings]
    return config, list(settings)
