# SPDX-License-Identifier: Apache-2.0
"""Made-up text is text that the data path takes, and its batches hold what benchmarks say they do."""

import itertools

import jax
import numpy as np
import pytest

from bert_jax.bench.made_up import (
    draw_documents,
    draw_lengths,
    FIRST_WORD,
    made_up_arrangement,
    made_up_examples,
    SPECIAL,
    TOPIC_WORDS,
    unigram_entropy,
    work_of,
)
from bert_jax.bench.suite import make_case
from bert_jax.config.description import ModelDescription
from bert_jax.config.model import ModelConfig
from bert_jax.config.objective import ObjectiveConfig, OBJECTIVES
from bert_jax.config.settings import load_config
from bert_jax.feed.batch import batch_spec, BatchShape
from bert_jax.train.masked_lm import batch_statistics


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_batches_are_of_the_shape_that_steps_are_compiled_for(packed, objective):
    case = make_case("case", "tiny", 8, 64, packed=packed, objective=ObjectiveConfig(objective, generator_share=0.5))
    batch = made_up_arrangement(case.config, 2).batch(0, 0)
    spec = batch_spec(case.shape)
    predictions = 64 if OBJECTIVES[objective].tokens == "ltr" else 10 + 4 * packed
    assert case.shape == BatchShape(8, 64, predictions, 4 if packed else 1)
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == spec


def test_fifteen_in_a_hundred_tokens_are_predicted_and_most_of_them_masked():
    case = make_case("case", "tiny", 256, 128)
    batch = made_up_arrangement(case.config, 1).batch(0, 0)
    work = work_of(batch)
    assert work.predictions / work.valid_tokens == pytest.approx(0.15, abs=0.005)
    shown = np.take_along_axis(batch["input_ids"], batch["masked_lm_positions"], axis=1)
    real = batch["masked_lm_weights"] > 0
    assert (shown[real] == SPECIAL.mask).mean() == pytest.approx(0.8, abs=0.02)


def test_lengths_at_512_are_those_of_wikipedia_in_mlperf():
    """Mean 254.2, mean square about 9.5e4; utilisation would be another number with other lengths."""
    lengths = draw_lengths(np.random.default_rng(0), 200_000, 512).astype(float)
    assert lengths.mean() == pytest.approx(254.2, rel=0.02)
    assert np.square(lengths).mean() == pytest.approx(9.5e4, rel=0.02)
    assert lengths.min() >= 5
    assert lengths.max() == 512


def test_packing_fills_the_rows():
    case = make_case("case", "tiny", 64, 512, packed=True)
    work = work_of(made_up_arrangement(case.config, 4).batch(0, 0))
    assert work.valid_tokens / work.slots > 0.9
    assert 1.5 < work.sequences / work.rows <= 4


def test_b_goes_on_with_the_topic_of_a_only_where_the_label_says_so():
    """Were it always or never so, nothing could be learnt from the pairs."""
    case = make_case("case", "tiny", 4, 64, model={"vocab_size": FIRST_WORD + 100 * TOPIC_WORDS})
    examples = made_up_examples(case.config, 500)
    shard = examples.split.shards[0]
    topics = (shard.tokens.astype(int) - FIRST_WORD) // TOPIC_WORDS
    a_start, _, b_start, _, label = shard.table("nsp", 64).T
    same = topics[a_start] == topics[b_start]
    assert same[label == 0].all()
    assert same[label == 1].mean() < 0.1
    assert 0.4 < label.mean() < 0.6


def test_words_follow_each_other_as_the_topic_has_it():
    """A word is followed by one of four others at most."""
    documents = draw_documents(np.random.default_rng(0), 50, 200, FIRST_WORD + TOPIC_WORDS)
    pairs = {(int(a), int(b)) for row in documents for a, b in itertools.pairwise(row)}
    assert len(pairs) <= 4 * TOPIC_WORDS
    assert documents.min() >= FIRST_WORD
    assert documents.max() < FIRST_WORD + TOPIC_WORDS


@pytest.mark.parametrize("packed", [False, True])
def test_work_is_what_the_train_step_counts(packed):
    batch = made_up_arrangement(make_case("case", "tiny", 8, 64, packed=packed).config, 2).batch(0, 0)
    counted = batch_statistics({name: jax.numpy.asarray(field) for name, field in batch.items()}, SPECIAL.mask)
    work = work_of(batch)
    assert work.sequences == counted["examples"]
    assert work.slots == counted["row_tokens"]
    assert work.valid_tokens == counted["valid_tokens"]
    assert work.squared_lengths == counted["squared_lengths"]


def test_flops_of_full_rows_are_the_published_figure():
    """BERT-base at 128 with 20 predictions: 6.99e10 a sequence."""
    rows, length = 3, 128
    number = np.ones((rows, length), int)
    weights = np.ones((rows, 20))
    work = work_of({"sequence_ids": number, "cls_positions": np.zeros((rows, 1)), "masked_lm_weights": weights})
    assert work.flops(ModelDescription(ModelConfig())) / rows == pytest.approx(6.99e10, rel=1e-3)
    model = load_config("electra_small").description  # whose generator computes too
    assert work.flops(model) > 1.05 * work.flops(ModelDescription(model.model))


def test_entropy_of_words():
    """ln of their number where all are alike, less where they are not."""
    case = make_case("case", "tiny", 4, 64, model={"vocab_size": FIRST_WORD + 4 * TOPIC_WORDS})
    examples = made_up_examples(case.config, 2_000)
    assert np.log(2 * TOPIC_WORDS) < unigram_entropy(examples) < np.log(4 * TOPIC_WORDS)
    tokens = examples.split.shards[0].tokens
    shares = np.unique(tokens, return_counts=True)[1] / tokens.size
    assert unigram_entropy(examples) == pytest.approx(np.log(1 / shares) @ shares)
