# SPDX-License-Identifier: Apache-2.0
"""Rows of a batch from prepared data, evaluation batches, and the feed with and without TensorFlow.

How examples are arranged in rows and batches: test_packing.py.
"""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from conftest import small_config

import bert_jax.train.pretraining
from bert_jax.base.errors import UserError
from bert_jax.config.objective import ObjectiveConfig, OBJECTIVES
from bert_jax.feed.batch import batch_spec, BatchShape
from bert_jax.feed.examples import EMPTY, evaluation_batch, Examples
from bert_jax.feed.feed import feed, uses_tf_data
from bert_jax.feed.layout import SpecialIds
from bert_jax.feed.order import examples_at
from bert_jax.feed.packing import make_arrangement
from bert_jax.feed.shards import open_data
from bert_jax.runs.cost import without_clock

SIZE, ROWS = 32, 7


@pytest.fixture(scope="module")
def data(prepared):
    return open_data(prepared.data)


def make_examples(data, split: str = "train", objective: ObjectiveConfig | None = None) -> Examples:
    tokenizer = data.load_tokenizer()
    special = SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id)
    objective = objective or ObjectiveConfig()
    shape = BatchShape(ROWS, SIZE, SIZE if not objective.masks else 5)
    return Examples(data.split(split), shape, objective, special, data.vocab_size)


@pytest.fixture(scope="module")
def examples(data):
    return make_examples(data)


def first_epoch(examples, indices, **options):
    """One example a row."""
    return examples.batch(np.asarray(indices)[:, None], np.zeros(len(indices), np.int64), seed=0, **options)


def unmasked(batch):
    """The rows as they were before masking."""
    ids = batch["input_ids"].copy()
    rows, slots = np.nonzero(batch["masked_lm_weights"])
    ids[rows, batch["masked_lm_positions"][rows, slots]] = batch["masked_lm_ids"][rows, slots]
    return ids


def records_of(examples):
    return [(shard, record) for shard in examples.split.shards for record in shard.table(examples.kind, SIZE).tolist()]


def test_fields_are_those_of_the_contract(examples):
    batch = make_arrangement(examples, "padded", ROWS).batch(0, 0)
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == batch_spec(examples.shape)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rows_are_the_examples_of_their_shard(data, objective):
    """[CLS] A [SEP] B [SEP] with segments 0 and 1, or [CLS] A [SEP], against a plain restatement from the shard's
    arrays."""
    examples = make_examples(data, objective=ObjectiveConfig(name=objective))
    assert len(examples.split.shards) > 1
    assert len(examples) == examples.split.num_examples(examples.kind, SIZE)
    indices = np.random.default_rng(0).permutation(len(examples))[:200]
    batch = first_epoch(examples, indices)
    records = records_of(examples)
    pairs = examples.kind in ("nsp", "sop")
    ids, special = batch["input_ids"] if objective in ("ltr", "bilm") else unmasked(batch), examples.special
    for row, index in enumerate(indices):
        shard, (a_start, a_length, b_start, b_length, label) = records[index]
        a = shard.tokens[a_start : a_start + a_length].tolist()
        b = shard.tokens[b_start : b_start + b_length].tolist()
        expected = [special.cls, *a, special.sep] + ([*b, special.sep] if pairs else [])
        filler = [0] * (SIZE - len(expected))
        assert ids[row].tolist() == expected + filler
        second = len(expected) - len(a) - 2
        assert batch["segment_ids"][row].tolist() == [0] * (len(a) + 2) + [1] * second + filler
        assert batch["sequence_ids"][row].tolist() == [1] * len(expected) + filler
        assert batch["position_ids"][row].tolist() == list(range(SIZE))
        assert batch["next_sentence_labels"][row, 0] == label
    assert (batch["next_sentence_weights"] == pairs).all()
    assert set(np.unique(batch["next_sentence_labels"])) == ({0, 1} if pairs else {0})


def test_nothing_but_the_picked_tokens_changes(examples):
    """Special tokens and padding are never picked; targets are in order, none twice; filler is 0."""
    batch = first_epoch(examples, np.arange(200))
    real = batch["masked_lm_weights"] > 0
    positions = batch["masked_lm_positions"]
    labels = np.take_along_axis(unmasked(batch), positions, axis=1)
    assert not np.isin(labels[real], [examples.special.cls, examples.special.sep, examples.special.pad]).any()
    assert (np.diff(positions, axis=1)[real[:, 1:]] > 0).all()
    for name in ("masked_lm_positions", "masked_lm_ids"):
        assert (batch[name][~real] == 0).all()
    np.testing.assert_array_equal(real, np.arange(5) < real.sum(1, keepdims=True))
    wanted = np.maximum(1, np.rint(0.15 * batch["sequence_ids"].sum(1)))
    np.testing.assert_array_equal(real.sum(1), wanted)


def test_masks_are_drawn_afresh_each_epoch(examples):
    indices = np.arange(100)[:, None]
    first, again, second = (examples.batch(indices, np.full(100, epoch), seed=0) for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first["input_ids"], again["input_ids"])
    assert (first["masked_lm_positions"] != second["masked_lm_positions"]).mean() > 0.5


def test_probability_of_a_step_can_be_another(examples):
    """A schedule of the share that is picked; None is the objective's."""
    plain, same, more = (first_epoch(examples, np.arange(50), probability=share) for share in (None, 0.15, 0.17))
    for name in plain:
        np.testing.assert_array_equal(plain[name], same[name])
    lengths = plain["sequence_ids"].sum(1)
    np.testing.assert_array_equal(more["masked_lm_weights"].sum(1), np.minimum(5, np.rint(0.17 * lengths)))


@pytest.mark.parametrize("objective", ["mlm_nsp", "mlm_document"])
def test_whole_words_are_those_of_the_shard(data, objective):
    """Picked tokens are whole words by the shard's word_starts bits, wherever in a byte a segment begins."""
    examples = make_examples(data, objective=ObjectiveConfig(name=objective, masking="whole_word", mlm_probability=0.4))
    batch = first_epoch(examples, np.arange(len(examples)), shape=BatchShape(1, SIZE, 13))
    picked = np.zeros(batch["input_ids"].shape, bool)
    rows, slots = np.nonzero(batch["masked_lm_weights"])
    picked[rows, batch["masked_lm_positions"][rows, slots]] = True
    longer = 0
    for row, (shard, (a_start, a_length, b_start, b_length, _)) in enumerate(records_of(examples)):
        starts = np.unpackbits(shard.word_starts, bitorder="little")
        for first, start, length in ((1, a_start, a_length), (a_length + 2, b_start, b_length)):
            own = picked[row, first : first + length]
            begins = np.unique([0, *np.flatnonzero(starts[start : start + length])])[: max(length, 0)]
            for word in np.split(own, begins[1:]) if length else []:
                assert word.all() or not word.any()
                longer += len(word) > 1 and word.all()
    assert picked.any()
    assert longer or all(np.unpackbits(shard.word_starts)[: shard.tokens.size].all() for shard in examples.split.shards)


def test_tf_data_and_plain_iterator_agree_bit_for_bit(examples):
    """For each arrangement: test_packing.py. Here: batches asked for beyond the end of the data, and none at all."""
    make = partial(make_arrangement(examples, "padded", ROWS).batch, 0)
    steps = len(examples) // ROWS + 3
    plain, tf_data = (list(feed(make, steps - 4, steps, use_tf_data=choice)) for choice in (False, True))
    assert len(plain) == len(tf_data) == 4
    for one, other in zip(plain, tf_data, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert [list(feed(make, 3, 3, use_tf_data=choice)) for choice in (False, True)] == [[], []]


def test_an_error_in_a_batch_reaches_the_reader():
    def make(step: int):
        raise UserError(f"no batch {step}")

    with pytest.raises(UserError, match="no batch 2"):
        list(feed(make, 2, 4, use_tf_data=False))


def test_an_evaluation_sees_each_example_once(examples):
    """The last batch is filled up with rows that count nothing."""
    batches = [evaluation_batch(examples, ROWS, step) for step in range(-(-len(examples) // ROWS))]
    weights = np.concatenate([batch["next_sentence_weights"][:, 0] for batch in batches])
    assert weights.sum() == len(examples)
    rows = np.concatenate([unmasked(batch) for batch in batches])[weights > 0]
    whole = first_epoch(examples, np.arange(len(examples)))
    assert Counter(map(bytes, rows)) == Counter(map(bytes, unmasked(whole)))
    empty = {name: field[batches[-1]["next_sentence_weights"][:, 0] == 0] for name, field in batches[-1].items()}
    assert len(empty["input_ids"]) == len(batches) * ROWS - len(examples) > 0
    for name in ("input_ids", "sequence_ids", "masked_lm_weights", "next_sentence_weights"):
        assert not empty[name].any()


def test_the_training_split_is_scored_on_masks_that_no_run_has_seen(examples):
    """Of seed 0 order and masks were those that a run of seed 0 had learned."""
    batch = evaluation_batch(examples, ROWS, 0)
    for seed in (0, 2**32 - 1):
        _, indices = examples_at(np.arange(ROWS), len(examples), seed)
        other = examples.batch(indices[:, None], np.zeros_like(indices), seed)
        assert (batch["masked_lm_ids"] != other["masked_lm_ids"]).any()
    held_out = replace(examples, split=replace(examples.split, name="validation"))
    _, indices = examples_at(np.arange(ROWS), len(examples), 0)
    wanted = examples.batch(indices[:, None], np.zeros_like(indices), 0)
    jax.tree.map(np.testing.assert_array_equal, evaluation_batch(held_out, ROWS, 0), wanted)


@pytest.mark.parametrize("masking", ["token", "whole_word", "span"])
def test_a_batch_without_any_example(data, masking):
    """As the last host of a small evaluation gets."""
    examples = make_examples(data, objective=ObjectiveConfig(masking=masking))
    batch = first_epoch(examples, np.full(3, EMPTY))
    assert {name: field.shape for name, field in batch.items()} == {
        name: (3, *size[1:]) for name, (size, _) in batch_spec(examples.shape).items()
    }
    assert not batch["sequence_ids"].any()


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # import tensorflow now fails
import bert_jax
from pathlib import Path
from bert_jax.config.settings import from_dict
from bert_jax.runs.cost import without_clock
from bert_jax.train.pretraining import pretrain
import json
pretrain(from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), resume_command="")
"""


def test_training_without_tensorflow(prepared, tmp_path, monkeypatch, capsys):
    """`import bert_jax` and pre-training work where tensorflow cannot be imported, to the same bit as by tf.data."""
    import json

    from bert_jax.config.settings import to_dict
    from bert_jax.train.pretraining import pretrain

    config = small_config(phases=small_config().phases[:1], save_every=8)
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, json.dumps(to_dict(config))]
    done = subprocess.run([*command, prepared.data, tmp_path / "plain"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "plain iterator (tensorflow is not installed)" in done.stderr
    assert not uses_tf_data("cpu")
    monkeypatch.setattr(bert_jax.train.pretraining, "uses_tf_data", lambda _: uses_tf_data("tpu"))
    pretrain(config, prepared.data, tmp_path / "tf", resume_command="")
    assert "feed: tf.data" in capsys.readouterr().err
    plain, tf_data = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("plain", "tf"))
    assert len(plain) == len(tf_data) > 3
    assert without_clock([*map(json.loads, plain)]) == without_clock([*map(json.loads, tf_data)])
