# SPDX-License-Identifier: Apache-2.0
"""The sides that run under this Python: ours, `tokenizers`, and google-research/bert's script, which needs TensorFlow.

What a side needs is imported and loaded before its clock starts; where that happens inside the work, the work is done on a
little text first.
"""

import functools
import sys
import time
from pathlib import Path

import numpy as np

from bert_jax.base.host import has_tensorflow
from bert_jax.base.types import JsonObject
from bert_jax.bench.sides.child import Figures, metered, stay_on_one_core, versions
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import from_dict
from bert_jax.feed.batch import BatchShape
from bert_jax.feed.examples import Examples
from bert_jax.feed.feed import feed
from bert_jax.feed.layout import SpecialIds
from bert_jax.feed.packing import Arrangement, make_arrangement
from bert_jax.feed.shards import open_data
from bert_jax.pages.passport import write_page
from bert_jax.preparation.job import prepare as prepare_text
from bert_jax.preparation.request import PrepareSettings
from bert_jax.tokenization import load_tokenizer

BATCH_SENTENCES = 10_000  # that are tokenised in one call
SHORT_SEQ_PROB = 0.1
MLM_PROBABILITY = 0.15
EXAMPLE_BATCHES = 20  # made-up examples are enough for so many batches

# ---- preparation -----------------------------------------------------------------------------------------------------


def prepare(warm_up: str, text: str, vocab: str, epochs: int, length: int, predictions: int, rows: int) -> Figures:
    """Do what `bert-jax prepare` does in one process, then make `epochs` epochs of masked, padded batches of its examples."""
    settings = PrepareSettings(sequence_lengths=(length,), held_out=0.0, short_seq_prob=SHORT_SEQ_PROB)
    for name, source in (("warm-up", warm_up), ("main", text)):
        with metered() as figures:
            tokenizer = load_tokenizer(Path(vocab))
            prepare_text([source], tokenizer, Path(name), settings, workers=1)
            write_page(Path(name), tokenizer.vocabulary)
            arrangement = prepared_arrangement(Path(name), "padded", BatchShape(rows, length, predictions))
            examples = len(arrangement.examples)
            for step in range(epochs * -(-examples // rows)):
                arrangement.batch(0, step)
    return figures | {"examples": examples * epochs, "versions": versions("bert-jax", "numpy")}


def prepare_googles(
    repository: str, warm_up: str, text: str, vocab: str, epochs: int, length: int, predictions: int
) -> Figures:
    """Run google-research/bert's create_pretraining_data.py: `epochs` is its dupe_factor."""
    import tensorflow.compat.v1 as tensorflow

    sys.modules["tensorflow"] = tensorflow  # it was written for TensorFlow 1
    sys.path.insert(0, repository)
    import create_pretraining_data as script

    options = {"vocab_file": vocab, "dupe_factor": epochs, "max_seq_length": length}
    options |= {"max_predictions_per_seq": predictions, "short_seq_prob": SHORT_SEQ_PROB}
    options |= {"masked_lm_prob": MLM_PROBABILITY, "output_file": "examples.tfrecord"}
    for source in (warm_up, text):
        arguments = [f"--{name}={value}" for name, value in (options | {"input_file": source}).items()]
        tensorflow.flags.FLAGS(["create_pretraining_data", *arguments])
        with metered() as figures:
            script.main([])
    written = sum(1 for _ in tensorflow.data.TFRecordDataset("examples.tfrecord").as_numpy_iterator())
    return figures | {"examples": written, "versions": versions("tensorflow-cpu", "tensorflow")}


# ---- tokenisation ----------------------------------------------------------------------------------------------------


def tokenize(text: str, vocab: str) -> Figures:
    """Tokenise by `encode_flat`, from an empty word cache (`main`), and the same text once more (`warm`)."""
    tokenizer, batches = load_tokenizer(Path(vocab)), _sentence_batches(text)
    found: Figures = {}
    for name in ("main", "warm"):
        with metered() as found[name]:
            tokens = sum(len(tokenizer.encode_flat(batch).ids) for batch in batches)
        found[name]["tokens"] = tokens
    return found | {"versions": versions("bert-jax", "tokenizers", "numpy")}


def tokenize_hugging_face(text: str, vocab: str) -> Figures:
    """Tokenise by `encode_batch` and `encode_batch_fast`; taking the ids out of what they return is not charged."""
    import tokenizers

    tokenizer = tokenizers.BertWordPieceTokenizer(vocab, lowercase=True)
    calls = {"encode_batch": tokenizer.encode_batch, "encode_batch_fast": tokenizer._tokenizer.encode_batch_fast}
    found: Figures = {}
    for name, call in calls.items():
        found[name] = {"cpu_seconds": 0.0, "wall_seconds": 0.0, "tokens": 0}
        for batch in _sentence_batches(text):  # one at a time: the encodings of all take gigabytes
            with metered() as figures:
                encodings = call(batch, add_special_tokens=False)
            figures["tokens"] = sum(len(encoding.ids) for encoding in encodings)
            found[name] = {key: found[name][key] + value for key, value in figures.items()}
    return found | {"versions": versions("tokenizers")}


def compare_tokens(text: str, vocab: str) -> Figures:
    """Count the sentences that get other ids from `tokenizers` than from us, whose ids are google-research/bert's."""
    import tokenizers

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


# ---- the feed --------------------------------------------------------------------------------------------------------

_arrangements: list[Arrangement] = []  # the one that is open, if any


def open_feed(config: JsonObject, data: str | None, batches: int) -> Figures:
    """Arrange the examples of the first phase, prepared (`data`) or made up, and stay on one core; the work of all batches.

    `ready_seconds` is the time from the data directory to the first batch.
    """
    stay_on_one_core()
    settings, begin = from_dict(config), time.monotonic()
    _arrangements[:] = [arrangement := _arrange(settings, data, batches)]
    arrangement.batch(0, 0)
    ready = time.monotonic() - begin
    if has_tensorflow():
        drain(2, True)  # imports TensorFlow
    # Counted apart: looking at every token is no part of the feed.
    made = [arrangement.batch(0, step)["sequence_ids"] for step in range(batches)]
    tokens, slots = (sum(int(count(one)) for one in made) for count in (np.count_nonzero, np.size))
    found = {"ready_seconds": ready, "tokens": tokens, "slots": slots, "has_tensorflow": has_tensorflow()}
    return found | {"versions": versions("bert-jax", "numpy", "tensorflow-cpu", "tensorflow")}


def drain(batches: int, use_tf_data: bool) -> Figures:
    """Make batches as fast as the feed can."""
    (arrangement,) = _arrangements
    with metered() as figures:
        for _ in feed(functools.partial(arrangement.batch, 0), 0, batches, use_tf_data=use_tf_data):
            pass
    return figures


def write_collator_rows(path: str, vocab: str, batches: int) -> Figures:
    """Write full rows [CLS] tokens [SEP] of the open feed's text, [N, S] int64, and a vocabulary whose ids they are."""
    (arrangement,) = _arrangements
    examples = arrangement.examples
    special, shape = examples.special, examples.shape
    tokens = np.concatenate([np.asarray(shard.tokens) for shard in examples.split.shards])
    inner = np.resize(tokens, (shape.rows * batches, shape.sequence_length - 2)).astype(np.int64)
    np.save(path, np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (special.cls, special.sep))))
    words = [f"w{number}" for number in range(examples.vocab_size)]
    for name, number in special.__dict__.items():
        words[number] = f"[{name.upper()}]"
    words[next(number for number, word in enumerate(words) if word.startswith("w"))] = "[UNK]"
    Path(vocab).write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return {}


def _arrange(config: PretrainConfig, data: str | None, batches: int) -> Arrangement:
    phase, packed = config.phases[0], config.packing == "packed"
    if data is None:
        from bert_jax.bench.made_up import made_up_arrangement  # reaches JAX

        return made_up_arrangement(config, min(batches, EXAMPLE_BATCHES), config.seed)
    shape = BatchShape(phase.batch_size, phase.sequence_length, phase.max_predictions_per_seq)
    return prepared_arrangement(Path(data), "packed" if packed else "padded", shape)


def prepared_arrangement(data: Path, packing: str, shape: BatchShape) -> Arrangement:
    """Arrange the examples of prepared data's training split in rows."""
    default, tokenizer = PretrainConfig(), load_tokenizer(data)
    special = SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id)
    split = open_data(data, verify_hashes=False).splits["train"]
    examples = Examples(split, shape, ObjectiveConfig(), special, tokenizer.vocab_size)
    return make_arrangement(examples, packing, shape.rows, default.examples_per_row, default.buckets)
