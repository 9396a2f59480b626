# SPDX-License-Identifier: Apache-2.0
"""The work that `bench_data` measures, ours and the peers': one function a side, run in a process of its own.

    python bench_data_sides.py SIDE '{"setting": value, ...}'

A side imports and loads what it needs (where that happens inside the work, by doing it on a little text first), does
its work between the two readings of the clock that `metered` takes, and prints what it found as a line of JSON, the last
line of its output. It may write files into the current folder. Libraries are imported where they are used, so this file
runs under any Python that has those of one side: the collator's needs nothing of ours.

CPU-seconds are user and system time of the process, its threads and its finished children.
"""

import contextlib
import functools
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Figures = dict[str, Any]  # cpu_seconds, wall_seconds, and what was done in them

BATCH_SENTENCES = 10_000  # that are tokenised in one call
SHORT_SEQ_PROB = 0.1
MLM_PROBABILITY = 0.15


@contextlib.contextmanager
def metered() -> Iterator[Figures]:
    """The CPU-seconds and the wall time of the block, in the dictionary it gives."""
    figures: Figures = {}
    cpu, wall = cpu_seconds(), time.monotonic()
    yield figures
    figures["cpu_seconds"], figures["wall_seconds"] = cpu_seconds() - cpu, time.monotonic() - wall


def cpu_seconds() -> float:
    """User and system time so far, with that of children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def versions(*packages: str) -> dict[str, str]:
    """Of Python and these packages, as installed where this side runs."""
    found = {"python": sys.version.split()[0]}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


# ---- preparation -------------------------------------------------------------------------------------------


def our_preparation(
    warm_up: str, text: str, vocab: str, epochs: int, sequence_length: int, max_predictions: int, rows: int
) -> Figures:
    """`bert-jax prepare` in one process, then `epochs` epochs of masked, padded batches of its examples."""
    from bert_jax.cli import main

    options = ["--vocab", vocab, "--workers", "1", "--held-out", "0"]
    options += ["--sequence-length", str(sequence_length), "--short-seq-prob", str(SHORT_SEQ_PROB)]
    for name, source in (("warm-up", warm_up), ("main", text)):
        with metered() as figures:
            if status := main(["prepare", "--input", source, "--output", name, *options]):
                sys.exit(status)
            examples, arrangement = _arranged(Path(name), "padded", sequence_length, max_predictions, rows)
            for step in range(epochs * -(-len(examples) // rows)):
                arrangement.batch(0, step)
    return {"main": figures | {"examples": len(examples) * epochs}, "versions": versions("bert-jax", "numpy")}


def google_research(
    repository: str, warm_up: str, text: str, vocab: str, epochs: int, sequence_length: int, max_predictions: int
) -> Figures:
    """google-research/bert's create_pretraining_data.py: `epochs` is its dupe_factor."""
    import tensorflow.compat.v1 as tensorflow

    sys.modules["tensorflow"] = tensorflow  # it was written for TensorFlow 1
    sys.path.insert(0, repository)
    import create_pretraining_data as script  # type: ignore[import-not-found,unused-ignore]

    options = {"vocab_file": vocab, "dupe_factor": epochs, "max_seq_length": sequence_length}
    options |= {"max_predictions_per_seq": max_predictions, "short_seq_prob": SHORT_SEQ_PROB}
    options |= {"masked_lm_prob": MLM_PROBABILITY, "output_file": "examples.tfrecord"}
    for source in (warm_up, text):
        arguments = [f"--{name}={value}" for name, value in (options | {"input_file": source}).items()]
        tensorflow.flags.FLAGS(["create_pretraining_data", *arguments])
        with metered() as figures:
            script.main([])
    written = sum(1 for _ in tensorflow.data.TFRecordDataset("examples.tfrecord").as_numpy_iterator())
    return {"main": figures | {"examples": written}, "versions": versions("tensorflow-cpu", "tensorflow")}


# ---- tokenisation ------------------------------------------------------------------------------------------


def our_tokenizer(text: str, vocab: str) -> Figures:
    """`encode_flat`, from an empty word cache, and the same text once more."""
    from bert_jax.tokenization import load_tokenizer

    tokenizer = load_tokenizer(Path(vocab))
    batches = _sentence_batches(text)
    found: Figures = {}
    for name in ("main", "warm"):
        with metered() as found[name]:
            tokens = sum(len(tokenizer.encode_flat(batch).ids) for batch in batches)
        found[name]["tokens"] = tokens
    return found | {"versions": versions("bert-jax", "tokenizers", "numpy")}


def hugging_face_tokenizer(text: str, vocab: str) -> Figures:
    """`encode_batch` and `encode_batch_fast`; taking the ids out of what they return is not charged."""
    import tokenizers

    tokenizer = tokenizers.BertWordPieceTokenizer(vocab, lowercase=True)
    calls = {"encode_batch": tokenizer.encode_batch, "encode_batch_fast": tokenizer._tokenizer.encode_batch_fast}
    batches = _sentence_batches(text)
    found: Figures = {}
    for name, call in calls.items():
        found[name] = {"cpu_seconds": 0.0, "wall_seconds": 0.0, "tokens": 0}
        for batch in batches:  # one at a time: the encodings of all take gigabytes
            with metered() as figures:
                encodings = call(batch, add_special_tokens=False)
            figures["tokens"] = sum(len(encoding.ids) for encoding in encodings)
            found[name] = {key: found[name][key] + value for key, value in figures.items()}
    return found | {"versions": versions("tokenizers")}


def tokenizer_differences(text: str, vocab: str) -> Figures:
    """How many sentences get other ids from `tokenizers` than from us, whose ids are google-research/bert's."""
    import tokenizers

    from bert_jax.tokenization import load_tokenizer

    ours, theirs = load_tokenizer(Path(vocab)), tokenizers.BertWordPieceTokenizer(vocab, lowercase=True)
    sentences = different = 0
    for batch in _sentence_batches(text):
        encodings = theirs.encode_batch(batch, add_special_tokens=False)
        pairs = zip(ours.encode_batch(batch), encodings, strict=True)
        different += sum(list(ids) != encoding.ids for ids, encoding in pairs)
        sentences += len(batch)
    return {"sentences": sentences, "different": different}


def _sentence_batches(text: str) -> list[list[str]]:
    sentences = [line for line in Path(text).read_text(encoding="utf-8").split("\n") if line]
    return [sentences[begin : begin + BATCH_SENTENCES] for begin in range(0, len(sentences), BATCH_SENTENCES)]


# ---- feed --------------------------------------------------------------------------------------------------


def our_feed(data: str, sequence_length: int, max_predictions: int, rows: int, batches: int) -> Figures:
    """Masked next-sentence batches [rows, sequence_length]: padded and packed, by the plain iterator and by tf.data.

    The process stays on one core. `ready_seconds` is the time from the data directory to the first batch.
    """
    _stay_on_one_core()
    import numpy as np

    from bert_jax.feed.feed import feed
    from bert_jax.host import has_tensorflow

    found: Figures = {}
    for packing in ("padded", "packed"):
        begin = time.monotonic()
        _, arrangement = _arranged(Path(data), packing, sequence_length, max_predictions, rows)
        make_batch = functools.partial(arrangement.batch, 0)
        make_batch(0)
        ready = time.monotonic() - begin
        for name, use_tf_data in (("plain", False), ("tf.data", True)):
            if use_tf_data and not has_tensorflow():
                continue
            for _ in feed(make_batch, 0, 2, use_tf_data=use_tf_data):
                pass  # imports TensorFlow, fills caches
            figures = found[f"{packing}, {name}"] = _drained(feed(make_batch, 0, batches, use_tf_data=use_tf_data))
            figures |= {"ready_seconds": ready, "slots": batches * rows * sequence_length}
            # Counted again and apart: looking at every token is no part of the feed.
            figures["tokens"] = sum(int(np.count_nonzero(make_batch(step)["sequence_ids"])) for step in range(batches))
    return found | {"versions": versions("bert-jax", "numpy", "tensorflow-cpu", "tensorflow")}


def _arranged(data: Path, packing: str, sequence_length: int, max_predictions: int, rows: int) -> tuple[Any, Any]:
    """Examples of the training split, and their arrangement in rows."""
    from bert_jax.config.objective import ObjectiveConfig
    from bert_jax.config.pretrain import PretrainConfig
    from bert_jax.feed.batch import BatchShape
    from bert_jax.feed.examples import Examples
    from bert_jax.feed.layout import SpecialIds
    from bert_jax.feed.packing import make_arrangement
    from bert_jax.feed.shards import open_data
    from bert_jax.tokenization import load_tokenizer

    default = PretrainConfig()
    tokenizer = load_tokenizer(data)
    examples = Examples(
        open_data(data, verify_hashes=False).splits["train"],
        BatchShape(rows, sequence_length, max_predictions),
        ObjectiveConfig(),
        SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id),
        tokenizer.vocab_size,
    )
    return examples, make_arrangement(examples, packing, rows, default.examples_per_row, default.buckets)


def _drained(batches: Iterator[Mapping[str, Any]]) -> Figures:
    """Use all batches up."""
    with metered() as figures:
        for _ in batches:
            pass
    return figures


def _stay_on_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):  # Linux
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def write_rows(data: str, sequence_length: int, max_predictions: int, rows: int, batches: int, path: str) -> Figures:
    """Full rows [CLS] tokens [SEP] of the prepared text for the collator, as an array [rows * batches, S] in a file."""
    import numpy as np

    examples, _ = _arranged(Path(data), "padded", sequence_length, max_predictions, rows)
    tokens = np.concatenate([np.asarray(shard.tokens) for shard in examples.split.shards])
    inner = sequence_length - 2
    wanted = np.resize(tokens, (rows * batches, inner)).astype(np.int64)
    np.save(
        path, np.pad(wanted, ((0, 0), (1, 1)), constant_values=((0, 0), (examples.special.cls, examples.special.sep)))
    )
    return {}


def hugging_face_collator(vocab: str, rows_file: str, rows: int) -> Figures:
    """DataCollatorForLanguageModeling under a DataLoader without workers, on rows that are tokenised already.

    `lists`: four columns of Python integers, as the examples of transformers (run_mlm.py) store them. `tensors`: bare
    tensors of the ids, the fastest input we found that the collator takes; there is no attention mask then, so it
    serves rows without padding only.
    """
    _stay_on_one_core()
    import numpy as np
    import torch  # type: ignore[import-not-found,unused-ignore]
    import transformers  # type: ignore[import-not-found,unused-ignore]

    torch.set_num_threads(1)
    tokenizer = transformers.BertTokenizerFast(vocab)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=MLM_PROBABILITY)
    ids = np.load(rows_file)
    columns = {
        "input_ids": ids,
        "token_type_ids": np.zeros_like(ids),
        "attention_mask": np.ones_like(ids),
        "special_tokens_mask": np.isin(ids, [tokenizer.cls_token_id, tokenizer.sep_token_id]).astype(np.int64),
    }
    lists = [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]
    found: Figures = {}
    for name, dataset in {"lists": lists, "tensors": list(torch.from_numpy(ids))}.items():
        loader = torch.utils.data.DataLoader(dataset, batch_size=rows, shuffle=True, num_workers=0, collate_fn=collator)
        next(iter(loader))
        with metered() as found[name]:
            tokens = sum(batch["input_ids"].numel() for batch in loader)
        found[name]["tokens"] = tokens
    return found | {"versions": versions("torch", "transformers", "tokenizers", "numpy")}


SIDES: dict[str, Callable[..., Figures]] = {
    side.__name__: side
    for side in (
        our_preparation,
        google_research,
        our_tokenizer,
        hugging_face_tokenizer,
        tokenizer_differences,
        our_feed,
        write_rows,
        hugging_face_collator,
    )
}

if __name__ == "__main__":
    print("\n" + json.dumps(SIDES[sys.argv[1]](**json.loads(sys.argv[2]))))
