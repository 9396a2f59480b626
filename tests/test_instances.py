# SPDX-License-Identifier: Apache-2.0
"""Sentence pairs: equal to the original's, draw by draw, and what every pair must hold. Rows S16, X1."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bert_jax.data.instances import COLUMNS, IS_NEXT, make_examples, NOT_NEXT

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
    """Row X1: 0 = IsNext, B follows A in one document; 1 = NotNext, B is of another document."""
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
    """Row S16. Documents that fit a row are not truncated, so A and B touch."""
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
    """Row S16: 50/50; 0.5 here and not at the other place would show as 0.25 or 0.75."""
    documents = [[5] * 400 for _ in range(10)]
    table = make_examples(*offsets(documents), 24, random.Random(1), short_seq_prob=0)
    assert len(table) > 1000
    assert 0.45 < (table[:, 4] == IS_NEXT).mean() < 0.55


def test_random_next_never_draws_its_own_document():
    """The original gives up after ten draws; this generator draws the own document fifteen times."""

    class Stubborn(random.Random):
        asked = 0

        def randint(self, a: int, b: int) -> int:
            if (a, b) != (0, 1):  # not the choice among two documents
                return super().randint(a, b)
            self.asked += 1
            return 0 if self.asked <= 15 else self.asked % 2

    rng = Stubborn(0)
    table = make_examples(*offsets([[4], [5]]), 16, rng, short_seq_prob=0)
    assert rng.asked >= 16
    assert table[0].tolist() == [0, 4, 4, 5, NOT_NEXT]


@pytest.mark.parametrize(
    ("documents", "sequence_length", "message"),
    [
        ([[5, 5]], 16, "two documents"),
        ([[5, 0], [5]], 16, "without tokens"),
        ([[5], [], [5]], 16, "without sentences"),
        ([[5], [5]], 7, "less than 8"),
    ],
)
def test_what_cannot_be_paired_is_refused(documents, sequence_length, message):
    with pytest.raises(ValueError, match=message):
        make_examples(*offsets(documents), sequence_length, random.Random(0))
