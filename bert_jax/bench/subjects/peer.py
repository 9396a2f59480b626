# SPDX-License-Identifier: Apache-2.0
"""The same training step in PyTorch transformers, step by step in turn with ours, on the same batch.

Shapes: B rows, S tokens.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.base.host import usable_cores
from bert_jax.base.types import JsonObject
from bert_jax.bench.measure import alternate, paired_ratio, Side, summaries, summary, timed
from bert_jax.bench.side_process import find_peer, side_process, SideProcess
from bert_jax.bench.suite import Case
from bert_jax.bench.workbench import CompiledCase, Record, Runner, Workbench
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.conversion.config_files import hugging_face_shape
from bert_jax.feed.batch import Batch

IGNORED = -100  # label of a token that is not predicted


class Contest(NamedTuple):
    """A case against one mode of the peer."""

    case: Case
    mode: str

    @property
    def name(self) -> str:
        """The case and the mode in words."""
        return f"{self.case.name}, PyTorch {self.mode}"


def measure(bench: Workbench) -> Iterator[Record]:
    """Yield a record of each case and mode; or the one that says why there is none."""
    python = find_peer(bench.inputs.peer_python)
    if python is None:
        yield bench.absent("PyTorch transformers", "a Python that has it", "--peer-python")
        return
    modes = ("eager",) if bench.on_cpu else ("eager", "compile")
    with side_process("pytorch", python) as peer:
        yield {"name": "PyTorch transformers", "kind": "versions", **peer.ask("hello")}
        for case in bench.suite.peer:
            if not computes_same(case.config):
                why = "transformers' BertForPreTraining has masked words and pairs, and rows of one example"
                yield {"name": f"{case.name}, PyTorch", "kind": "absent", "absent": why}
        contests = [Contest(case, mode) for case in bench.suite.peer for mode in modes if computes_same(case.config)]
        yield from bench.each(contests, lambda contest: measure_contest(bench, peer, contest))


def computes_same(config: PretrainConfig) -> bool:
    """Whether the peer computes the same step: masked words and pairs, one example a row."""
    objective = config.objective
    return config.packing != "packed" and objective.masks and objective.nsp and not objective.replaces


def measure_contest(bench: Workbench, peer: SideProcess, contest: Contest) -> Record:
    """Steps of both sides in turn. A ratio above 1: ours is as many times faster."""
    prepared = bench.prepare_fitting(contest.case)
    built = build(peer, prepared, contest.mode)
    try:
        sides = {"ours": timed(Runner(prepared).step, bench.suite.shortest), "peer": peer_side(bench, peer)}
        samples = alternate(sides, bench.suite.sizes.rounds)
    finally:
        peer.ask("drop")
    work = prepared.work
    return {
        **prepared.description(),
        "name": contest.name,
        "kind": "peer",
        "mode": contest.mode,
        "peer": built,
        "seconds": summaries(samples),
        "valid_tokens_per_second": {
            side: work.valid_tokens / summary(values)["median"] for side, values in samples.items()
        },
        "ratio": paired_ratio(samples["peer"], samples["ours"]),
    }


def build(peer: SideProcess, prepared: CompiledCase, mode: str) -> Record:
    """Give the peer the model and the batch of ours."""
    with tempfile.TemporaryDirectory(prefix="bert_jax_peer_") as folder:
        path = Path(folder) / "batch.npz"
        fields: JsonObject = peer_batch(prepared.batch)
        np.savez(path, **fields)
        model = hugging_face_shape(prepared.case.config.model)
        return peer.ask("build", model=model, batch=str(path), mode=mode, threads=usable_cores())


def peer_side(bench: Workbench, peer: SideProcess, do: str = "step") -> Side:
    """A sample of the peer: it does something as often as it takes to fill the time of a sample; see `measure.timed`."""
    once = peer.ask(do, count=1)["seconds"]  # torch.compile compiles here
    if not bench.on_cpu or once < 10 * bench.suite.shortest:
        once = peer.ask(do, count=1)["seconds"]
    count = max(1, round(bench.suite.shortest / max(once, 1e-9)))
    return lambda: peer.ask(do, count=count)["seconds"]


def peer_batch(batch: Batch) -> dict[str, np.ndarray]:
    """Return a batch with one example a row as `transformers.BertForPreTraining` takes it: int64, labels [B, S]."""
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
