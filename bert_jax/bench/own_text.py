# SPDX-License-Identifier: Apache-2.0
"""The user's text (--text) as the subjects take it: a part of its sentences in a file, or all of it prepared."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bert_jax.bench.side_process import SideError
from bert_jax.bench.workbench import Workbench
from bert_jax.text.documents import read_documents
from bert_jax.text.sources import parse_sources


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


def prepare_command(bench: Workbench, workers: int) -> tuple[list[str], Path]:
    """Return `bert-jax prepare` on all text, for the row lengths of the feed's cases, and its output, which is removed now."""
    output = bench.folder / "data"
    shutil.rmtree(output, ignore_errors=True)
    lengths = sorted({case.shape.sequence_length for case in bench.suite.feed})
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
