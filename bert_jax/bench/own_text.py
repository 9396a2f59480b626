# SPDX-License-Identifier: Apache-2.0
"""The user's text (--text) as the subjects take it: a part of its sentences in a file, or all of it prepared."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bert_jax.bench.side_process import SideError
from bert_jax.bench.workbench import Workbench
from bert_jax.preparation.chunks import is_held_out
from bert_jax.preparation.request import PrepareSettings
from bert_jax.text.documents import read_documents, ReadingCounts
from bert_jax.text.sources import parse_sources, plan_parts, read_part

ALL_AT_ONCE = 2**62  # bytes of a part of the text, which is read by this process alone


def text_files(inputs: Sequence[str]) -> list[Path]:
    """Return all files of text."""
    return [file for source in parse_sources(inputs) for file in source.files]


def write_sentences(inputs: Sequence[str], megabytes: float, path: Path, longest: int | None = None) -> float:
    """Write documents, or the `longest` first sentences of each, a sentence a line, up to a size; return what it came to."""
    written = 0
    documents = (document for file in text_files(inputs) for document in read_documents(file))
    with path.open("wb") as output:
        while written < megabytes * 1e6 and (document := next(documents, None)) is not None:
            written += output.write("".join(f"{sentence}\n" for sentence in [*document[:longest], ""]).encode())
    return written / 1e6


def write_training_documents(inputs: Sequence[str], path: Path) -> int:
    """Write the documents that `bert-jax prepare` would put into its training split, one a line; return how many."""
    settings, sources, documents = PrepareSettings(), parse_sources(inputs), 0
    with path.open("wb") as output:
        for part in plan_parts(sources, ALL_AT_ONCE):
            for document in read_part(part, sources, settings.reading, ReadingCounts()):
                if not is_held_out("\n".join(document.lines).encode(), settings):
                    output.write(" ".join(document.lines).encode() + b"\n")
                    documents += 1
    return documents


def prepare_command(
    bench: Workbench, workers: int, name: str = "data", lengths: Sequence[int] = ()
) -> tuple[list[str], Path]:
    """Return `bert-jax prepare` on all text, and its output, a folder of that name, which is removed now.

    Its rows have these lengths; without any those of the feed's cases.
    """
    output = bench.folder / name
    shutil.rmtree(output, ignore_errors=True)
    lengths = sorted(set(lengths) or {case.shape.sequence_length for case in bench.suite.feed})
    command = [sys.executable, "-m", "bert_jax.cli", "prepare", "--workers", str(workers), "--output", str(output)]
    command += ["--input", *bench.inputs.text, "--vocab", str(bench.inputs.vocab)]
    return [*command, "--sequence-length", *map(str, lengths)], output


def prepared_text(bench: Workbench) -> Path:
    """Return the folder of all text, prepared; an earlier subject may have left it."""
    output = bench.folder / "data"
    if not (output / "passport.json").exists():
        command, output = prepare_command(bench, 2)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SideError(f"bert-jax prepare failed: {last_line(done.stderr)}")
    return output


def last_line(text: str) -> str:
    """Return what a program said last."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]
