# SPDX-License-Identifier: Apache-2.0
"""Statistics before the first step: right where masking is right, and a word where it is not."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import bert_jax.feed.examples
import bert_jax.feed.masking
from bert_jax.checks.first_batches import described, doubts, measure, word_counts, word_numbers
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.feed.batch import BatchShape
from bert_jax.feed.examples import EMPTY, Examples
from bert_jax.feed.layout import SpecialIds
from bert_jax.feed.packing import make_arrangement
from bert_jax.feed.shards import open_data

SIZE = 32


@pytest.fixture(scope="module")
def data(prepared):
    return open_data(prepared.data)


def arrange(data, objective: ObjectiveConfig, packing: str = "padded", split=None):
    """Rows of 32 tokens of the shared corpus."""
    tokenizer = data.load_tokenizer()
    special = SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id)
    examples = Examples(split or data.split("train"), BatchShape(1, SIZE, 12), objective, special, tokenizer.vocab_size)
    return make_arrangement(examples, packing, 32, examples_per_row=3, buckets=2)


def report_of(data, objective: ObjectiveConfig, seed: int = 0, **options):
    tokenizer = data.load_tokenizer()
    ids = {"mask_id": tokenizer.mask_id, "vocab_size": tokenizer.vocab_size}
    return measure(arrange(data, objective, **options), seed, 0.15, steps=30, seen=0, **ids)


def doubts_of(data, objective: ObjectiveConfig, **options) -> list[str]:
    return [finding.line() for finding in doubts(report_of(data, objective, **options), objective, 0.15)]


@pytest.mark.parametrize("masking", ["token", "whole_word", "span"])
@pytest.mark.parametrize("packing", ["padded", "packed", "buckets"])
def test_right_masks_raise_no_doubt(data, masking, packing):
    """Five seeds each, so that one false alarm in a hundred runs would likely be noticed."""
    objective = ObjectiveConfig("mlm_sop", masking=masking)
    assert [doubts_of(data, objective, seed=seed, packing=packing) for seed in range(5)] == [[]] * 5


def test_figures_are_those_of_a_plain_count(data):
    """Whole words of packed rows, counted again from the words' own texts."""
    objective = ObjectiveConfig("mlm_full_sentences", masking="whole_word")
    arrangement, report = arrange(data, objective, "packed"), report_of(data, objective, packing="packed")
    vocabulary = data.load_tokenizer().vocabulary
    tokens = words = long_words = picked = units = 0
    for step in range(report["batches"]):
        batch = arrangement.batch(0, step)
        for row in range(len(batch["input_ids"])):
            ids = batch["input_ids"][row].copy()
            real = batch["masked_lm_weights"][row] > 0
            ids[batch["masked_lm_positions"][row][real]] = batch["masked_lm_ids"][row][real]
            chosen = set(batch["masked_lm_positions"][row][real].tolist())
            text = [vocabulary[i] for i in ids[batch["sequence_ids"][row] > 0]]
            tokens += len(text)
            picked += len(chosen)
            # In this English corpus a piece that goes on a word begins with ##; rows begin sentences, so none is cut.
            pieces = [[place] for place, piece in enumerate(text) if not piece.startswith(("##", "["))]
            for place, piece in enumerate(text):
                if piece.startswith("##"):
                    next(word for word in reversed(pieces) if word[0] < place).append(place)
            words += len(pieces)
            long_words += sum(len(word) > 1 for word in pieces)
            units += sum(set(word) <= chosen for word in pieces)
            assert sum(len(word) for word in pieces if set(word) <= chosen) == len(chosen)
    assert report["valid_tokens"] == tokens
    assert report["picked"] == picked
    assert report["units"] == units
    assert report["long_word_share"] == long_words / words > 0.1
    assert report["whole_word_share"] == 1
    assert report["mean_unit_words"] == 1
    assert report["examples_per_row"] > 1


def test_words_of_packed_examples_by_hand():
    """Two shards; a row with two examples; a segment that begins in the middle of a word."""

    def shard(starts: list[int], table: list[list[int]]) -> SimpleNamespace:
        packed = np.packbits(np.isin(np.arange(10), starts), bitorder="little")
        return SimpleNamespace(word_starts=packed, table=lambda *_: np.array(table, np.int32))

    first = shard([0, 2, 3, 9], [[0, 4, 6, 3, 0]])  # A: 2, 1, 1 tokens; B: the rest of the word that 3 began
    second = shard([0, 1, 8], [[1, 2, 7, 2, 1]])  # A: one word; B: the end of it, and another
    split = SimpleNamespace(shards=[first, second])
    examples = Examples(split, BatchShape(1, 20, 4), ObjectiveConfig(), SpecialIds(1, 2, 3, 0), 50)  # type: ignore[arg-type]
    found = word_numbers(examples, np.array([[0, 1], [1, EMPTY]]), 20)
    assert found[0].tolist() == [0, 1, 1, 2, 3, 0, 4, 4, 4, 0, 0, 5, 5, 0, 6, 7, 0, 0, 0, 0]
    assert found[1].tolist() == [0, 8, 8, 0, 9, 10] + [0] * 14
    batch = {
        "masked_lm_positions": np.array([[1, 2, 3, 6], [1, 4, 0, 0]]),
        "masked_lm_weights": np.array([[1, 1, 1, 1], [1, 1, 0, 0]]),
    }
    # Words 1, 2 and 9 are whole: 4 tokens; 5 words are picked from; 4 of 10 words are long.
    assert word_counts(batch, found).tolist() == [4, 5, 4, 10]


def broken(monkeypatch, change) -> None:
    """Masking that follows another objective than the configured one."""
    right = bert_jax.feed.masking.mask_tokens
    monkeypatch.setattr(
        bert_jax.feed.examples,
        "mask_tokens",
        lambda tokens, wanted, objective, **ids: change(right, tokens, wanted, objective, ids),
    )


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.8, 0.2), (0.7, 0.1), (0.8, 0.13), (0.0, 0.0)])
def test_a_wrong_split_is_named(data, monkeypatch, shares):
    """80/10/10 is configured, something else is fed."""
    wrong = ObjectiveConfig(mask_share=shares[0], random_share=shares[1])
    broken(monkeypatch, lambda right, tokens, wanted, objective, ids: right(tokens, wanted, wrong, **ids))
    found = doubts_of(data, ObjectiveConfig("mlm_sop"))
    assert len(found) == 1
    seen = re.search(
        r"\[MASK\]/random/kept (.*) %, not 80.1/9.8/10.1 % as configured \(p = \S+\): masking is", found[0]
    )
    assert seen is not None
    measured = [float(part) for part in seen[1].split("/")]
    assert measured == pytest.approx([100 * shares[0], 100 * shares[1], 100 * (1 - sum(shares))], abs=1.5)


def test_a_split_without_random_tokens_is_right_where_it_is_configured(data, monkeypatch):
    """100/0/0 as configured is no fault, and one random token among them is."""
    objective = ObjectiveConfig("mlm_sop", mask_share=1.0, random_share=0.0)
    assert doubts_of(data, objective) == []
    broken(
        monkeypatch,
        lambda right, tokens, wanted, objective, ids: right(tokens, wanted, replace(objective, mask_share=0.99), **ids),
    )
    assert len(doubts_of(data, objective)) == 1


def test_a_collator_that_shows_the_wrong_tokens_is_named(data, monkeypatch):
    """The draws are right, but the row is put together without them: the arrays that the model gets are measured."""

    def unmasked(self, *arguments):
        batch, masks = masked_batch(self, *arguments)
        rows, slots = np.nonzero(batch["masked_lm_weights"])
        batch["input_ids"][rows, batch["masked_lm_positions"][rows, slots]] = batch["masked_lm_ids"][rows, slots]
        return batch, masks

    masked_batch = Examples.masked_batch
    monkeypatch.setattr(Examples, "masked_batch", unmasked)
    assert "shown as [MASK]/random/kept 0.0/0.0/100.0 %" in doubts_of(data, ObjectiveConfig("mlm_sop"))[0]


def test_whole_words_that_are_picked_in_part_are_named(data, monkeypatch):
    """Whole words are configured, tokens are masked."""
    objective = ObjectiveConfig("mlm_sop", masking="whole_word")

    def by_token(right, tokens, wanted, objective, ids):
        masks = right(tokens, wanted, replace(objective, masking="token"), **ids)
        return masks._replace(unit_lengths=np.array([2] + [1] * (len(masks.picked) - 2)))

    broken(monkeypatch, by_token)
    found = doubts_of(data, objective)
    assert len(found) == 1
    assert "of the picked tokens belong to words that are picked in part: masking is broken" in found[0]


@pytest.mark.parametrize("masking", ["whole_word", "span"])
def test_words_of_one_token_each_are_named(data, masking):
    """Chinese without a segmenter: every character is a word, so whole-word masking is masking by token."""
    train = data.split("train")
    shards = tuple(replace(shard, word_starts=np.full_like(shard.word_starts, 255)) for shard in train.shards)
    objective = ObjectiveConfig("mlm_sop", masking=masking, longest_span=1)
    found = doubts_of(data, objective, split=replace(train, shards=shards))
    assert len(found) == 1
    assert f"objective.masking={masking} picks single tokens only" in found[0]
    assert "--segmenter jieba" in found[0]
    assert doubts_of(data, ObjectiveConfig("mlm_sop"), split=replace(train, shards=shards)) == []


def test_too_few_and_too_many_picked_tokens_are_named(data):
    report = report_of(data, ObjectiveConfig("mlm_sop"))
    assert doubts(report, ObjectiveConfig("mlm_sop"), 0.15) == []
    for configured in (0.1, 0.3):
        found = [finding.line() for finding in doubts(report, ObjectiveConfig("mlm_sop"), configured)]
        assert len(found) == 1
        assert f"of the tokens are picked, {configured:.1%} are configured" in found[0]


@pytest.mark.parametrize(("label", "words"), [(1, "0.0% of the pairs are in order, 100.0% swapped"), (0, "100.0% of")])
def test_labels_that_are_all_the_same_are_named(data, monkeypatch, label, words):
    """All pairs have one label, and accuracy goes to 1 with nothing learned."""
    table = type(data.split("train").shards[0]).table
    constant = np.array([1, 1, 1, 1, 0]), np.array([0, 0, 0, 0, label])
    monkeypatch.setattr(
        "bert_jax.feed.shards.Shard.table", lambda self, *name: table(self, *name) * constant[0] + constant[1]
    )
    found = doubts_of(data, ObjectiveConfig("mlm_sop"))
    assert len(found) == 1
    assert words in found[0]
    assert doubts_of(data, ObjectiveConfig("mlm_pairs")) == [], "no label is predicted"


def test_pairs_without_labels_are_named(data):
    report = report_of(data, ObjectiveConfig("mlm_full_sentences"))
    assert report["is_next_share"] is None
    assert "no pair has a label" in doubts(report, ObjectiveConfig("mlm_nsp"), 0.15)[0].seen


def test_the_figures_in_words(data):
    objective = ObjectiveConfig("mlm_sop", masking="span")
    report = report_of(data, objective)
    lines = "\n".join(described(report, objective, 0.15))
    assert f"{report['picked']:,} picked tokens" in lines
    assert f"{report['picked_share']:.2%} of the tokens (15.00% configured), by span" in lines
    assert "expected [MASK] 80.1%, random 9.8%, kept 10.1%; chi-square p = " in lines
    assert f"{report['mean_unit_length']:.2f} tokens, {report['mean_unit_words']:.2f} words picked as one" in lines
    assert f"{report['is_next_share']:.1%} in order, the rest swapped" in lines
    assert report["mean_unit_words"] > 1.5
    alone = "\n".join(
        described(report_of(data, ObjectiveConfig("mlm_document")), ObjectiveConfig("mlm_document"), 0.15)
    )
    assert "picked as one" not in alone
    assert "pairs" not in alone


def test_it_reads_no_more_batches_than_the_phase_has(data):
    arrangement = arrange(data, ObjectiveConfig("mlm_sop"))
    ids = {"mask_id": 4, "vocab_size": 104}
    assert measure(arrangement, 0, 0.15, steps=2, seen=0, **ids)["batches"] == 2
    assert measure(arrangement, 0, 0.15, steps=2, seen=64, **ids) != measure(
        arrangement, 0, 0.15, steps=2, seen=0, **ids
    )
