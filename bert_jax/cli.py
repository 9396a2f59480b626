# SPDX-License-Identifier: Apache-2.0
"""The command `bert-jax`: finds the stage, runs it, and turns errors into one line and an exit status.

Nothing heavy is imported here, so that `bert-jax --help` answers at once; a stage imports what it needs when it runs.
"""

import contextlib
import difflib
import errno
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from bert_jax.base import stopping
from bert_jax.base.errors import EXIT_TRY_AGAIN, EXIT_USER_ERROR, FAILED_STORAGE, Interrupted, TryAgain, UserError
from bert_jax.base.host import __version__, keep_freed_memory
from bert_jax.base.terminal import make_output_printable, printable_output

STAGE_GROUPS = {
    "Text and data": {
        "corpus": "text that is already on the machine (documentation of installed Python packages) -> text files",
        "vocab": "text -> vocabulary (WordPiece or SentencePiece)",
        "tokenize": "vocabulary or model + a text or pair -> pieces, ids, segments, positions, and its masks",
        "prepare": "text -> sharded training data with a passport",
    },
    "Pre-training": {
        "pretrain": "config + data -> run directory",
        "evaluate": "checkpoint + held-out data or any text -> loss, accuracy, perplexity, NSP accuracy, beside n-grams",
        "fill-mask": "checkpoint + text with [MASK] -> predictions",
        "generate": "left-to-right checkpoint + beginnings of texts -> the texts that it goes on with",
        "sweep": "config + settings with several values -> the best by held-out loss, by successive halving; a page",
        "study": "prepared data + tasks -> a table of the BERT paper: its runs, and the signs of its differences; a page",
    },
    "Tasks": {
        "data": "files of a task -> which official ones are there, and the known traps (bert-jax data check)",
        "finetune": "model + task + data -> fine-tuned run with scores and predictions",
        "predict": "fine-tuned checkpoint + data or lines -> predictions, submission files",
        "score": "predictions + true answers -> the official scores of SQuAD, CoNLL and GLUE",
        "compare": "two fine-tuned runs, or two folders of seeds -> is one better, and would more seeds decide it",
    },
    "Models": {
        "embed": "checkpoint + text -> vectors",
        "probe": "models + task -> what a linear function reads from each layer, with intervals and a control; a page",
        "senses": "model + lines with one marked word -> how alike its vectors are within and between senses; a page",
        "convert": "checkpoint of TensorFlow 1, Hugging Face or ours -> any of the others, with a certificate",
        "export": "checkpoint -> ONNX or StableHLO for programs that serve it, with a certificate",
    },
    "Runs": {
        "report": "run -> report.html",
        "doctor": "data or run -> what is likely wrong, and what to do; can one batch be learned by heart?",
        "replay": "run -> a step of it again in float32, operation by operation: what is not finite, and where",
        "reproduce": "run -> the same run again, bit for bit? killed on the way too",
    },
    "Machines": {
        "describe": "config -> parameters, FLOPs, memory; checkpoint -> what it holds",
        "plan": "config + accelerator topology -> does it fit, what does it cost",
        "bench": "machine -> speed of steps, attention, feed, data and fine-tuning, beside peers; bench.json and bench.md",
    },
}
STAGES = {name: text for group in STAGE_GROUPS.values() for name, text in group.items()}

COMPUTING = {
    "pretrain",
    "evaluate",
    "fill-mask",
    "finetune",
    "predict",
    "embed",
    "export",
    "probe",
    "senses",
    "generate",
    "study",
    "sweep",
    "bench",
    "replay",
    "reproduce",
}  # run JAX's programs
EXIT_BUG = 1
EXIT_STATUSES = [
    "exit status: 0 done; 1 done, and what was found is bad (see the stage's --help), or a bug, with its traceback;",
    "  2 something that you can mend, said in one line; 75 the machines failed, not the command: try again;",
    "  128 + signal (130 Ctrl-C, 143 SIGTERM) stopped: what is saved or finished stays",
]
DISK_ERRORS = {errno.ENOSPC: "disk full", errno.EFBIG: "file size limit reached", errno.EDQUOT: "disk quota reached"}


def usage() -> str:
    """The text of `bert-jax --help`."""
    lines = ["usage: bert-jax [--version] STAGE [options]      (bert-jax STAGE --help tells a stage's options)"]
    for group, stages in STAGE_GROUPS.items():
        lines += ["", f"{group}:", *(f"  {name:<10} {text}" for name, text in stages.items())]
    lines += ["", "Every stage takes --debug, which shows the traceback of an error.", "", *EXIT_STATUSES]
    return "\n".join(lines)


def entry() -> None:
    """The command: run one stage and end the process."""
    try:
        status = main()
    except Exception:
        traceback.print_exc()
        status = EXIT_BUG
    if "jax" in sys.modules:
        _end_now(status)
    sys.exit(status)


def _end_now(status: int) -> None:
    """End the process: nothing that its libraries' threads still wait for, or free first, may hold it up.

    What it wrote is whole or absent, and every `with` was left on the way here. Python's own way to the end takes two
    seconds where JAX and TensorFlow are loaded.
    """
    # Not imported here: where it is missing there is nobody to leave, and imports may be what was interrupted.
    if (distributed := sys.modules.get("bert_jax.mesh.distributed")) is not None:
        distributed.leave()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # its reader has gone
            stream.flush()
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage. Returns the exit status; see `usage`."""
    if argv is None:  # the whole process is ours: a traceback is printed after this returns
        make_output_printable()
        return _main(sys.argv[1:], stopping.importing)
    with printable_output():
        return _main(list(argv), contextlib.nullcontext)


def _main(arguments: list[str], importing: Callable[[], AbstractContextManager[None]]) -> int:
    stage, rest = arguments[0] if arguments else "--help", arguments[1:]
    debug = "--debug" in rest
    rest = [argument for argument in rest if argument != "--debug"]
    try:
        if stage in ("-h", "--help"):
            print(usage(), flush=True)
            return 0 if arguments else EXIT_USER_ERROR
        if stage == "--version":
            print(f"bert-jax {__version__}", flush=True)
            return 0
        _require_characters(arguments)
        if stage not in STAGES:
            near = difflib.get_close_matches(stage, STAGES, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"there is no stage '{stage}': {hint}bert-jax --help has them all")
        with stopping.answering(stage):
            if stage in COMPUTING:
                keep_freed_memory()  # before the first thread
            with stopping.watching():
                with importing():
                    module = importlib.import_module(f"bert_jax.pipelines.{stage.replace('-', '_')}")
                return module.main(rest) or 0
    except Interrupted as stop:
        print(f"bert-jax {stage}: {stop}", file=sys.stderr)
        return 128 + stop.signal_number
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, stopping.Signalled) else signal.SIGINT
        print(f"bert-jax {stage}: {stopping.end_line(number)}", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:  # the reader of our output (head, less) has gone: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        if debug:
            raise
        print(f"bert-jax {stage}: {describe_error(error)}", file=sys.stderr)
        return EXIT_TRY_AGAIN if is_passing(error) else EXIT_USER_ERROR


def _require_characters(arguments: Sequence[str]) -> None:
    """Refuse arguments of bytes that are not UTF-8: what is written of them would fail, hours later."""
    for number, argument in enumerate(arguments, start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"argument {number} is not UTF-8 ({argument!a}): rename the file or convert the text"
            ) from None


def is_passing(error: UserError | OSError) -> bool:
    """Whether the machines failed, so that the same command may do another time."""
    return isinstance(error, TryAgain) or (isinstance(error, OSError) and error.errno in FAILED_STORAGE)


def describe_error(error: UserError | OSError) -> str:
    """One line for an error of the user's or of the file system."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    what = DISK_ERRORS.get(error.errno or 0, error.strerror or str(error))
    where = f" at {error.filename}" if error.filename else ""
    remedy = "free some space and run the same command again" if error.errno in DISK_ERRORS else "check the path"
    if is_passing(error):
        remedy = "the disk or the way to it failed: run the same command again"
    return f"{what}{where}: {remedy}"


if __name__ == "__main__":
    entry()
