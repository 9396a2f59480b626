# SPDX-License-Identifier: Apache-2.0
"""Batches for training and evaluation."""

import subprocess
import sys
from collections import Counter
from functools import partial

import numpy as np
import pytest
from conftest import small_config

from bert_jax.batch import batch_spec, BatchShape
from bert_jax.config import ObjectiveConfig
from bert_jax.data.feed import evaluation_batch, Examples, feed, host_rows, SpecialIds, training_batch
from bert_jax.data.shards import open_data
from bert_jax.errors import UserError

SIZE, ROWS = 32, 7


@pytest.fixture(scope="module")
def examples(prepared):
    data = open_data(prepared.data)
    tokenizer = data.load_tokenizer()
    special = SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id)
    return Examples(data.split("train"), BatchShape(ROWS, SIZE, 5), ObjectiveConfig(), special, data.vocab_size)


def unmasked(batch):
    """The rows as they were before masking."""
    ids = batch["input_ids"].copy()
    rows, slots = np.nonzero(batch["masked_lm_weights"])
    ids[rows, batch["masked_lm_positions"][rows, slots]] = batch["masked_lm_ids"][rows, slots]
    return ids


def test_fields_are_those_of_the_contract(examples):
    batch = training_batch(examples, 0, ROWS, 0)
    spec = batch_spec(examples.shape)
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == spec


def test_rows_are_the_sentence_pairs_of_their_shard(examples):
    """[CLS] A [SEP] B [SEP], segments 0 and 1, against a plain restatement from the shard's arrays (rows S08, S09)."""
    assert len(examples.split.shards) > 1
    indices = np.random.default_rng(0).permutation(len(examples))[:200]
    batch = examples.batch(indices, np.zeros(200, np.int64), seed=0)
    records = [(shard, record) for shard in examples.split.shards for record in shard.examples(SIZE)]
    ids = unmasked(batch)
    for row, index in enumerate(indices):
        shard, (a_start, a_length, b_start, b_length, label) = records[index]
        a = shard.tokens[a_start : a_start + a_length].tolist()
        b = shard.tokens[b_start : b_start + b_length].tolist()
        special = examples.special
        expected = [special.cls, *a, special.sep, *b, special.sep]
        filler = [0] * (SIZE - len(expected))
        assert ids[row].tolist() == expected + filler
        assert batch["segment_ids"][row].tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1) + filler
        assert batch["sequence_ids"][row].tolist() == [1] * len(expected) + filler
        assert batch["position_ids"][row].tolist() == list(range(SIZE))
        assert batch["next_sentence_labels"][row, 0] == label


def test_each_example_once_an_epoch(examples):
    """Over two epochs, with batches that span shards and the epoch's end: nothing lost, nothing twice."""
    seen = Counter()
    steps = 2 * len(examples) // ROWS + 1
    for step in range(steps):
        seen.update(row.tobytes() for row in unmasked(training_batch(examples, 3, ROWS, step)))
    whole = examples.batch(np.arange(len(examples)), np.zeros(len(examples), np.int64), seed=0)
    expected = Counter(row.tobytes() for row in unmasked(whole))
    surplus = steps * ROWS - 2 * len(examples)
    assert sum((seen - Counter({key: 2 * count for key, count in expected.items()})).values()) == surplus
    assert not Counter({key: 2 * count for key, count in expected.items()}) - seen


def test_a_later_phase_of_the_same_length_goes_on_in_the_stream(examples):
    """Its first batch is the one after the earlier phase's last, not the same examples with the same masks again."""
    for name, field in training_batch(examples, 0, ROWS, 5).items():
        np.testing.assert_array_equal(training_batch(examples, 0, ROWS, 2, seen=3 * ROWS)[name], field)


def test_masks_are_drawn_afresh_each_epoch(examples):
    indices = np.arange(100)
    first, again, second = (examples.batch(indices, np.full(100, epoch), seed=0) for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first["input_ids"], again["input_ids"])
    assert (first["masked_lm_positions"] != second["masked_lm_positions"]).mean() > 0.5


@pytest.mark.parametrize("hosts", [1, 2, 3, 6])
def test_hosts_make_the_rows_of_one_global_batch(examples, hosts):
    whole = training_batch(examples, 0, 12, 5)
    parts = [training_batch(examples, 0, 12, 5, host_rows(12, host, hosts)) for host in range(hosts)]
    for name, field in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), field)


def test_hosts_must_divide_the_batch():
    with pytest.raises(UserError, match="12 is not divisible by 5 hosts"):
        host_rows(12, 0, 5)


def test_tf_data_and_plain_iterator_agree_bit_for_bit(examples):
    make = partial(training_batch, examples, 0, ROWS)
    plain, tf_data = (list(feed(make, 3, 40, use_tf_data=choice)) for choice in (False, True))
    assert len(plain) == len(tf_data) == 37
    for one, other in zip(plain, tf_data, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])


def test_an_evaluation_sees_each_example_once(examples):
    """The last batch is filled up with rows that count nothing."""
    batches = [evaluation_batch(examples, ROWS, step) for step in range(-(-len(examples) // ROWS))]
    weights = np.concatenate([batch["next_sentence_weights"][:, 0] for batch in batches])
    assert weights.sum() == len(examples)
    rows = np.concatenate([unmasked(batch) for batch in batches])[weights > 0]
    whole = examples.batch(np.arange(len(examples)), np.zeros(len(examples), np.int64), seed=0)
    assert Counter(map(bytes, rows)) == Counter(map(bytes, unmasked(whole)))
    empty = {name: field[batches[-1]["next_sentence_weights"][:, 0] == 0] for name, field in batches[-1].items()}
    assert len(empty["input_ids"]) == len(batches) * ROWS - len(examples) > 0
    for name in ("input_ids", "sequence_ids", "masked_lm_weights", "next_sentence_weights"):
        assert not empty[name].any()


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # import tensorflow now fails
import bert_jax
from pathlib import Path
from bert_jax.config import from_dict
from bert_jax.pretraining import pretrain
import json
pretrain(from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), resume_command="")
"""


def test_training_without_tensorflow(prepared, tmp_path):
    """`import bert_jax` and pre-training work where tensorflow cannot be imported, to the same bit."""
    import json

    from bert_jax.config import to_dict
    from bert_jax.pretraining import pretrain

    config = small_config(phases=small_config().phases[:1], save_every=8)
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, json.dumps(to_dict(config))]
    done = subprocess.run([*command, prepared.data, tmp_path / "plain"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "plain iterator (tensorflow is not installed)" in done.stderr
    pretrain(config, prepared.data, tmp_path / "tf", resume_command="")
    plain, tf_data = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("plain", "tf"))
    assert len(plain) == len(tf_data) > 3
    for one, other in zip(map(json.loads, plain), map(json.loads, tf_data), strict=True):
        scores = [name for name in one if "second" not in name]
        assert {name: one[name] for name in scores} == {name: other[name] for name in scores}
