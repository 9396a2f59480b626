# SPDX-License-Identifier: Apache-2.0
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
from conftest import real_data

from bert_jax.text.mark_counts import MarkCounts
from bert_jax.text.statistics import BIN_STARTS, LengthHistogram, merge_statistics, sample_bits, TextStatistics


def made_up(documents, seed=0):
    rng = np.random.default_rng(seed)
    words = ["the", "ship", "Ωmega", "中文", "was", "1912"]
    return [
        [" ".join(rng.choice(words, rng.integers(1, 4))) for _ in range(rng.integers(1, 9))] for _ in range(documents)
    ]


def lengths_of(document):
    return np.array([len(sentence.split()) for sentence in document])


def merged_marks(chunks):
    return json.loads(json.dumps(merged(chunks, marks=lambda: MarkCounts(lowercase=True))["marks"]))


def merged(chunks, bits=0, marks=lambda: None):
    records = []
    for chunk in chunks:
        statistics = TextStatistics(bits, marks())
        for document in chunk:
            statistics.add_document(document, lengths_of(document))
        record, arrays = statistics.record()
        records.append((json.loads(json.dumps(record)), arrays))
    return merge_statistics(records)


def test_statistics_are_those_of_a_plain_count():
    documents = made_up(400)
    text = merged([documents])
    sentences = [sentence for document in documents for sentence in document]
    counter = Counter(sentences)
    assert text["characters"] == sum(map(len, sentences))
    assert text["tokens"] == sum(len(sentence.split()) for sentence in sentences)
    assert text["scripts"]["Han"] == sum(s.count("中") + s.count("文") for s in sentences)
    assert text["scripts"]["Greek"] == sum(s.count("Ω") for s in sentences)
    assert text["other_characters"]["numbers"] == 4 * sum(s.count("1912") for s in sentences)
    assert text["sentences"]["count"] == len(sentences)
    assert text["sentences"]["repeated"] == len(sentences) - len(counter)
    assert text["documents"]["repeated"] == 400 - len(set(map(tuple, documents)))
    assert text["documents"]["repeated"] > 0
    told = [(line["text"], line["times"]) for line in text["repeated_lines"]]
    assert told == sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:10]


def test_words_that_become_equal_are_counted_across_chunks():
    """Each chunk has one of them only; words are of a sample, which here is all of the text."""
    chunks = [[["cafe au lait", "lait"]], [["café Café"], ["maß मै"]], [["मे मै"]]]
    marks = merged_marks(chunks)
    assert (marks["words"], marks["marked"]) == (10, 5)
    assert (marks["distinct"], marks["forms"]) == (7, 5)  # cafe café au lait maß मै मे
    assert marks["examples"] == [["मे", "मै"]]
    assert (
        merged_marks([[chunk for document in chunks for chunk in document]]) | {"examples": marks["examples"]} == marks
    )
    assert merged([[["café cafe"]]])["marks"] is None  # nothing is stripped


def test_lengths_are_counted_in_tokens():
    documents = made_up(300)
    text = merged([documents])
    lengths = np.concatenate(list(map(lengths_of, documents)))
    histogram = text["tokens_per_sentence"]
    assert histogram["mean"] == pytest.approx(lengths.mean())
    assert histogram["longest"] == lengths.max()
    assert dict(zip(histogram["bins"], histogram["counts"], strict=True)) == {
        length: int((lengths == length).sum()) for length in range(lengths.max() + 1)
    }
    totals = [lengths_of(document).sum() for document in documents]
    assert text["tokens_per_document"]["mean"] == pytest.approx(np.mean(totals))
    assert sum(text["tokens_per_document"]["counts"]) == 300


@pytest.mark.parametrize("chunks", [2, 17])
def test_chunks_add_up_to_the_whole(chunks):
    documents = made_up(400)
    parts = [documents[place::chunks] for place in range(chunks)]
    whole, together = merged([documents]), merged(parts)
    assert {name: together[name] for name in whole if name != "repeated_lines"} == {
        name: whole[name] for name in whole if name != "repeated_lines"
    }


def test_a_line_in_every_chunk_is_named_with_how_often_it_is_there_at_least():
    chunks = [[["all rights kept", *(f"sentence {c} {d}" for d in range(5))]] * 3 for c in range(20)]
    first = merged(chunks)["repeated_lines"][0]
    assert (first["text"], first["times"]) == ("all rights kept", 60)


def test_empty_chunk_and_no_chunk():
    for text in (merged([[]]), merged([])):
        assert (text["characters"], text["sentences"]["count"], text["scripts"]) == (0, 0, {})
        assert text["tokens_per_sentence"]["longest"] == 0


def test_sentences_and_lengths_must_agree():
    with pytest.raises(ValueError, match="2 sentences, but the lengths of 1"):
        TextStatistics().add_document(["a", "b"], np.array([1]))


def test_a_document_of_one_huge_line_is_counted_whole():
    line = "a中" * 1_500_000
    text = merged([[[line, line]]])
    assert text["scripts"] == {"Latin": 3_000_000, "Han": 3_000_000}
    assert text["sentences"]["repeated"] == 1
    assert len(text["repeated_lines"][0]["text"]) < 200


def test_bins_tell_every_short_length_apart_and_long_ones_to_a_quarter():
    assert BIN_STARTS[:13] == (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
    ratios = np.divide(BIN_STARTS[5:], BIN_STARTS[4:-1])
    assert ratios.max() <= 1.25
    assert BIN_STARTS[-1] > 10**8


def test_half_of_the_lengths_are_at_least_the_median():
    lengths = LengthHistogram()
    lengths.add(np.array([1, 2, 3, 4, 100]))
    assert lengths.as_histogram()["median_at_least"] == 3


def test_sample_follows_the_size_of_the_input():
    """4 million hashes at most are compared, guessing 50 bytes a sentence."""
    assert sample_bits(0) == sample_bits(100_000_000) == 0
    assert sample_bits(20_000_000_000) == 7
    assert all(sample_bits(2 * size) <= sample_bits(size) + 1 for size in (10**8, 10**9, 10**12))


def test_wikipedia():
    """A real text. English Wikipedia has hardly a repeated document, and headings for repeated lines."""
    archive = real_data("wikipedia-en/AA.tar.xz")
    with tarfile.open(archive, "r|xz") as members:
        member = next(member for member in members if member.isfile())
        content = members.extractfile(member).read().decode()
    documents = [
        [line for line in part.split("\n") if line and not line.startswith("<doc")] for part in content.split("</doc>")
    ]
    documents = [document for document in documents if document]
    text = merged([documents])
    assert text["scripts"]["Latin"] > 0.99 * sum(text["scripts"].values())
    assert text["documents"]["repeated"] == 0
    assert 0 < text["sentences"]["repeated_share"] < 0.1
    assert "History." in [line["text"] for line in text["repeated_lines"]]
