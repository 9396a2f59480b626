# SPDX-License-Identifier: Apache-2.0
"""The same training step in PyTorch transformers, step by step in turn with ours, on the same batch."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax.bench.measure import alternate, paired_ratio, Side, summaries, summary, timed
from bert_jax.bench.peer import find_peer, peer_batch, peer_process, PeerProcess
from bert_jax.bench.suite import Case
from bert_jax.bench.workbench import CompiledCase, Record, Runner, Workbench
from bert_jax.conversion.config_files import hugging_face_shape
from bert_jax.host import usable_cores

ABSENT = "PyTorch transformers is not installed beside bert_jax: name a Python that has it with --peer-python"


class Contest(NamedTuple):
    """A case against one mode of the peer."""

    case: Case
    mode: str

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.case.name}, PyTorch {self.mode}"


def measure(bench: Workbench) -> Iterator[Record]:
    """Each case against each mode; or the one record that says why there is none."""
    python = find_peer(bench.peer_python)
    if python is None:
        yield {"name": "PyTorch transformers", "kind": "absent", "absent": ABSENT}
        return
    modes = ("eager",) if bench.on_cpu else ("eager", "compile")
    with peer_process(python) as peer:
        yield {"name": "PyTorch transformers", "kind": "versions", **peer.ask("hello")}
        contests = [Contest(case, mode) for case in bench.suite.peer for mode in modes]
        yield from bench.each(contests, lambda contest: measure_contest(bench, peer, contest))


def measure_contest(bench: Workbench, peer: PeerProcess, contest: Contest) -> Record:
    """Steps of both sides in turn. A ratio above 1: ours is as many times faster."""
    prepared = bench.prepare_fitting(contest.case)
    built = build(peer, prepared, contest.mode)
    try:
        sides = {"ours": timed(Runner(prepared).step, bench.suite.shortest), "peer": peer_side(bench, peer)}
        samples = alternate(sides, bench.suite.rounds)
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


def build(peer: PeerProcess, prepared: CompiledCase, mode: str) -> Record:
    """Give the peer the model and the batch of ours."""
    with tempfile.TemporaryDirectory(prefix="bert_jax_peer_") as folder:
        path = Path(folder) / "batch.npz"
        fields: dict[str, Any] = peer_batch(prepared.batch)
        np.savez(path, **fields)
        model = hugging_face_shape(prepared.case.config.model)
        return peer.ask("build", model=model, batch=str(path), mode=mode, threads=usable_cores())


def peer_side(bench: Workbench, peer: PeerProcess) -> Side:
    """A sample of the peer: as many steps as it takes to fill the time of a sample; see `measure.timed`."""
    once = peer.ask("step", count=1)["seconds"]  # torch.compile compiles here
    if not bench.on_cpu or once < 10 * bench.suite.shortest:
        once = peer.ask("step", count=1)["seconds"]
    count = max(1, round(bench.suite.shortest / max(once, 1e-9)))
    return lambda: peer.ask("step", count=count)["seconds"]
