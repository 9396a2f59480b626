# SPDX-License-Identifier: Apache-2.0
"""Splitting paragraphs into sentences."""

import itertools
import sys

import pytest
from conftest import real_data

from bert_jax.base.errors import UserError
from bert_jax.text.documents import read_raw, ReadingCounts, ReadingOptions
from bert_jax.text.sentences import load_splitter, split_sentences

# The sentences of a row, joined, must come apart again.
ENGLISH = [
    ["It rained.", "We stayed in!", "Did you?", "Yes…", "Well... no.", "What?!", "3 came."],
    ["Mr. Grey met Dr. and Mrs. Lund, e.g. at St. Olaf, i.e. often.", "Prof. Ek vs. A. B. Holm et al. Lund."],
    [
        "It grew by 3.5 percent, see p. 12 and Fig. 3 of vol. 2.",
        "Version 2.0.1 came out on Jan. 5 this year.",
    ],
    ['"Stop!" he said.', '"I will not."', "(Nobody heard.)", "“Good.”", "‘Odd’ it was."],
    ["He said: no.", "¿Qué?", "Écoute.", "Ändern wir das.", "Это всё.", "Да?"],
    ["He said “Stop! ” to them.", "[ It was 3 a.m. ] Then they went."],
    ["Use 1. and 2. in lists, etc., and go on.", "See example.com or a.b.c for more."],
]


@pytest.mark.parametrize("sentences", ENGLISH, ids=[ascii(row[0][:20]) for row in ENGLISH])
def test_sentences_with_spaces(sentences):
    assert split_sentences(" ".join(sentences)) == sentences


def test_abbreviations_at_the_end_of_a_sentence():
    """After U.S., Ph.D. or an initial a sentence ends where a word follows that often begins one."""
    assert split_sentences("They left the U.S. The ship did too.") == [
        "They left the U.S.",
        "The ship did too.",
    ]
    assert split_sentences("The U.S. Navy came.") == ["The U.S. Navy came."]
    assert split_sentences("Grey et al. The rest follows.") == ["Grey et al.", "The rest follows."]
    assert split_sentences("It was J. Smith of Smith Bros. Bakers.") == ["It was J. Smith of Smith Bros. Bakers."]
    assert split_sentences("It was J. Smith.") == ["It was J. Smith."]
    assert split_sentences("He read Henry V. It pleased him.") == ["He read Henry V.", "It pleased him."]


def test_list_numbers_stay_with_their_item():
    assert split_sentences("1. Introduction comes first. 2. Methods follow.") == [
        "1. Introduction comes first.",
        "2. Methods follow.",
    ]
    assert split_sentences("It was 1999. Then it ended.") == ["It was 1999.", "Then it ended."]


CLOSING = "。！？｡…”’」』）)》\"'."

CHINESE = [
    ["天黑了。", "我们回家吧！", "你来吗？", "好"],
    ["他说：“走吧。”", "然后他走了。"],
    ["她问：“为什么？”，没有人回答。", "（完。）", "结束了！！"],
    ["圆周率是3.14。", "U.S.是缩写。"],
    ["子曰：「學而時習之，不亦說乎？", "有朋自遠方來，不亦樂乎？」", "他說『好。』」", "完了。……", "後來呢？"],
    ['他说："走吧。"', "然后他走了。", '"浦"一词原指河川。', '"再见！"'],
    ["問題等等。.", "以下列出。"],
]


NUMBERS_AND_INITIALS = [
    ["Smith et al. (2004) found no effect.", "Jones et al. 1995 did."],
    ["He read A. A. Milne to I. I. Rabi.", "Both laughed."],
    ["The ratio fell to 0.6.", "Values above it are rare."],
    ["The case is 18 U.S. 245 of that year.", "It is cited often."],
    ["He paused . . . and left.", "Nobody followed."],
    ["The steps are as follows: 1. Mix the flour.", "Then add water."],
    ["The first was sold in 2007.", "iPhone sales rose.", "mRNA is another word."],
]


@pytest.mark.parametrize("sentences", NUMBERS_AND_INITIALS, ids=[row[0][:24] for row in NUMBERS_AND_INITIALS])
def test_full_stops_of_numbers_and_initials(sentences):
    assert split_sentences(" ".join(sentences)) == sentences


def test_a_library_splits_other_languages():
    """ "z. B." and "3." are German; the rules know English abbreviations only."""
    pytest.importorskip("sentencex")
    sentences = ["Am 3. Oktober kam Dr. Huber z. B. nach Bonn.", "Er blieb dort."]
    assert load_splitter("sentencex:de")(" ".join(sentences)) == sentences
    assert load_splitter("sentencex:de")("  ") == []
    assert load_splitter("rules") is split_sentences


@pytest.mark.parametrize("name", ["sentencex", "sentencex:", "sentencex:German", "punkt"])
def test_unknown_splitters_are_refused(name):
    with pytest.raises(UserError, match=f"--splitter {name} is not known: use rules, or sentencex:LANGUAGE"):
        load_splitter(name)


def test_a_splitter_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(UserError, match=r'pip install "bert-jax\[sentencex\]"'):
        load_splitter("sentencex:fr")


@pytest.mark.parametrize("sentences", CHINESE, ids=[ascii(row[0]) for row in CHINESE])
def test_chinese_sentences(sentences):
    """。！？ end a sentence without a space, with the quotes and brackets that close after them."""
    assert split_sentences("".join(sentences)) == sentences
    assert split_sentences(" ".join(sentences)) == sentences


def test_closing_marks_around_a_full_stop_belong_to_the_sentence():
    """Whatever their order; the abbreviation inside the brackets is not looked at then."""
    sentences = ['It is art in general...".', "Osborne said so (e.g. dogs, etc.).", "Bilge is a name.”)", "So it ends."]
    assert split_sentences(" ".join(sentences)) == sentences


def test_a_quotation_of_several_sentences_is_split_between_them():
    """The quotation marks stay with its first and last sentence; a short one goes on after a comma."""
    assert split_sentences("他说：“我不去。你去吧！”然后走了。") == ["他说：“我不去。", "你去吧！”", "然后走了。"]
    assert split_sentences("“我不去。”，他说。“你去！”") == ["“我不去。”，他说。", "“你去！”"]


def test_chinese_wikipedia_comes_apart_at_its_full_stops():
    """On real text: 。！？ stand at the ends of sentences alone, but for those that a comma follows."""
    file = real_data("zh/zhwiki_00")
    documents = list(read_raw(file, ReadingOptions(), ReadingCounts()))
    paragraphs = [line for document in documents for line in document.lines]
    sentences = [sentence for paragraph in paragraphs for sentence in split_sentences(paragraph)]
    assert "".join("".join(sentences).split()) == "".join("".join(paragraphs).split())
    assert len(sentences) > 7_000
    inside = [sentence for sentence in sentences if any(mark in sentence.rstrip(CLOSING) for mark in "。！？")]
    assert len(inside) < 0.01 * len(sentences)
    assert sum(sentence[-1] in CLOSING for sentence in sentences) > 0.95 * len(sentences)  # others: headings, lists
    later = [sentence for paragraph in paragraphs for sentence in split_sentences(paragraph)[1:]]
    assert not [sentence for sentence in later if sentence[0] in "。！？」』”’）》"]


def test_long_rows_of_marks_take_linear_time():
    """Each would take minutes if any of it were looked at again from every place in it."""
    for unit in (".", "Dr.\t", '。"', "a. ", "…。", '."', "? "):
        paragraph = unit * 200_000
        assert "".join("".join(split_sentences(paragraph)).split()) == "".join(paragraph.split())


def test_splitting_loses_nothing():
    """All characters but white space come back, in order, for every short mixture of the marks."""
    for parts in itertools.product(["A", "b", ". ", "。", '"', "? ", "5", "e.g. ", "\n", "…"], repeat=4):
        paragraph = "".join(parts)
        sentences = split_sentences(paragraph)
        assert "".join("".join(sentences).split()) == "".join(paragraph.split())
        assert all(sentence == sentence.strip() != "" for sentence in sentences)
    assert split_sentences("  ") == []
