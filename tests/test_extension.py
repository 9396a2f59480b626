# SPDX-License-Identifier: Apache-2.0
"""More words and positions for a checkpoint: where they go, what they begin as, and that the old ones stay."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import refusal_of
from conversion_samples import MODEL, sample_weights, VOCABULARY, write_hugging_face, write_own_run

from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.config.description import ModelDescription
from bert_jax.conversion.checkpoints import Asked, open_checkpoint
from bert_jax.conversion.convert import convert, extend
from bert_jax.conversion.extension import suggest
from bert_jax.runs.directory import open_run
from bert_jax.tokenization import WordPieceTokenizer

# Two free entries, in the middle and at the end.
ENTRIES = [*VOCABULARY[:5], "[unused0]", *VOCABULARY[5:], "[unused1]"]
DESCRIPTION = ModelDescription(replace(MODEL, vocab_size=len(ENTRIES), tie_word_embeddings=False))
WORDS = ["ab", "aab", "bb"]  # a ##b, a ##a ##b, b ##b


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_hugging_face(tmp_path_factory.mktemp("models") / "source", DESCRIPTION, vocabulary=ENTRIES)


def weight(path, name: str, asked: Asked = Asked()) -> np.ndarray:  # noqa: B008  # frozen
    checkpoint = open_checkpoint(path, asked)
    return checkpoint.weight(next(row for row in checkpoint.rows if row.ours == name))


def test_words_fill_free_entries_then_rows_and_begin_as_the_mean_of_their_pieces(tmp_path, source):
    """Word embedding, output matrix of its own, and output bias."""
    certificate, extension = extend(source, tmp_path / "result", WORDS)
    assert certificate.holds, certificate.lines()
    assert extension.added == {"ab": 5, "aab": len(ENTRIES) - 1, "bb": len(ENTRIES)}
    tokenizer = open_checkpoint(tmp_path / "result").tokenizer
    assert tokenizer.encode("the ab aab of bb").pieces == ["the", "ab", "aab", "of", "bb"]
    a, b, more_a, more_b = (ENTRIES.index(entry) for entry in ("a", "b", "##a", "##b"))
    for name in ("encoder/embeddings/word", "mlm/decoder", "mlm/bias"):
        before, after = weight(source, name), weight(tmp_path / "result", name)
        assert len(after) == len(before) + 1
        for word, pieces in (("ab", [a, more_b]), ("aab", [a, more_a, more_b]), ("bb", [b, more_b])):
            np.testing.assert_allclose(after[extension.added[word]], before[pieces].mean(0), rtol=1e-6, atol=1e-7)
        kept = [index for index, entry in enumerate(ENTRIES) if not entry.startswith("[unused")]
        np.testing.assert_array_equal(after[kept], before[kept])


@pytest.mark.parametrize("format", ["bert-jax", "tf1"])
def test_every_format_can_be_extended(tmp_path, source, format):
    """The result has the source's format, and every old id the outputs it had."""
    if format == "tf1":
        pytest.importorskip("tensorflow", reason="TensorFlow reads its own checkpoints")
    convert(source, tmp_path / "source", format)
    certificate, _ = extend(tmp_path / "source", tmp_path / "result", WORDS, positions=30, fill_unused=False)
    assert certificate.holds, certificate.lines()
    assert certificate.result.format == format
    assert certificate.result.description.model.vocab_size == len(ENTRIES) + 3
    assert {one.output for one in certificate.differences} >= {"sequence_output", "mlm_logits"}
    before, after = (weight(tmp_path / name, "encoder/embeddings/position") for name in ("source", "result"))
    np.testing.assert_array_equal(after, np.concatenate([before, before[:10]]))


REFUSED = {
    "known": (["the"], "'the' is in the vocabulary already"),
    "twice": (["ab", "ab"], "'ab' is asked for twice"),
    "capital": (["Ab"], "'Ab' would never be met: the tokenizer cuts it into a ##b"),
    "two words": (["a b"], "'a b' would never be met: the tokenizer cuts it into a b"),
    "nothing": (["\u200b"], "is nothing to the tokenizer"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_words_that_would_never_be_met_are_refused(tmp_path, source, words, message):
    with pytest.raises(UserError, match=message):
        extend(source, tmp_path / "result", words)
    assert not (tmp_path / "result").exists()


def test_positions_only_grow(tmp_path, source):
    with pytest.raises(UserError, match="--positions 10: the model has 20; they can only grow"):
        extend(source, tmp_path / "result", [], positions=10)


def test_words_that_save_most_are_suggested():
    """Gain: times in the text, by pieces less one; words with an unknown piece are no words to the vocabulary."""
    tokenizer = WordPieceTokenizer(VOCABULARY, lowercase=True)
    text = ["ab ab ab aab the of", "AAB, bb! é1 a b"]
    found = [(one.word, one.times, one.pieces, one.gain) for one in suggest(text, tokenizer, 3)]
    assert found == [("aab", 2, 3, 4), ("ab", 3, 2, 3), ("bb", 1, 2, 1)]


def test_the_command_adds_what_a_text_suggests(tmp_path, source, capsys):
    (tmp_path / "text.txt").write_text("ab ab the .\naab of .\n\nbb\n")
    command = ["vocab", "extend", str(source), "--input", str(tmp_path / "text.txt"), "--add", "2"]
    assert main(command) == 0
    assert "2        2      2  ab" in capsys.readouterr().out
    assert main([*command, "--output", str(tmp_path / "result")]) == 0
    printed = capsys.readouterr().out
    assert f"2 words added, 2 of them in the place of [unused] entries\n{len(ENTRIES)} entries, 20 positions" in printed
    assert "certificate holds" in printed
    assert "nothing to add" in refusal_of(capsys, "vocab", "extend", source)


def test_weights_that_were_not_touched_are_the_same(tmp_path, source):
    extend(source, tmp_path / "result", WORDS, positions=24)
    touched = {"encoder/embeddings/word", "encoder/embeddings/position", "mlm/bias", "mlm/decoder"}
    checkpoint = open_checkpoint(source)
    names = [row.ours for row in checkpoint.rows if row.ours not in touched]
    assert len(names) == len(sample_weights(DESCRIPTION)) - 5  # the bias is there twice
    for name in names:
        np.testing.assert_array_equal(weight(tmp_path / "result", name), weight(source, name))


def test_a_run_keeps_its_recipe_and_an_optimizer_s_state_that_does_not_fit_is_left_out(tmp_path):
    config = write_own_run(tmp_path / "run")
    certificate, extension = extend(tmp_path / "run", tmp_path / "result", ["ab"], positions=24)
    assert certificate.holds, certificate.lines()
    assert "the optimizer's state is left out: it does not fit the new rows" in certificate.notes
    assert extension.added == {"ab": len(VOCABULARY)}
    grown = replace(config.model, vocab_size=len(VOCABULARY) + 1, max_position_embeddings=24)
    assert open_run(tmp_path / "result").config() == replace(config, model=grown)


@pytest.mark.parametrize("format", ["bert-jax", "huggingface"])
def test_padding_rows_go_before_words_come(tmp_path, capsys, format):
    """The message names an option, and the command has it."""
    size = len(VOCABULARY) + 5
    if format == "bert-jax":
        write_own_run(tmp_path / "source", more_rows=5)
    else:
        write_hugging_face(tmp_path / "source", ModelDescription(replace(MODEL, vocab_size=size)))
    before = weight(tmp_path / "source", "mlm/bias", Asked(padding_rows="keep"))
    assert len(before) == size
    (tmp_path / "words.txt").write_text("ab\n")
    command = ["vocab", "extend", str(tmp_path / "source"), "--words", str(tmp_path / "words.txt")]
    command += ["--output", str(tmp_path / "result")]
    assert "--padding-rows drop" in refusal_of(capsys, *command)
    assert main([*command, "--padding-rows", "drop"]) == 0
    assert f"1 words added, 0 of them in the place of [unused] entries\n{len(VOCABULARY) + 1} entries" in (
        capsys.readouterr().out
    )
    after = weight(tmp_path / "result", "mlm/bias")
    np.testing.assert_array_equal(after[:-1], before[: len(VOCABULARY)])
    pieces = [VOCABULARY.index("a"), VOCABULARY.index("##b")]
    np.testing.assert_allclose(after[-1], before[pieces].mean(), rtol=1e-6)
