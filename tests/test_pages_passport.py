# SPDX-License-Identifier: Apache-2.0
"""The passport's page: what is on it comes from passport.json, and it stands alone."""

import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import Prepared
from made_up_runs import example_table, passport, split

from bert_jax.errors import UserError
from bert_jax.feed.shards import MANIFEST
from bert_jax.pages.passport import write_page
from bert_jax.pages.passport_charts import length_chart

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """The text of a page, and whether its tags close."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.words: list[str] = []
        self.loaded: list[str] = []
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.loaded += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]

    def handle_startendtag(self, tag, attributes):
        """Of SVG."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if not self.open or self.open[-1] != "style":
            self.words.append(text)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def page_of(directory: Path, spoil=lambda made: None) -> Page:
    (directory / MANIFEST).write_text(json.dumps(passport(spoil)), encoding="utf-8")
    return Page(write_page(directory))


def test_page_stands_alone(tmp_path):
    page = page_of(tmp_path)
    assert page.loaded == []
    assert "<script" not in page.source
    assert "url(" not in page.source.replace("url(#", "")
    assert [path.name for path in tmp_path.iterdir() if "html" in path.name] == ["passport.html"]


@pytest.mark.parametrize(
    "words",
    [
        "nothing suspicious",
        "CC BY-SA 3.0",
        "WordPiece, 30,522 entries, abababababab",
        "63.0 M",  # tokens
        "wiki_00",
        "d" * 64,  # sha256 of the file
        "2014-05-13 16:53 UTC",  # when it was changed
        "Latin 99.96 %",
        "Greek 90,000",
        "50,000, counted exactly",
        "History. 4,000 times 0.16 %",
        "<b>References</b>",  # as text
        "IsNext 49.0 %, NotNext 51.0 %",
        "next sentence: 0 = IsNext, 1 = NotNext",
        "6,000 (0.010 %)",  # [UNK]
        "7.200 nats",
        "80.00 % of 80.0 % expected",
        "χ² = 1.83, p = 0.4",
        "Not measured: prepare with --evaluation-data FILE...",
        "--random-next-prob 0.5",
    ],
)
def test_what_is_on_the_page(tmp_path_factory, words):
    """The label's polarity in words; masks against 80/10/10."""
    assert words in page_of(tmp_path_factory.mktemp("data")).text


def test_charts_are_drawn_for_lengths_and_every_table(tmp_path):
    source = page_of(tmp_path).source
    for label in ("Lengths of sentences", "Lengths of documents", "rows of 128 tokens", "rows of 512 tokens"):
        assert re.search(rf'<svg [^>]*aria-label="[^"]*{label}', source), label


def test_findings_stand_on_top_problems_first(tmp_path):
    def spoil(made):
        made["vocab_size"] = 100
        made["text"]["sentences"]["repeated_share"] = 0.5

    page = page_of(tmp_path, spoil)
    places = [page.text.index(words) for words in ("50.0% of the sentences", "only 100 entries", "bert-jax doctor")]
    assert places == sorted(places)
    assert places[-1] < page.text.index("Unigram entropy")
    assert "2 findings" in page.text
    assert "nothing suspicious" not in page.text


def test_contamination_is_shown_with_examples(tmp_path):
    file = {
        "file": "squad/dev.json", "bytes": 1, "sha256": "0", "ngram_words": 13, "ngrams": 90_000, "found_ngrams": 5_574,
        "found_share": 0.0619, "texts": 5_281, "texts_with_found": 72, "short_texts": 52_698, "examples": ["the <apollo>"],
    }  # fmt: skip
    text = page_of(tmp_path, lambda made: made.update(contamination=[file])).text
    assert "squad/dev.json 5,281 52,698 72 (1.4 %) 5,574 of 90,000 (6.19 %)" in text
    assert "the <apollo>" in text


def test_a_language_is_named_only_where_its_script_has_one(tmp_path):
    def japanese(made):
        made["text"]["scripts"] = {"Han": 500, "Kana": 400, "Thai": 100}

    text = page_of(tmp_path, japanese).text
    assert "40.0 % of the letters are Kana, so there is Japanese text." in text
    assert "there is Thai" not in text
    assert "there is Chinese" not in text


def test_sentence_order_and_whole_sentences(tmp_path):
    def spoil(made):
        tables = [example_table("sop", 128, 1_000), example_table("full_sentences", 128, 2_000)]
        made["kinds"] = ["sop", "full_sentences"]
        made["splits"] = {"train": split(1_000, tables)}

    text = page_of(tmp_path, spoil).text
    assert "in order 50.0 %, swapped 50.0 %" in text
    assert "sentence order: 0 = in order, 1 = swapped" in text
    assert "next sentence: 0" not in text


def test_rows_that_are_no_multiple_of_the_bins_are_drawn(tmp_path):
    def spoil(made):
        made["splits"]["train"]["tables"] = {"nsp_100": example_table("nsp", 100, 1_000)}

    assert "rows of 100 tokens" in page_of(tmp_path, spoil).source


def test_area_of_a_length_chart_is_the_share():
    """Bars of different width stand for shares by their area: a uniform spread over octaves is flat."""
    octave = [12 * math.log2(end / begin) for begin, end in pairwise([8, 10, 12, 14, 16])]
    counts = [0, 12, 0, 0, 0, 0, 0, 0, *octave]  # one token, and 8 to 15
    histogram = {"mean": 4.0, "longest": 15, "bins": [*range(9), 10, 12, 14], "counts": counts}
    one = re.findall(r'<path d="(M[^"]*)"[^>]*fill: var\(--training\)', length_chart(histogram, "a", "sentence"))
    heights = {float(y) for path in one for y in re.findall(r"[ML] \S+ (\S+)", path)}
    assert len(heights) == 2  # the axis, and one height of both bars


def test_page_of_a_real_preparation(prepared: Prepared, tmp_path):
    (tmp_path / MANIFEST).write_bytes((prepared.data / MANIFEST).read_bytes())
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((prepared.data / name).read_bytes())
    text = Page(write_page(tmp_path)).text
    manifest = json.loads((prepared.data / MANIFEST).read_text())
    assert f"{manifest['splits']['train']['tokens']:,}" in text
    assert "“the” (" in text  # the commonest token, from the vocabulary
    assert "the vocabulary has only" in text


def test_a_vocabulary_that_is_given_is_not_read_again(prepared: Prepared, tmp_path, monkeypatch):
    (tmp_path / MANIFEST).write_bytes((prepared.data / MANIFEST).read_bytes())
    monkeypatch.setattr("bert_jax.pages.passport.load_tokenizer", lambda path: pytest.fail("it was read"))
    place = json.loads((prepared.data / MANIFEST).read_text())["splits"]["train"]["commonest_token"]
    assert "“given” (" in Page(write_page(tmp_path, ["other"] * place + ["given"])).text
    assert f"“id {place}” (" in Page(write_page(tmp_path, [])).text


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        write_page(tmp_path)
    assert list(tmp_path.iterdir()) == []
