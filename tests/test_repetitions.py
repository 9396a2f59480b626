# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import numpy as np
import pytest

from bert_jax.text.repetitions import hash_of, Occurrences, RepeatedLines, Repetitions, shortened


def digests(texts):
    return b"".join(hash_of(text.encode()) for text in texts)


def number(text):
    return int.from_bytes(hash_of(text.encode()), "little")


def drawn(size, kinds, seed=0):
    return [f"line {place}" for place in np.random.default_rng(seed).integers(0, kinds, size)]


def test_hash_is_that_of_b2sum():
    """Not Python's hash(), which differs from process to process: printf 'the cat' | b2sum -l 64."""
    assert hash_of(b"the cat").hex() == "d8cb1deb7a9c392a"


@pytest.mark.parametrize("batches", [1, 7, 100])
def test_occurrences_count_as_a_counter_does(batches):
    lines = drawn(5_000, 1_500)
    counter, occurrences, seen = Counter(lines), Occurrences(), {}
    for batch in np.array_split(np.array(lines), batches):
        for place, hashed, times in occurrences.add(digests(batch.tolist())):
            assert number(str(batch[place])) == hashed
            seen[hashed] = times
    assert occurrences.summary() == {"count": 5_000, "different": len(counter)}
    assert seen == {number(line): times for line, times in counter.items() if times > 1}
    assert occurrences.different().tolist() == sorted(map(number, counter))


def test_nothing_added_is_nothing():
    occurrences = Occurrences()
    assert occurrences.add(b"") == []
    assert occurrences.summary() == {"count": 0, "different": 0}
    assert Repetitions().result() == {"count": 0, "repeated": 0, "repeated_share": 0.0, "compared": 1.0}


def repetitions_of(chunks, bits, most=10**6):
    together = Repetitions(most)
    for chunk in chunks:
        occurrences = Occurrences()
        occurrences.add(digests(chunk))
        together.add(occurrences.summary(), occurrences.sample(bits), bits)
    return together.result()


def test_repetitions_inside_and_across_chunks_are_exact_without_sampling():
    lines = drawn(6_000, 4_000)
    chunks = np.array_split(np.array(lines), 9)
    result = repetitions_of([chunk.tolist() for chunk in chunks], bits=0)
    assert result["repeated"] == len(lines) - len(set(lines))
    assert result["compared"] == 1


@pytest.mark.parametrize(("bits", "most"), [(3, 10**6), (0, 3_000)])
def test_a_sample_estimates_repetitions_across_chunks(bits, most):
    """Sampled by the chunks, or thinned because memory is bounded; within five standard errors of the truth."""
    lines = drawn(40_000, 40_000)
    chunks = [chunk.tolist() for chunk in np.array_split(np.array(lines), 4)]
    truth = len(lines) - len(set(lines))
    result = repetitions_of(chunks, bits, most)
    scale = 1 / result["compared"]
    assert scale > 1
    assert abs(result["repeated"] - truth) < 5 * (scale * truth) ** 0.5
    assert result["repeated"] != truth


def test_chunks_of_different_samples_are_compared_on_the_smaller_one():
    lines = drawn(20_000, 15_000)
    together = Repetitions()
    for bits, half in zip((1, 4), (lines[:10_000], lines[10_000:]), strict=True):
        occurrences = Occurrences()
        occurrences.add(digests(half))
        together.add(occurrences.summary(), occurrences.sample(bits), bits)
    assert together.result()["compared"] == 1 / 16


def test_rare_lines_are_let_go_and_common_ones_kept():
    lines = RepeatedLines(most=10)
    for place in range(1_000):
        lines.add(place, 2, f"rare {place}")
        lines.add(10**6, 3, "common")
    assert lines.top(1) == [(10**6, 3_000, "common")]
    assert len(lines.top(1_000)) <= 20


def test_long_lines_are_shortened_visibly():
    assert shortened("a" * 160) == "a" * 160
    assert shortened("a" * 161) == "a" * 159 + "…"
