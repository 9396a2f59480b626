# SPDX-License-Identifier: Apache-2.0
"""What a passport is warned of, as happens to people who pre-train. One thing is spoiled at a time."""

import json
from pathlib import Path

import pytest
from conftest import Prepared
from made_up_runs import example_table, masks_of, near_duplicates, passport, split

from bert_jax.checks.findings import NOTE, OK, PROBLEM, WARNING
from bert_jax.checks.passport import check_passport, CHECKS, warnings
from bert_jax.feed.shards import MANIFEST

DATA = Path("some/data")


def findings_of(spoil, subject):
    return [finding for finding in check_passport(passport(spoil), DATA) if finding.subject == subject]


def set_in(*path, **values):
    """A function that sets values in the dictionary at this place of a passport."""

    def spoil(made):
        for key in path:
            made = made[key]
        made.update(values)

    return spoil


def of_train(**values):
    return set_in("splits", "train", **values)


def of_table(name="nsp_128", **values):
    return set_in("splits", "train", "tables", name, **values)


def with_documents(documents, **values):
    def spoil(made):
        tables = [example_table("nsp", 128, 400_000, **values), example_table("nsp", 512, 100_000)]
        made["splits"]["train"] = split(documents, tables)

    return spoil


def test_sound_data_gives_no_warning_and_not_even_a_note():
    findings = check_passport(passport(), DATA)
    assert [finding for finding in findings if finding.severity != OK] == []
    assert warnings(passport()) == []
    assert (
        len({finding.subject for finding in findings}) >= len(CHECKS) - 4
    )  # four speak up only where something is wrong


def test_near_duplicates_that_were_dropped_are_no_fault():
    for share, dropped, severity in ((1_900, True, OK), (900, False, OK), (1_900, False, WARNING)):
        made = near_duplicates(share, dropped)
        [found] = findings_of(
            lambda passport, made=made: passport.update(near_duplicate_documents=made), "Near-duplicates"
        )
        assert (found.severity, "they were dropped" in found.seen) == (severity, dropped)
    assert findings_of(lambda passport: None, "Near-duplicates") == []


@pytest.mark.parametrize(
    ("spoil", "subject", "severity", "seen", "said"),
    [
        (set_in(vocab_size=104), "Vocabulary", WARNING, "only 104 entries", "bert-jax vocab"),
        (
            set_in("text", "marks", forms=4_700), "Accents", WARNING,
            "300 of 5,000 different words (6.00%) become equal to another, such as resume and résumé", "--keep-accents",
        ),
        (
            set_in("text", "scripts", Thai=20_000_000), "Accents", WARNING,
            "in Thai marks are parts of words", "bert-jax vocab --keep-accents",
        ),
        (of_train(unknown_tokens=3_000_000), "[UNK]", WARNING, "train: 5.0% of the tokens are [UNK]", "bert-jax vocab"),
        (of_train(unknown_tokens=9_000_000), "[UNK]", PROBLEM, "train: 15.0%", "another language or script"),
        (of_train(commonest_token_share=0.41), "Word frequencies", WARNING, "41.0% of the training text", "prose"),
        (
            set_in("text", "sentences", repeated=400_000, repeated_share=0.159),
            "Repeated lines", WARNING, "15.9% of the sentences (400,000) repeat an earlier one", "“History.”, 4,000 times",
        ),
        (set_in("text", "sentences", repeated_share=0.4), "Repeated lines", PROBLEM, "40.0%", "hold the loss near 7"),
        (
            set_in("text", repeated_lines=[{"text": "All rights reserved.", "times": 60_000}]),
            "Repeated lines", WARNING, "“All rights reserved.”, 60,000 times", "remove repeated lines",
        ),
        (
            set_in("text", "documents", repeated=2_000, repeated_share=0.095),
            "Repeated documents", WARNING, "9.5% of the documents (2,000)", "@2",
        ),
        (
            lambda made: made.update(near_duplicate_documents=near_duplicates(1_900)),
            "Near-duplicates", WARNING, "9.5% of the documents (1,900)", "--near-duplicates drop",
        ),
        (
            set_in("text", "other_characters", **{"U+FFFD": 200_000}),
            "Characters", WARNING, "200,000 characters (0.074%) are U+FFFD", "iconv",
        ),
        (
            set_in("text", "other_characters", **{"control and unassigned": 5_000_000}),
            "Characters", WARNING, "1.9% of the characters are control characters", "binary files",
        ),
        (set_in(dropped_sentences=400_000), "Dropped text", WARNING, "400,000 of 2,920,000", "control characters"),
        (set_in("reading", replaced_bytes=7), "Replaced bytes", NOTE, "7 bytes were not UTF-8", ""),
        (with_documents(4), "Documents", WARNING, "the training text is 4 documents", "blank lines"),
        (  # by a weight of 10, which reads them ten times
            lambda made: (with_documents(40)(made), made["text"]["documents"].update(count=4)),
            "Documents", WARNING, "the training text is 4 documents", "blank lines",
        ),
        (
            lambda made: (made.update(dropped_sentences=400_000), made["text"]["sentences"].update(count=1_600_000)),
            "Dropped text", WARNING, "400,000 of 2,000,000", "control characters",
        ),
        (lambda made: made["splits"].pop("validation"), "Held-out text", NOTE, "no validation split", "--held-out 0.05"),
        (set_in("splits", "validation", tokens=900), "Held-out text", NOTE, "900 tokens", "vary by more than 1 %"),
        (
            of_table(same_document_negatives=9_000), "NotNext sentences", WARNING,
            "9,000 of 400,000 pairs took B from A's own document", "--shard-size",
        ),
        (of_table(unpaired_documents=9_000), "Unpaired documents", WARNING, "9,000 of 20,000", "mlm_full_sentences"),
        (
            of_table(cut_token_share=0.2), "Cut sentences",
            WARNING, "20.0% of the tokens are cut off sentences of more than 125", "25 tokens on average",
        ),
        (of_table(valid_token_share=0.5), "Padding", NOTE, "50.0% of a row", "packing=packed"),
        (set_in("masks", "nsp_128", p_value=1e-9), "Masks", PROBLEM, "p = 1e-09", "error of the program"),
        (set_in(licence=""), "Licence", NOTE, "not recorded", "--licence NAME"),
        (lambda made: made.pop("text"), "Repeated lines", NOTE, "no statistics", "prepare it again"),
    ],
)  # fmt: skip
def test_each_mistake_is_found_with_its_numbers_and_what_to_do(spoil, subject, severity, seen, said):
    found = [finding for finding in findings_of(spoil, subject) if finding.severity == severity]
    assert len(found) == 1
    assert seen in found[0].seen
    assert said in " ".join([found[0].seen, found[0].causes, found[0].remedy, found[0].command])
    assert (found[0].line() in warnings(passport(spoil))) == (severity in (PROBLEM, WARNING))


def test_accents_that_are_kept_or_few_are_in_order():
    """Half a percent of kana is a name here and there; a tokenizer that keeps marks loses none of any script."""
    (few,) = findings_of(set_in("text", "scripts", Kana=1_000_000), "Accents")
    assert (few.severity, few.seen) == (
        OK,
        "accents are stripped: 1.0% of the words lose a mark, and 5 of 5,000 different words (0.10%) become equal to"
        " another, such as resume and résumé",
    )

    def kept(made):
        made.update(strip_accents=False)
        made["text"].update(scripts={"Thai": 10**6}, marks=None)

    (kept_ones,) = findings_of(kept, "Accents")
    assert kept_ones.severity == OK
    (unreachable,) = findings_of(set_in(unreachable_entries=2), "Vocabulary")
    assert "2 of them can never be met" in unreachable.seen


@pytest.mark.parametrize(
    ("values", "severity", "cause"),
    [
        ({"is_next_share": 0.46}, OK, ""),
        ({"is_next_share": 0.41}, WARNING, "documents of a single sentence"),
        ({"is_next_share": 0.02}, PROBLEM, "documents of a single sentence"),
        ({"is_next_share": 0.6}, WARNING, "--random-next-prob 0.5"),
        ({"sequence_length": 64, "is_next_share": 0.41}, NOTE, "google-research/bert's algorithm itself"),
        ({"sequence_length": 64, "is_next_share": 0.6}, WARNING, "--random-next-prob 0.5"),
        ({"sequence_length": 32, "is_next_share": 0.18}, WARNING, "29 tokens hold one sentence of 25 tokens"),
    ],
)
def test_pair_labels_outside_45_to_55_percent(values, severity, cause):
    """Short rows are uneven in the original, too."""
    found = [finding for finding in findings_of(of_table(**values), "Pair labels") if cause in finding.causes]
    assert severity in [finding.severity for finding in found]
    assert f"{100 * values['is_next_share']:.1f}% of the pairs are IsNext" in "".join(finding.seen for finding in found)


def test_blank_lines_between_sentences_are_named_as_the_cause():
    """google-research/bert#125: every sentence a document, every label 1."""
    spoil = of_train(documents=2_400_000)

    def both(made):
        spoil(made)
        of_table(is_next_share=0.0)(made)

    [problem] = [finding for finding in findings_of(both, "Pair labels") if finding.severity == PROBLEM]
    assert "a blank line after each sentence" in problem.causes
    assert "0.0% of the pairs are IsNext, 100.0% NotNext" in problem.seen


def test_few_documents_excuse_uneven_labels():
    """One document cut into short pairs gives hundreds of NotNext: no cause to doubt the text."""
    spoil = with_documents(50, is_next_share=0.39)
    assert {finding.severity for finding in findings_of(spoil, "Pair labels")} == {OK}


def test_sentence_order_is_told_in_its_own_words():
    def spoil(made):
        made["splits"]["train"] = split(20_000, [example_table("sop", 128, 1000, in_order_share=0.7)])

    [finding] = [finding for finding in findings_of(spoil, "Pair labels") if finding.severity == WARNING]
    assert "70.0% of the pairs are in order, 30.0% swapped" in finding.seen


def test_paragraphs_a_line_are_told_from_rows_that_are_too_short():
    def long_lines(made):
        made["splits"]["train"].update(sentences=100_000)
        made["splits"]["train"]["tables"]["nsp_128"].update(cut_token_share=0.5)

    [finding] = [finding for finding in findings_of(long_lines, "Cut sentences") if finding.severity == WARNING]
    assert "a paragraph or a document a line" in finding.causes
    assert "--lines paragraphs" in finding.command


@pytest.mark.parametrize(("texts", "severity"), [(0, OK), (5, NOTE), (500, WARNING)])
def test_contamination_is_graded_by_the_texts_it_touches(texts, severity):
    file = {
        "file": "squad/dev.json", "ngram_words": 13, "ngrams": 90_000, "found_ngrams": 10 * texts, "found_share": 0.0,
        "texts": 10_000, "texts_with_found": texts, "short_texts": 3, "examples": ["the apollo program"][:texts],
    }  # fmt: skip
    [finding] = findings_of(set_in(contamination=[file]), "Contamination")
    assert finding.severity == severity
    assert f"squad/dev.json: {texts:,} of 10,000 texts" in finding.seen


def test_an_estimate_is_called_one():
    [finding] = findings_of(set_in("text", "sentences", compared=0.25), "Repeated lines")
    assert finding.seen.startswith("about 2.0%")


def test_masks_of_every_table_are_checked():
    spoil = set_in("masks", sop_128={**masks_of(), "p_value": 0.0, "chi_square": None})
    assert [finding.severity for finding in findings_of(spoil, "Masks")] == [PROBLEM, OK]


def test_commands_repeat_the_settings_of_the_data(prepared: Prepared):
    made = json.loads((prepared.data / MANIFEST).read_text())
    made["splits"]["train"]["unknown_tokens"] = made["splits"]["train"]["tokens"]
    made["splits"].pop("validation")
    findings = {finding.subject: finding for finding in check_passport(made, prepared.data, "DATA")}
    assert "--output DATA-held-out" in findings["Held-out text"].command
    assert "--sequence-length 16 32" in findings["Held-out text"].command
    assert "--held-out 0.05" in findings["Held-out text"].command


def test_a_real_passport_is_warned_of_its_tiny_vocabulary(prepared: Prepared):
    made = json.loads((prepared.data / MANIFEST).read_text())
    assert any("the vocabulary has only" in warning for warning in warnings(made))
