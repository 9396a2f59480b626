# SPDX-License-Identifier: Apache-2.0
"""Examples: pairs equal to the original's, draw by draw, and what every example must hold."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bert_jax.feed.instances import make_table
from bert_jax.feed.kinds import COLUMNS, IN_ORDER, IS_NEXT, KINDS, NOT_NEXT, special_tokens, SWAPPED

# Made by google-research/bert's own functions; the file says how. Numbers only.
GOLDEN = json.loads(Path(__file__).with_name("golden_instances.json").read_text(encoding="utf-8"))


def offsets(documents: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Sentence and document starts of documents that are given as sentence lengths."""
    lengths = [length for document in documents for length in document]
    sentences = [len(document) for document in documents]
    return np.cumsum([0, *lengths]), np.cumsum([0, *sentences])


def random_documents(seed: int, documents: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randint(1, 30) for _ in range(draw.randint(1, 12))] for _ in range(documents)]


def make_examples(*arguments: object, **options: float) -> np.ndarray:
    """Next-sentence pairs."""
    return make_table("nsp", *arguments, **options).examples


# ---- next sentence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"length{case['sequence_length']}")
def test_pairs_and_draws_are_those_of_the_original(case):
    """One draw more, fewer, or in another order changes the pairs, or what the generator gives next."""
    rng = random.Random(case["seed"])
    examples = make_examples(
        *offsets(case["documents"]), case["sequence_length"], rng, short_seq_prob=case["short_seq_prob"]
    )
    assert examples.dtype == np.int32
    assert examples.tolist() == case["examples"]
    assert rng.random() == case["next_draw"]


@pytest.mark.parametrize("documents", [2, 3, 20])
@pytest.mark.parametrize("sequence_length", [8, 32, 128])
def test_every_pair_fits_and_comes_from_where_its_label_says(documents, sequence_length):
    """0 = IsNext, B follows A in one document; 1 = NotNext, B is of another document."""
    for seed in range(20):
        sentence_starts, document_starts = offsets(random_documents(seed, documents))
        table = make_examples(sentence_starts, document_starts, sequence_length, random.Random(seed))
        a_start, a_length, b_start, b_length, label = table.T
        assert table.shape[1] == len(COLUMNS)
        assert (a_length >= 1).all()
        assert (b_length >= 1).all()
        assert (a_length + b_length <= sequence_length - 3).all()
        assert (b_start + b_length <= sentence_starts[-1]).all()
        borders = sentence_starts[document_starts]  # token offset of each document
        place = [np.searchsorted(borders, column, side="right") for column in (a_start, b_start)]
        ends = [a_start + a_length - 1, b_start + b_length - 1]
        for first, last in zip(place, ends, strict=True):
            assert (first == np.searchsorted(borders, last, side="right")).all(), "a half spans two documents"
        assert ((place[0] == place[1]) == (label == IS_NEXT)).all()
        assert (b_start[label == IS_NEXT] >= (a_start + a_length)[label == IS_NEXT]).all()


def test_is_next_means_that_b_begins_where_a_ends():
    """Documents that fit a row are not truncated, so A and B touch."""
    documents = [[4, 5, 6], [3, 3, 3, 3], [7, 8]]
    table = make_examples(*offsets(documents), 64, random.Random(0), short_seq_prob=0, random_next_prob=0)
    assert table[:, 4].tolist() == [IS_NEXT] * 3
    assert (table[:, 2] == table[:, 0] + table[:, 1]).all()
    assert (table[:, 1] + table[:, 3]).tolist() == [15, 12, 15]


def test_sentences_that_a_random_next_replaced_go_back():
    """With random next sentences only, the A halves cover the text once, without gap or overlap."""
    documents = [[3, 4, 5, 6, 7], [2, 2, 2], [9, 1, 1, 1]]
    sentence_starts, document_starts = offsets(documents)
    table = make_examples(sentence_starts, document_starts, 128, random.Random(3), short_seq_prob=0, random_next_prob=1)
    assert set(table[:, 4]) == {NOT_NEXT}
    assert table[0, 0] == 0
    assert (table[1:, 0] == table[:-1, 0] + table[:-1, 1]).all()
    assert table[-1, 0] + table[-1, 1] == sentence_starts[-1]


def test_a_single_sentence_is_not_next_without_a_draw():
    """The original asks for the number of sentences first: the draw is not made."""
    rng = random.Random(5)
    table = make_examples(*offsets([[4], [5]]), 16, rng, short_seq_prob=0, random_next_prob=0)
    assert table.tolist() == [[0, 4, 4, 5, NOT_NEXT], [4, 5, 0, 4, NOT_NEXT]]


def test_half_of_the_splittable_chunks_are_next():
    """50/50; 0.5 here and not at the other place would show as 0.25 or 0.75."""
    documents = [[5] * 400 for _ in range(10)]
    table = make_examples(*offsets(documents), 24, random.Random(1), short_seq_prob=0)
    assert len(table) > 1000
    assert 0.45 < (table[:, 4] == IS_NEXT).mean() < 0.55


def test_random_next_never_draws_its_own_document():
    """The original gives up after ten draws; this generator draws the own document fifteen times."""

    class Stubborn(random.Random):
        asked = 0

        def randrange(self, start: int, stop: int | None = None) -> int:
            if (start, stop) != (2, None):  # not the choice among two documents
                return super().randrange(start) if stop is None else super().randrange(start, stop)
            self.asked += 1
            return 0 if self.asked <= 15 else self.asked % 2

    rng = Stubborn(0)
    table = make_examples(*offsets([[4], [5]]), 16, rng, short_seq_prob=0)
    assert rng.asked >= 16
    assert table[0].tolist() == [0, 4, 4, 5, NOT_NEXT]


def test_the_only_document_of_a_shard_gives_its_own_other_sentences():
    """NotNext B is neither in A nor what follows A, and each such pair is counted."""
    for seed in range(30):
        starts, documents = offsets(random_documents(seed, 1))
        examples, negatives, unpaired = make_table("nsp", starts, documents, 16, random.Random(seed))
        label = examples[:, 4]
        assert negatives == (label == NOT_NEXT).sum()
        assert unpaired == (len(starts) == 2)
        for a_start, a_length, b_start, b_length, label in examples.tolist():
            a_end = a_start + a_length
            assert b_start + b_length <= starts[-1]
            assert b_start >= a_end or b_start + b_length <= a_start
            if label == NOT_NEXT and a_length + b_length < 13:  # not truncated
                assert b_start != a_end


def test_a_document_of_two_sentences_alone_is_next():
    table = make_table("nsp", *offsets([[4, 5]]), 64, random.Random(0), random_next_prob=1, short_seq_prob=0)
    assert table.examples.tolist() == [[0, 4, 4, 5, IS_NEXT]]
    assert table[1:] == (0, 0)


def test_a_document_of_one_sentence_alone_gives_nothing_and_is_counted():
    for kind in ("nsp", "sop"):
        table = make_table(kind, *offsets([[40]]), 16, random.Random(0))
        assert table.examples.shape == (0, 5)
        assert table.unpaired_documents == 1


def test_a_sentence_of_a_million_tokens_is_cut_as_often_at_the_front_as_at_the_back():
    """It is cut in one draw and not in a million; as many tokens go, half of them at the front (binomial)."""
    documents = [[1_000_000], *([[20, 20]] * 200)]
    table = make_examples(*offsets(documents), 64, random.Random(0), random_next_prob=1, short_seq_prob=0)
    assert (table[:, 1] + table[:, 3] <= 61).all()
    inside = table[(table[:, 2] < 1_000_000) & (table[:, 4] == NOT_NEXT), 2]  # B of the long sentence
    assert len(inside) > 0
    assert (abs(inside - 500_000) < 5_000).all()  # ten standard deviations


# ---- sentence order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence_length", [8, 32, 128])
def test_ordered_pairs_are_neighbours_of_one_document(sequence_length):
    """Not truncated, A and B touch: in the order of the text, or swapped."""
    for seed in range(20):
        starts, documents = offsets(random_documents(seed, 10))
        examples, _, unpaired = make_table("sop", starts, documents, sequence_length, random.Random(seed))
        assert unpaired == (np.diff(documents) == 1).sum()
        borders = starts[documents]
        for a_start, a_length, b_start, b_length, label in examples.tolist():
            first, second = sorted([(a_start, a_length), (b_start, b_length)])
            assert ((a_start, a_length) == first) == (label == IN_ORDER)
            assert np.searchsorted(borders, first[0], "right") == np.searchsorted(borders, sum(second) - 1, "right")
            assert a_length + b_length <= sequence_length - 3
            if a_length + b_length < sequence_length - 3:
                assert sum(first) == second[0]
                assert {first[0], second[0], sum(second)} <= set(starts.tolist())


def test_half_of_the_ordered_pairs_are_swapped():
    """ALBERT (1909.11942, section 3.1): the same two segments, swapped, are the negatives."""
    documents = [[5] * 400 for _ in range(20)]
    label = make_table("sop", *offsets(documents), 24, random.Random(1), short_seq_prob=0).examples[:, 4]
    assert len(label) > 1500
    assert 0.46 < (label == SWAPPED).mean() < 0.54


def test_a_sentence_left_over_is_paired_with_the_one_before_it():
    """ALBERT's code pairs it with another document; the two would not be in any order."""
    table = make_table("sop", *offsets([[10, 10, 10], [4, 4]]), 23, random.Random(0), short_seq_prob=0).examples
    pairs = [sorted([(a_start, a_length), (b_start, b_length)]) for a_start, a_length, b_start, b_length, _ in table]
    assert pairs == [[(0, 10), (10, 10)], [(10, 10), (20, 10)], [(30, 4), (34, 4)]]


# ---- whole sentences -------------------------------------------------------------------------------------------------


def packed_plainly(lengths: Sequence[int], longest: int) -> list[int]:
    """Row lengths of sentences packed one by one, as RoBERTa's paper says it (1907.11692, section 4.2)."""
    rows, filled = [], 0
    for length in lengths:
        while length > 0:  # pieces of a long sentence
            piece = min(length, longest)
            if filled + piece > longest:
                rows.append(filled)
                filled = 0
            filled += piece
            length -= piece
    return [*rows, filled]


@pytest.mark.parametrize("sequence_length", [8, 32, 128])
def test_full_sentences_fill_rows_across_documents(sequence_length):
    for seed in range(20):
        documents = random_documents(seed, 10)
        table = make_table("full_sentences", *offsets(documents), sequence_length, random.Random(0)).examples
        expected = packed_plainly([length for document in documents for length in document], sequence_length - 2)
        assert table[:, 1].tolist() == expected
        assert table[:, 0].tolist() == np.cumsum([0, *expected[:-1]]).tolist()
        assert not table[:, 2:].any()
        assert table.dtype == np.int32


@pytest.mark.parametrize("sequence_length", [8, 32, 128])
def test_document_rows_end_with_their_document(sequence_length):
    for seed in range(20):
        documents = random_documents(seed, 10)
        table = make_table("document", *offsets(documents), sequence_length, random.Random(0)).examples
        expected = [length for document in documents for length in packed_plainly(document, sequence_length - 2)]
        assert table[:, 1].tolist() == expected
        assert table[:, 0].tolist() == np.cumsum([0, *expected[:-1]]).tolist()


@pytest.mark.parametrize("kind", ["full_sentences", "document"])
def test_no_token_of_a_long_sentence_is_lost(kind):
    table = make_table(kind, *offsets([[1_000_003], [5]]), 128, random.Random(0)).examples
    assert table[:, 1].sum() == 1_000_008
    assert table[:, 1].max() == 126


# ---- all kinds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_fits_its_row(kind):
    assert special_tokens(kind) == (3 if kind in ("nsp", "sop") else 2)
    table = make_table(kind, *offsets(random_documents(3, 20)), 32, random.Random(0)).examples
    assert len(table) > 20
    assert (table[:, 1] + table[:, 3] + special_tokens(kind) <= 32).all()
    assert (table[:, 1] > 0).all()


@pytest.mark.parametrize(
    ("documents", "sequence_length", "message"),
    [
        ([[5, 0], [5]], 16, "without tokens"),
        ([[5], [], [5]], 16, "without sentences"),
        ([[5], [5]], 7, "less than 8"),
    ],
)
def test_offsets_that_cannot_be_are_refused(documents, sequence_length, message):
    for kind in KINDS:
        with pytest.raises(ValueError, match=message):
            make_table(kind, *offsets(documents), sequence_length, random.Random(0))
