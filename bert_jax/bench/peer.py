# SPDX-License-Identifier: Apache-2.0
"""The other side of `peer_torch.py`: starts the child, asks, and gives it the same batches as ours.

Shapes: B rows, S tokens, M predicted positions.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, IO

import numpy as np

from bert_jax.feed.batch import Batch

SCRIPT = Path(__file__).with_name("peer_torch.py")
IGNORED = -100  # label of a token that is not predicted
PATIENCE = 10  # seconds for a child that was told to end


class PeerError(RuntimeError):
    """The peer could not do what it was asked."""


class PeerProcess:
    """A running peer. One request is answered before the next."""

    def __init__(self, process: subprocess.Popen[str], messages: IO[str]):
        self._process = process
        self._messages = messages

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
          PeerError: it failed or has ended, with what it said.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            self._messages.seek(0)
            said = self._messages.read().strip().splitlines()
            raise PeerError(f"ended with status {status} when it was asked to {do}{f': {said[-1]}' if said else ''}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer


@contextmanager
def peer_process(python: Path, script: Path = SCRIPT) -> Iterator[PeerProcess]:
    """A peer run by `python`; it is gone afterwards. The last line of its standard error is told if it fails."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (
        tempfile.TemporaryFile("w+") as messages,
        subprocess.Popen([str(python), str(script)], stderr=messages, **pipes) as process,
    ):
        try:
            yield PeerProcess(process, messages)
        finally:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def find_peer(python: Path | None) -> Path | None:
    """The Python to run the peer with: the one given, or this one where torch and transformers are installed."""
    if python is not None:
        return python
    here = all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))
    return Path(sys.executable) if here else None


def peer_batch(batch: Batch) -> dict[str, np.ndarray]:
    """A batch with one example a row, as `transformers.BertForPreTraining` takes it: int64, labels [B, S]."""
    assert batch["cls_positions"].shape[1] == 1, "transformers' BERT takes one example a row"
    labels = np.full(batch["input_ids"].shape, IGNORED, np.int64)
    rows, places = np.nonzero(batch["masked_lm_weights"])
    labels[rows, batch["masked_lm_positions"][rows, places]] = batch["masked_lm_ids"][rows, places]
    return {
        "input_ids": batch["input_ids"].astype(np.int64),
        "token_type_ids": batch["segment_ids"].astype(np.int64),
        "attention_mask": (batch["sequence_ids"] > 0).astype(np.int64),
        "labels": labels,
        "next_sentence_label": batch["next_sentence_labels"][:, 0].astype(np.int64),
    }
