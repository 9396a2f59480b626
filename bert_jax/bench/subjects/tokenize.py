# SPDX-License-Identifier: Apache-2.0
"""Tokenisation on one thread: `encode_flat` beside `tokenizers`, on the sentences of --text."""

from collections.abc import Iterator
from functools import partial

from bert_jax.base.types import JsonObject
from bert_jax.bench.measure import alternate, compared
from bert_jax.bench.own_text import write_sentences
from bert_jax.bench.side_process import fresh_process
from bert_jax.bench.workbench import Record, Workbench

HERE = "bert_jax.bench.sides.here"
CALLS = {"tokenize": ("main", "warm"), "tokenize_hugging_face": ("encode_batch", "encode_batch_fast")}
TITLES = {
    "main": "from an empty cache",
    "warm": "the same text again",
    "encode_batch": "tokenizers encode_batch",
    "encode_batch_fast": "tokenizers encode_batch_fast",
}


def measure(bench: Workbench) -> Iterator[Record]:
    """Yield the one record; or the one that says why there is none."""
    if not (bench.inputs.text and bench.inputs.vocab):
        yield bench.absent("tokenisation", "text and a vocabulary", "--text and --vocab")
        return
    yield from bench.each(["tokenisation"], partial(measure_tokens, bench))


def measure_tokens(bench: Workbench, name: str) -> Record:
    """Compare ours from an empty word cache, and on the same text again, with both calls of the peer."""
    text = bench.folder / "tokenisation.txt"
    megabytes = write_sentences(bench.inputs.text, bench.suite.sizes.tokenizer_megabytes, text)
    settings: JsonObject = {"text": str(text), "vocab": str(bench.inputs.vocab)}
    sides = {do: partial(fresh_process, HERE, do, **settings) for do in ("tokenize", "tokenize_hugging_face")}
    samples = alternate(sides, bench.suite.sizes.rounds)
    found = {call: [one[call] for one in samples[do]] for do, calls in CALLS.items() for call in calls}
    return compared(
        name,
        "MB/CPU-s",
        {TITLES[call]: [megabytes / one["cpu_seconds"] for one in figures] for call, figures in found.items()},
        [TITLES[call] for call in CALLS["tokenize"]],
        megabytes=megabytes,
        tokens={TITLES[call]: figures[0]["tokens"] for call, figures in found.items()},
        versions={do: one[0]["versions"] for do, one in samples.items()},
        **fresh_process(HERE, "compare_tokens", **settings),
    )
