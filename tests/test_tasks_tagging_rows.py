# SPDX-License-Identifier: Apache-2.0
"""Words with tags -> rows, and scores of rows -> a tag for each word."""

import itertools

import numpy as np
import pytest
from tokenization_samples import published

from bert_jax.base.errors import UserError
from bert_jax.tasks import schemes
from bert_jax.tasks.examples import Sentence
from bert_jax.tasks.rows import IGNORE
from bert_jax.tasks.tagging_rows import decode, LEFT_OUT, tagging_rows
from bert_jax.tasks.text_rows import unknown_note
from bert_jax.tokenization import load_tokenizer, WordPieceTokenizer

ENTRIES = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c un ##aff ##able 爱 因 斯 坦 在 柏 林 发 表 演 讲"
VOCABULARY = ENTRIES.split()
LABELS = schemes.label_names(["PER", "LOC", "ORG"], "IOBES")


@pytest.fixture(scope="module")
def tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCABULARY, lowercase=True)


def sentence(words: str, tags: str | None = None, number: int = 0) -> Sentence:
    own = tuple(words.split(" ")) if words else ()
    return Sentence(str(number), own, tuple(tags.split()) if tags else None, 0, f"dev.txt, line {number + 1}")


def pieces(row) -> str:
    return " ".join(VOCABULARY[index] for index in row.ids)


def scores_of(labels: list[str], tags: dict[int, str], length: int) -> np.ndarray:
    """Scores of a row, [S, L], that are greatest for the tags at their places, and for O elsewhere."""
    scores = np.zeros((length, len(labels)), np.float32)
    for place in range(length):
        scores[place, labels.index(tags.get(place, "O"))] = 5
    return scores


EINSTEIN = sentence("爱因 斯坦 在 柏林 发表 演讲", "B-PER E-PER O S-LOC O O")


def test_characters_go_in_and_words_come_out(tokenizer):
    """爱因斯坦在柏林发表演讲 as characters with [CLS] and the final [SEP], labels at first pieces."""
    (row,), words, counts = tagging_rows([EINSTEIN], tokenizer, LABELS, max_length=16)
    assert pieces(row) == "[CLS] 爱 因 斯 坦 在 柏 林 发 表 演 讲 [SEP]"
    assert [LABELS[number] if number != IGNORE else "" for number in row.labels] == [
        *["", "B-PER", "", "E-PER", "", "O", "S-LOC", "", "O", "", "O", "", ""]
    ]
    assert row.segments == [0] * 13
    assert (counts["words"], counts["tokens"], counts["rows"]) == (6, 11, 1)
    scores = scores_of(LABELS, {1: "B-PER", 2: "S-ORG", 3: "E-PER", 6: "S-LOC", 7: "E-ORG"}, 13)
    (found,) = decode([scores], words, LABELS)
    assert found.tags == EINSTEIN.tags  # what stands at 2 and 7, pieces inside of words, is not read


def test_the_table_of_the_example_with_its_misprint_mended(tokenizer):
    """In the published table the column of 柏林 has 0.01 everywhere; S-LOC, the intended entry, is 0.90."""
    table = np.full((6, 13), 0.01)
    for word, tag in enumerate(EINSTEIN.tags):
        table[word, LABELS.index(tag)] = 0.90
    _, words, _ = tagging_rows([EINSTEIN], tokenizer, LABELS, max_length=16)
    scores = np.zeros((13, 13))
    scores[words.tokens] = np.log(table)
    (found,) = decode([scores], words, LABELS)
    assert found.tags == EINSTEIN.tags
    np.testing.assert_allclose(found.probabilities, 0.90 / (0.90 + 12 * 0.01), rtol=1e-6)
    scores[words.tokens[3]] = np.log(0.01)  # as printed: all are equally good
    (found,) = decode([scores], words, LABELS)
    assert found.tags[3] == LABELS[0] == "O"
    np.testing.assert_allclose(found.probabilities[3], 1 / 13, rtol=1e-6)


def test_the_first_piece_has_the_label(tokenizer):
    (row,), words, _ = tagging_rows([sentence("unaffable a", "S-PER O")], tokenizer, LABELS, max_length=8)
    assert pieces(row) == "[CLS] un ##aff ##able a [SEP]"
    assert row.labels == [IGNORE, LABELS.index("S-PER"), IGNORE, IGNORE, 0, IGNORE]
    assert words.tokens.tolist() == [1, 4]


def test_words_without_a_piece_become_unknown(tokenizer):
    """Empty words and control characters keep their place among the words."""
    own = Sentence("0", ("a", "", "\x00", "\u200b", "b"), ("O", "S-PER", "O", "S-LOC", "O"), 0, "x")
    (row,), _, counts = tagging_rows([own], tokenizer, LABELS, max_length=8)
    assert pieces(row) == "[CLS] a [UNK] [UNK] [UNK] b [SEP]"
    assert [LABELS[number] for number in row.labels[1:-1]] == list(own.tags)
    assert (counts["words without a piece"], counts["unknown tokens"]) == (3, 3)


def test_sentences_without_tags_or_words(tokenizer):
    rows, words, _ = tagging_rows([sentence("a b"), sentence(""), sentence("c", "S-PER")], tokenizer, LABELS, 8)
    assert [pieces(row) for row in rows] == ["[CLS] a b [SEP]", "[CLS] [SEP]", "[CLS] c [SEP]"]
    assert rows[0].labels == [IGNORE] * 4
    scores = [scores_of(LABELS, {1: "S-PER"}, len(row.ids)) for row in rows]
    assert [found.tags for found in decode(scores, words, LABELS)] == [("S-PER", "O"), (), ("S-PER",)]
    assert tagging_rows([], tokenizer, LABELS, 8)[0] == []
    assert decode([], tagging_rows([], tokenizer, LABELS, 8)[1], LABELS) == []


def test_scores_of_longer_rows_are_read_the_same(tokenizer):
    """Rows of a batch are padded; what stands behind [SEP] is not looked at."""
    rows, words, _ = tagging_rows([sentence("a b")], tokenizer, LABELS, 8)
    scores = scores_of(LABELS, {1: "S-PER", 2: "S-LOC"}, len(rows[0].ids))
    padded = np.concatenate([scores, np.full((9, 13), 99.0)])
    assert decode([padded], words, LABELS) == decode([scores], words, LABELS)


# ---- sentences that are too long ----------------------------------------------------------------------------


def test_a_sentence_that_is_too_long_is_refused(tokenizer):
    long = [sentence("a"), sentence("a " * 6 + "b", number=1), sentence("a " * 9 + "b", number=2)]
    with pytest.raises(UserError, match=r"dev.txt, line 2: 9 tokens .* max_length=8 \(2 are too long.* 12\)"):
        tagging_rows(long, tokenizer, LABELS, max_length=8)
    assert len(tagging_rows(long[:2], tokenizer, LABELS, max_length=9)[0]) == 2


def test_truncation_counts_what_it_leaves_out(tokenizer):
    """A word whose first piece is inside is read; those behind have the tag O."""
    own = sentence("a b unaffable c a", "S-PER O S-LOC S-ORG O")
    rows, words, counts = tagging_rows([sentence("c"), own], tokenizer, LABELS, 6, too_long="truncate")
    assert [pieces(row) for row in rows] == ["[CLS] c [SEP]", "[CLS] a b un ##aff [SEP]"]
    assert (counts["cut"], counts["words left out"]) == (1, 2)
    assert words.rows.tolist() == [0, 1, 1, 1, LEFT_OUT, LEFT_OUT]
    scores = [np.zeros((3, 13)), scores_of(LABELS, {1: "S-PER", 3: "S-LOC", 4: "S-ORG", 5: "S-ORG"}, 6)]
    found = decode(scores, words, LABELS)[1]
    assert found.tags == ("S-PER", "O", "S-LOC", "O", "O")
    assert found.probabilities[3:] == (0, 0)


def plain_windows(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Begin and length of each window, as google-research/bert's run_squad.py makes them."""
    spans, start = [], 0
    while start < tokens:
        length = min(tokens - start, room)
        spans.append((start, length))
        if start + length == tokens:
            break
        start += min(length, stride)
    return spans


def plain_most_context(spans: list[tuple[int, int]], place: int) -> int:
    """The window a token is read in, as google-research/bert's run_squad.py says."""
    best, most = None, None
    for number, (start, length) in enumerate(spans):
        end = start + length - 1
        if start <= place <= end:
            score = min(place - start, end - place) + 0.01 * length
            if most is None or score > most:
                best, most = number, score
    return best


@pytest.mark.parametrize(("max_length", "stride"), [(8, 6), (8, 3), (8, 1), (9, 4), (3, 1), (9, 128)])
def test_windows_and_where_words_are_read_are_those_of_google_research_bert(max_length, stride, tokenizer):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["a", "unaffable", "爱因", "b"], size)) for size in rng.integers(0, 14, 40)]
    sentences = [sentence(text, " ".join(["S-PER"] * len(text.split()))) for text in texts]
    rows, words, counts = tagging_rows(sentences, tokenizer, LABELS, max_length, "windows", stride)
    expected, place_of_row = [], 0
    for number, own in enumerate(sentences):
        lengths = [len(tokenizer.encode(word).ids) for word in own.words]
        ids = [index for word in own.words for index in tokenizer.encode(word).ids]
        spans = plain_windows(len(ids), max_length - 2, stride) or [(0, 0)]
        expected += [(number, [2, *ids[start : start + length], 3]) for start, length in spans]
        begin = int(words.sentences[number])
        for word, place in enumerate(np.cumsum([0, *lengths])[:-1]):
            window = plain_most_context(spans, place)
            assert words.rows[begin + word] == place_of_row + window
            assert words.tokens[begin + word] == place - spans[window][0] + 1
        place_of_row += len(spans)
    assert [(row.example, row.ids) for row in rows] == expected
    assert all(len(row.ids) == len(row.labels) == len(row.segments) for row in rows)
    labelled = sum(label != IGNORE for row in rows for label in row.labels)
    assert labelled == counts["words"]  # each word has its label once
    assert counts["in windows"] == sum(count > 1 for count in np.bincount([row.example for row in rows])) > 5


def test_windows_give_one_tag_for_each_word(tokenizer):
    """The tags come from the window with most context, here told apart by their type."""
    own = sentence("a b c a b c a b c a", "O " * 10)
    rows, words, _ = tagging_rows([own], tokenizer, LABELS, 8, "windows", stride=4)
    assert [len(row.ids) for row in rows] == [8, 8]
    scores = [scores_of(LABELS, dict.fromkeys(range(8), tag), 8) for tag in ("S-PER", "S-LOC")]
    (found,) = decode(scores, words, LABELS)
    assert found.tags == ("S-PER",) * 5 + ("S-LOC",) * 5  # 4 and 5 are in both


def test_rows_are_handed_over_one_by_one_and_all(tokenizer):
    rows, words, _ = tagging_rows([sentence("a b"), sentence("c")], tokenizer, LABELS, 8)
    scores = [scores_of(LABELS, {}, len(row.ids)) for row in rows]
    assert decode(iter(scores), words, LABELS) == decode(scores, words, LABELS)
    with pytest.raises(ValueError, match="shorter than"):
        decode(scores[:1], words, LABELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 2}, "max_length=2 leaves no room"),
        ({"too_long": "cut"}, "too_long=cut is not known: choose one of error, truncate, windows"),
        ({"too_long": "windows", "stride": 0}, "stride=0: windows must begin 1 token apart"),
        ({"unknown_labels": "drop"}, "unknown_labels=drop is not known: choose one of refuse, error, ignore"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message, tokenizer):
    with pytest.raises(UserError, match=message):
        tagging_rows([sentence("a")], tokenizer, LABELS, **({"max_length": 8} | options))


# ---- labels -------------------------------------------------------------------------------------------------


def test_a_tag_that_training_did_not_have_is_named_with_its_place(tokenizer):
    sentences = [sentence("a", "S-PER"), sentence("a b c", "O S-MISC O", number=1)]
    message = r"dev.txt, line 2, word 2 \(b\): the tag S-MISC is not among the 13 labels \(O, B-LOC, .*\.\.\.\): mend"
    with pytest.raises(UserError, match=message):
        tagging_rows(sentences, tokenizer, LABELS, 8)
    rows, _, counts = tagging_rows(sentences, tokenizer, LABELS, 8, unknown_labels="ignore")
    assert rows[1].labels == [IGNORE, 0, IGNORE, 0, IGNORE]
    assert counts["words with an unknown label"] == 1


def test_the_label_set_of_another_model_is_refused_by_name(tokenizer):
    with pytest.raises(UserError, match=r"line 1, word 1 \(a\): the tag B-GPE.*label set of another model"):
        tagging_rows([sentence("a b", "B-GPE O")], tokenizer, LABELS, 8)


def test_text_of_another_script_is_warned_of(tokenizer):
    text = ["Москва город", "a a a a a a a a"]
    counts = tagging_rows([sentence(own) for own in text], tokenizer, LABELS, 16)[2]
    assert unknown_note(counts, "dev.txt") is None  # 20 %, not over it
    counts = tagging_rows([sentence("Москва", number=1), *map(sentence, text)], tokenizer, LABELS, 16)[2]
    assert unknown_note(counts, "dev.txt").startswith("dev.txt: 27% of the tokens are [UNK]")
    assert unknown_note(tagging_rows([], tokenizer, LABELS, 8)[2], "dev.txt") is None


def test_published_vocabularies_know_chinese_only_where_they_should():
    words = sentence(" ".join("爱因斯坦在柏林发表演讲"))
    for name, warned in (("chinese", False), ("uncased", True)):
        tokenizer = load_tokenizer(published(name))
        assert (unknown_note(tagging_rows([words], tokenizer, LABELS, 16)[2], "dev.txt") is not None) == warned


# ---- constrained decoding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", schemes.SCHEMES)
def test_the_constrained_tags_are_the_best_that_keep_to_the_scheme(scheme, tokenizer):
    """Against all sequences, one by one."""
    labels = schemes.label_names(["X", "Y"], scheme)
    sentences = [sentence("a"), sentence("unaffable b"), sentence("a b c"), sentence("")]
    rows, words, _ = tagging_rows(sentences, tokenizer, labels, 8)
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(5):
        scores = [rng.normal(size=(len(row.ids), len(labels))) for row in rows]
        free = decode(scores, words, labels)
        for number, found in enumerate(decode(scores, words, labels, constrained=scheme)):
            own = slice(words.sentences[number], words.sentences[number + 1])
            at_words = scores[number][words.tokens[own]]
            sums = {
                tuple(labels[label] for label in path): sum(
                    row[label] for row, label in zip(at_words, path, strict=True)
                )
                for path in itertools.product(range(len(labels)), repeat=len(at_words))
            }
            kept = {tags: total for tags, total in sums.items() if not schemes.faults(tags, scheme)}
            assert found.tags == max(kept, key=kept.get)
            broken += bool(schemes.faults(free[number].tags, scheme))
    assert broken > 2  # the best label of each word alone breaks the scheme


def test_an_entity_does_not_reach_into_words_that_were_left_out(tokenizer):
    own = sentence("a b c a", "O O O O")
    _, words, _ = tagging_rows([own], tokenizer, LABELS, 4, too_long="truncate")
    scores = scores_of(LABELS, {1: "B-PER", 2: "I-PER"}, 4)
    scores[2, LABELS.index("E-PER")] = 4
    assert decode([scores], words, LABELS)[0].tags == ("B-PER", "I-PER", "O", "O")
    assert decode([scores], words, LABELS, constrained="IOBES")[0].tags == ("B-PER", "E-PER", "O", "O")
