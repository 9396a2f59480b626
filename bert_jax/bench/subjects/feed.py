# SPDX-License-Identifier: Apache-2.0
"""The feed beside transformers' collator: masked batches on one core, by the plain iterator and by tf.data.

Text is made up, or that of --text as `bert-jax prepare` leaves it. Only tokens that are not padding count; the collator
gets full rows of the same text.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bert_jax.base.types import JsonObject
from bert_jax.bench.measure import alternate, compared
from bert_jax.bench.own_text import prepared_text
from bert_jax.bench.side_process import find_peer, ONE_THREAD, side_process, SideProcess
from bert_jax.bench.suite import Case
from bert_jax.bench.workbench import Record, Workbench
from bert_jax.config.settings import to_dict

HERE = "bert_jax.bench.sides.here"
FEEDS = {"plain": False, "tf.data": True}  # whether tf.data makes the batches
LOADERS = {
    "transformers collator, columns of lists": "lists",
    "transformers collator, bare tensors without attention mask": "tensors",
}


def measure(bench: Workbench) -> Iterator[Record]:
    """Yield a record of each arrangement of rows."""
    if find_peer(bench.inputs.peer_python) is None:
        yield bench.absent("transformers' collator", "PyTorch transformers", "--peer-python")
    yield from bench.each(bench.suite.feed, lambda case: measure_feed(bench, case))


def measure_feed(bench: Workbench, case: Case) -> Record:
    """Compare our feeds and the collator, all in turn, by valid tokens per CPU-second."""
    sizes, batches = bench.suite.sizes, bench.suite.sizes.feed_batches
    data = str(prepared_text(bench)) if bench.inputs.text else None
    with ExitStack() as stack:
        ours = stack.enter_context(side_process(HERE, environment=ONE_THREAD))
        work = ours.ask("open_feed", config=to_dict(case.config), data=data, batches=batches)
        versions = {"ours": work.pop("versions")}
        feeds = [title for title in FEEDS if title != "tf.data" or work["has_tensorflow"]]
        sides = {title: partial(ours.ask, "drain", batches=batches, use_tf_data=FEEDS[title]) for title in feeds}
        if (python := find_peer(bench.inputs.peer_python)) is not None:
            peer = stack.enter_context(side_process("pytorch", python, environment=ONE_THREAD))
            versions["peer"] = open_collator(ours, peer, case, sizes.collator_batches)
            sides |= {title: partial(peer.ask, "collate", name=name) for title, name in LOADERS.items()}
        samples = alternate(sides, sizes.rounds)
    return compared(
        case.name,
        "M valid tokens/CPU-s",
        {title: [valid_rate(sample, work["tokens"]) for sample in found] for title, found in samples.items()},
        feeds,
        packing=case.config.packing,
        rows=case.shape.rows,
        sequence_length=case.shape.sequence_length,
        batches=batches,
        text="made up" if data is None else "prepared",
        valid_share=work["tokens"] / work["slots"],
        work=work,
        samples=samples,
        versions=versions,
    )


def valid_rate(sample: JsonObject, tokens: int) -> float:
    """Return millions of valid tokens per CPU-second; a peer tells how many it made."""
    return sample.get("tokens", tokens) / sample["cpu_seconds"] / 1e6


def open_collator(ours: SideProcess, peer: SideProcess, case: Case, batches: int) -> JsonObject:
    """Give the peer rows of the same text and a vocabulary whose ids they are; return its versions."""
    with tempfile.TemporaryDirectory(prefix="bert_jax_rows_") as folder:
        rows, vocab = str(Path(folder) / "rows.npy"), str(Path(folder) / "vocab.txt")
        ours.ask("write_collator_rows", path=rows, vocab=vocab, batches=batches)
        share = case.config.objective.mlm_probability
        opened = peer.ask("open_collator", vocab=vocab, rows_file=rows, rows=case.shape.rows, mlm_probability=share)
    return opened["versions"]
