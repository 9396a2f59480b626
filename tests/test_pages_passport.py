# SPDX-License-Identifier: Apache-2.0
"""The passport's page: what is on it comes from passport.json, and it stands alone."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import Prepared
from made_up_runs import example_table, near_duplicates, passport, split
from page_parts import Html, panels, parts, plain, rows, section, tiles

from bert_jax.base.errors import UserError
from bert_jax.feed.shards import MANIFEST, read_manifest
from bert_jax.pages.page import Page, Paragraph
from bert_jax.pages.passport import page_of as passport_page
from bert_jax.pages.passport import write_page
from bert_jax.pages.passport_charts import length_chart
from bert_jax.tokenization import load_tokenizer


def page_of(spoil=lambda made: None) -> Page:
    return passport_page(Path("my data"), passport(spoil), [])


def test_page_stands_alone(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps(passport()), encoding="utf-8")
    assert write_page(tmp_path) == tmp_path / "passport.html"
    assert [path.name for path in tmp_path.iterdir() if "html" in path.name] == ["passport.html"]
    assert Html(page_of()).stands_alone()


def test_what_is_on_the_page():
    """The label's polarity in words; masks against 80/10/10."""
    page = page_of()
    assert (page.status, page.findings) == ("nothing suspicious", [])
    assert dict(page.facts)["Licence"] == "CC BY-SA 3.0"
    assert dict(page.facts)["Tokenizer"] == "WordPiece, 30,522 entries, abababababab"
    assert tiles(page)["Tokens"][0] == "63.0\xa0M"
    assert tiles(page)["Repeated sentences"][2] == "50,000, counted exactly"
    found = rows(page)
    assert found["wiki_00"] == ["5,000,000", "2014-05-13 16:53 UTC", "d" * 64]
    assert found["Latin"] == ["99.96 %"]
    assert found["History."] == ["4,000 times", "0.16 %"]
    assert found["<b>References</b>"][0] == "2,000 times"
    assert found["Training, nsp"][2] == "IsNext 49.0 %, NotNext 51.0 %"
    assert found["[UNK]"] == ["6,000 (0.010 %)", "300 (0.010 %)"]
    assert found["Unigram entropy"] == ["7.200 nats"] * 2
    assert found["[MASK]"] == ["80.00 % of 80.0 % expected"]
    assert found["--random-next-prob"] == ["0.5"]
    text = Html(page).text
    for words in (
        "Greek 90,000",
        "next sentence: 0 = IsNext, 1 = NotNext",
        "χ² = 1.83, p = 0.4",
        "--evaluation-data FILE...",
    ):
        assert words in text


def test_charts_are_drawn_for_lengths_and_every_table():
    titles = ["Tokens in a sentence", "Tokens in a document", "nsp, rows of 128", "nsp, rows of 512"]
    assert list(panels(page_of())) == titles


def test_findings_stand_on_top_problems_first():
    def spoil(made):
        made["vocab_size"] = 100
        made["text"]["sentences"]["repeated_share"] = 0.5

    page = page_of(spoil)
    found = [(finding.severity, finding.subject) for finding in page.findings]
    assert found == [("problem", "Repeated lines"), ("warning", "Vocabulary"), ("note", "More")]
    assert page.findings[-1].command == "bert-jax doctor 'my data'"  # as a shell takes it
    assert (page.status, page.state) == ("2 findings", "problem")


def test_contamination_is_shown_with_examples():
    file = {
        "file": "squad/dev.json", "bytes": 1, "sha256": "0", "ngram_words": 13, "ngrams": 90_000, "found_ngrams": 5_574,
        "found_share": 0.0619, "texts": 5_281, "texts_with_found": 72, "short_texts": 52_698, "examples": ["the <apollo>"],
    }  # fmt: skip
    found = section(page_of(lambda made: made.update(contamination=[file])), "contamination")
    assert rows(found)["squad/dev.json"] == ["5,281", "52,698", "72 (1.4 %)", "5,574 of 90,000 (6.19 %)"]
    assert Paragraph("the <apollo>", "overlap") in list(parts(found))


def test_contamination_is_shown_by_source_where_there_are_several():
    file = {
        "file": "dev.json", "bytes": 1, "sha256": "0", "ngram_words": 13, "ngrams": 90, "found_ngrams": 9,
        "found_share": 0.1, "texts": 50, "texts_with_found": 7, "short_texts": 2, "examples": [],
        "sources": [
            {"source": "wiki", "found_ngrams": 8, "texts_with_found": 6},
            {"source": "web", "found_ngrams": 3, "texts_with_found": 2},
        ],
    }  # fmt: skip
    found = rows(section(page_of(lambda made: made.update(contamination=[file])), "contamination"))
    assert (found["dev.json in wiki"][-2:], found["dev.json in web"][-2:]) == (["6", "8"], ["2", "3"])


def test_near_duplicates_are_shown_by_source_with_examples():
    page = page_of(lambda made: made.update(near_duplicate_documents=near_duplicates(1_900)))
    found = rows(section(page, "text"))
    assert found["web"] == ["10,200", "10,000", "1,900", "5"]
    assert found["b.txt, document 7"] == ["a.txt, document 3", "0.93"]
    assert "Near-duplicates" not in Html(page_of()).text


def test_a_language_is_named_only_where_its_script_has_one():
    def japanese(made):
        made["text"]["scripts"] = {"Han": 500, "Kana": 400, "Thai": 100}

    words = [plain(part.words) for part in parts(page_of(japanese)) if isinstance(part, Paragraph)]
    assert [text for text in words if "there is" in text] == [
        "40.0 % of the letters are Kana, so there is Japanese text."
    ]


def test_sentence_order_and_whole_sentences():
    def spoil(made):
        tables = [example_table("sop", 128, 1_000), example_table("full_sentences", 128, 2_000)]
        made["kinds"] = ["sop", "full_sentences"]
        made["splits"] = {"train": split(1_000, tables)}

    page = page_of(spoil)
    assert rows(page)["Training, sop"][2] == "in order 50.0 %, swapped 50.0 %"
    text = Html(page).text
    assert "sentence order: 0 = in order, 1 = swapped" in text
    assert "next sentence: 0" not in text


def test_rows_that_are_no_multiple_of_the_bins_are_drawn():
    def spoil(made):
        made["splits"]["train"]["tables"] = {"nsp_100": example_table("nsp", 100, 1_000)}

    chart = panels(page_of(spoil))["nsp, rows of 100"].chart
    assert chart is not None
    assert chart.boxes[-1][:2] == (96, 100)
    assert sum(height for _, _, height in chart.boxes) == pytest.approx(1)


def test_area_of_a_length_chart_is_the_share():
    """Bars of different width stand for shares by their area: a uniform spread over octaves is flat."""
    octave = [12 * math.log2(end / begin) for begin, end in pairwise([8, 10, 12, 14, 16])]
    counts = [0, 12, 0, 0, 0, 0, 0, 0, *octave]  # one token, and 8 to 15
    histogram = {"mean": 4.0, "longest": 15, "bins": [*range(9), 10, 12, 14], "counts": counts}
    heights = [height for _, _, height in length_chart(histogram, "sentence").boxes if height]
    assert heights == pytest.approx([heights[0]] * 5)


def test_page_of_a_real_preparation(prepared: Prepared, tmp_path):
    (tmp_path / MANIFEST).write_bytes((prepared.data / MANIFEST).read_bytes())
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((prepared.data / name).read_bytes())
    assert write_page(tmp_path).is_file()
    page = passport_page(tmp_path, read_manifest(tmp_path), load_tokenizer(prepared.data).vocabulary)
    manifest = json.loads((prepared.data / MANIFEST).read_text())
    found = rows(page)
    assert found["Tokens"][0] == f"{manifest['splits']['train']['tokens']:,}"
    assert found["Commonest token"][0].startswith("“the” (")
    assert "Vocabulary" in [finding.subject for finding in page.findings]


def test_a_vocabulary_that_is_given_is_not_read_again(prepared: Prepared, tmp_path, monkeypatch):
    (tmp_path / MANIFEST).write_bytes((prepared.data / MANIFEST).read_bytes())
    monkeypatch.setattr("bert_jax.pages.passport.load_tokenizer", lambda path: pytest.fail("it was read"))
    place = json.loads((prepared.data / MANIFEST).read_text())["splits"]["train"]["commonest_token"]
    assert "“given” (" in write_page(tmp_path, ["other"] * place + ["given"]).read_text(encoding="utf-8")
    assert f"id {place} (" in write_page(tmp_path, []).read_text(encoding="utf-8")


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        write_page(tmp_path)
    assert list(tmp_path.iterdir()) == []
