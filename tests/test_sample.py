# SPDX-License-Identifier: Apache-2.0
"""An even sample of text in bounded memory, and the record of what was read."""

import hashlib

from bert_jax.text.documents import ReadingOptions
from bert_jax.text.sample import described, EvenSample, read_sample
from bert_jax.text.sources import parse_sources


def test_everything_is_kept_while_there_is_room():
    sample = EvenSample(10)
    for text in ("ab", "cd", "efghij"):
        sample.add(text)
    assert (sample.texts, sample.count, sample.stride, sample.characters) == (["ab", "cd", "efghij"], 3, 1, 10)
    assert sample.thinned(2) == (["ab", "cd", "efghij"], "all of them")


def test_sample_is_even_whatever_the_length():
    """1 of every stride texts from the first on; never more characters than allowed."""
    for number in range(1, 300):
        sample = EvenSample(50)
        for index in range(number):
            sample.add(f"{index:03}")
            assert sum(map(len, sample.texts)) == sample.characters <= 50
        assert sample.texts == [f"{index:03}" for index in range(0, number, sample.stride)]
        assert sample.count == number
        texts, share = sample.thinned(3)
        assert len(texts) < 6
        step = 1 if share == "all of them" else int(share.removeprefix("1 of every "))
        assert texts == [f"{index:03}" for index in range(0, number, step)]


def test_one_text_is_kept_however_long():
    sample = EvenSample(3)
    sample.add("abcdef")
    assert sample.texts == ["abcdef"]


def test_reading_goes_once_over_each_pass_and_hashes(tmp_path):
    """A source of weight 2 counts twice; the record has the hashes of the files as stored."""
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("A b.\nC d.\n\nE f.\n")
    two.write_text("G h.\n\n\x01\n")
    sources = parse_sources([f"{one}@2", str(two)])
    sample, record = read_sample(sources, ReadingOptions(), 1000)
    assert sample.texts == ["A b.", "C d.", "E f."] * 2 + ["G h."]
    assert record["sentences"] == 7
    assert record["learned_from"] == {"sentences": 7, "one_of_every": 1, "characters": 28}
    assert record["reading"]["control_lines"] == 1
    for entry, plain, file in zip(record["sources"], described(sources), (one, two), strict=True):
        assert entry["files"][0]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert entry["files"][0] | plain["files"][0] == entry["files"][0]
    assert [entry["weight"] for entry in record["sources"]] == [2, 1]
