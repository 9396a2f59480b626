# SPDX-License-Identifier: Apache-2.0
"""`bert-jax tokenize`: worked examples of segments, masks and pairs by their published figures, and a run's own masking."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import real_data, refusal_of, run_stage
from conversion_samples import PRETRAINING, sample_weights, write_hugging_face, write_own_run
from safetensors.numpy import load_file

from bert_jax.base.errors import UserError
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.settings import to_dict
from bert_jax.feed.instances import make_table
from bert_jax.feed.one_text import OneText, tokens_of
from bert_jax.feed.shards import write_shard
from bert_jax.tasks.scoring.calibration import tempered
from bert_jax.tasks.table import find_task
from bert_jax.tokenization import load_tokenizer, WordPieceTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ENGLISH = ["i", "like", "dogs", "cats", "and", "my", "dog", "is", "cute", "he", "likes", "play", "##ing"]
WEATHER, CANCELLED, BURNT = "今天天气很糟糕", "下午的体育课取消了", "鱼快被烤焦啦"
PLANET = "地球是[MASK]八大行星之一"
CHINESE = [*dict.fromkeys(WEATHER + CANCELLED + BURNT + "地球是八大行星之一太阳系苹果海星饭茶吃热度"), "38"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    WordPieceTokenizer([*SPECIAL, *ENGLISH, *CHINESE], lowercase=True).save(folder)
    return folder


def shown(capsys, *arguments: object) -> dict:
    """What `bert-jax tokenize --json` prints."""
    run_stage("tokenize", *arguments, "--json")
    return json.loads(capsys.readouterr().out)


def together(numbers: list[int]) -> str:
    return "".join(map(str, numbers))


# ---- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "pieces", "segments"),
    [
        (["I like dogs", "I like cats"], "[CLS] i like dogs [SEP] i like cats [SEP]", "000001111"),
        (["my dog is cute", "he likes dogs"], "[CLS] my dog is cute [SEP] he likes dogs [SEP]", "0000001111"),
        # Often printed with [SEP] in the first place; a row begins with [CLS].
        (["I like dogs and cats"], "[CLS] i like dogs and cats [SEP]", "0000000"),
        # The BERT paper's figure 2.
        (["my dog is cute", "he likes playing"], "[CLS] my dog is cute [SEP] he likes play ##ing [SEP]", "00000011111"),
    ],
)
def test_segments_of_worked_examples(vocabulary, capsys, texts, pieces, segments):
    row = shown(capsys, vocabulary, *texts)
    assert row["pieces"] == pieces.split()
    assert together(row["segments"]) == segments
    assert row["positions"] == list(range(len(segments)))
    assert row["ids"] == [load_tokenizer(vocabulary).vocabulary.index(piece) for piece in row["pieces"]]


def test_a_mask_in_the_text_is_one_token(vocabulary, capsys):
    row = shown(capsys, vocabulary, PLANET)
    assert row["pieces"] == ["[CLS]", *"地球是", "[MASK]", *"八大行星之一", "[SEP]"]
    assert row["positions"][row["pieces"].index("[MASK]")] == 4
    ids, begins = tokens_of(load_tokenizer(vocabulary), "[MASK]playing[MASK]")
    assert ([load_tokenizer(vocabulary).vocabulary[index] for index in ids], begins.tolist()) == (
        ["[MASK]", "play", "##ing", "[MASK]"],
        [True, True, False, True],
    )


def test_published_ids_of_a_chinese_pair(capsys):
    """bert-base-chinese: [CLS] is 101, [SEP] 102, [MASK] 103; a number is one piece, each ideograph its own."""
    row = shown(capsys, real_data("vocab/bert-base-chinese-vocab.txt"), "今天38度", "今天很热")
    assert row["pieces"] == ["[CLS]", *"今天", "38", "度", "[SEP]", *"今天很热", "[SEP]"]
    assert together(row["segments"]) == "00000011111"
    assert (row["ids"][0], row["ids"][5], row["ids"][-1]) == (101, 102, 102)


def test_the_table_names_every_token_and_the_segments(vocabulary, capsys):
    run_stage("tokenize", vocabulary, "my dog is cute", "he likes dogs")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[4].split() == ["3", "0", "12", "is"]
    assert lines[-1] == "10 tokens, segments 0000001111"


# ---- masks ----------------------------------------------------------------------------------------------------------


def test_masks_are_those_of_the_run(tmp_path, capsys):
    """The seed and the objective of the run's configuration; another seed draws others."""
    folder = tmp_path / "run"
    config = write_own_run(folder)
    text = "the a of b the c of d the e of f the g"
    masks = [shown(capsys, folder, text, "--mask", *more)["masks"] for more in ([], ["--seed", config.seed])]
    assert masks[0] == masks[1]
    assert len(masks[0]) == round(0.15 * 16)
    others = [shown(capsys, folder, text, "--mask", "--seed", seed)["masks"] for seed in range(1, 5)]
    assert any(one != masks[0] for one in others)
    # A run that predicts each token has no masks to show.
    causal = replace(config, objective=ObjectiveConfig("ltr"), model=replace(config.model, causal=True))
    (folder / "config.json").write_text(json.dumps(to_dict(causal)))
    error = refusal_of(capsys, "tokenize", folder, text, "--mask")
    assert "is a run of objective=ltr, which masks nothing: each token is predicted from those before it" in error


def test_of_many_draws_the_shares_are_the_papers(vocabulary):
    """Of 15 % that are picked 80 % become [MASK], 10 % a random entry and 10 % stay; a random entry may be the same."""
    tokenizer = load_tokenizer(vocabulary)
    text = OneText(tokenizer, ["my dog is cute and i like dogs and cats and he likes my dog"])
    drawn = [one for seed in range(2000) for one in text.masked(ObjectiveConfig(), seed)]
    assert len(drawn) == 2000 * round(0.15 * text.length)
    masked = np.mean([one.becomes == "[MASK]" for one in drawn])
    kept = np.mean([one.becomes == one.piece for one in drawn])
    assert masked == pytest.approx(0.8 + 0.1 / tokenizer.vocab_size, abs=0.02)
    assert kept == pytest.approx(0.1 + 0.1 / tokenizer.vocab_size, abs=0.02)
    assert {one.piece for one in drawn} == set(text.row().pieces) - {"[CLS]", "[SEP]"}


def test_whole_words_are_masked_whole(vocabulary):
    text = OneText(load_tokenizer(vocabulary), ["playing playing", "playing playing"])
    objective = ObjectiveConfig(masking="whole_word", mlm_probability=0.3, mask_share=1.0, random_share=0.0)
    for seed in range(20):
        picked = [one.position for one in text.masked(objective, seed)]
        assert len(picked) == 2
        assert picked[1] == picked[0] + 1
        assert text.row().pieces[picked[0]] == "play"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a [MASK]", "--mask"], "draws the masks itself"),
        (["one", "two", "three"], "3 texts were given"),
        (["dog", " "], "' ' has no tokens"),
    ],
)
def test_bad_input(vocabulary, capsys, arguments, message):
    assert message in refusal_of(capsys, "tokenize", vocabulary, *arguments)


def test_a_text_without_tokens_is_refused_where_it_is_first(vocabulary):
    with pytest.raises(UserError, match="has no tokens"):
        OneText(load_tokenizer(vocabulary), [""])


# ---- pairs: 0 is IsNext, on disk and in weights ---------------------------------------------------------------------


def weather_table(random_next_prob: float) -> tuple[np.ndarray, list[str]]:
    """Examples of the document of the weather's two sentences and of another one of a single sentence, and the tokens."""
    documents = [[WEATHER, CANCELLED], [BURNT]]
    sentences = [sentence for document in documents for sentence in document]
    starts = np.cumsum([0, *map(len, sentences)])
    table = make_table("nsp", starts, [0, 2, 3], 32, random.Random(0), 0.0, random_next_prob)
    return table.examples, list("".join(sentences))


@pytest.mark.parametrize(
    ("random_next_prob", "second", "label", "words"), [(0.0, CANCELLED, 0, "IsNext"), (1.0, BURNT, 1, "NotNext")]
)
def test_labels_of_the_weather_on_disk(tmp_path, random_next_prob, second, label, words):
    """0 where B follows A, as google-research/bert writes `next_sentence_label`: 1 if the instance is random, else 0.

    Texts that read "1 = consecutive, 0 = random" say it the other way round: theirs is 1 minus the label here.
    """
    examples, tokens = weather_table(random_next_prob)
    a_start, a_length, b_start, b_length, _ = examples[0]
    assert "".join(tokens[a_start : a_start + a_length]) == WEATHER
    assert "".join(tokens[b_start : b_start + b_length]) == second
    count = len(tokens)
    bounds = np.array([0, count]), np.array([0, 1])
    write_shard(tmp_path / "shard", np.zeros(count, np.uint16), np.ones(count, bool), *bounds, {"nsp_32": examples[:1]})
    stored = int(load_file(tmp_path / "shard")["nsp_32"][0, 4])
    assert stored == label
    assert ("IsNext", "NotNext")[stored] == words
    assert 1 - stored == int(second == CANCELLED), "the other reading: 1 = consecutive"


@pytest.mark.parametrize(("bias", "words"), [((4.0, -4.0), "IsNext"), ((-4.0, 4.0), "NotNext")])
def test_labels_in_weights(tmp_path, capsys, bias, words):
    """Row 0 of Hugging Face's and Google's `seq_relationship` is IsNext."""
    weights = sample_weights(PRETRAINING)
    weights["cls.seq_relationship.weight"][:] = 0
    weights["cls.seq_relationship.bias"][:] = bias
    model = write_hugging_face(tmp_path / "model", PRETRAINING, weights)
    run_stage("fill-mask", model, "the [MASK] [SEP] of b")
    assert f"{words} 100.0%" in capsys.readouterr().out


# ---- what a class is called -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "shares", "number", "meaning"),
    [
        ("mrpc", [0.02, 0.98], 1, "equivalent"),  # 今天38度 / 今天很热
        ("cola", [0.99, 0.01], 0, "unacceptable"),  # 海大球星饭茶吃
    ],
)
def test_probabilities_of_worked_examples_name_their_class(task, shares, number, meaning):
    logits = np.log([shares])
    np.testing.assert_allclose(tempered(logits, 1), [shares], atol=1e-12)
    meanings = find_task(task).meanings
    assert meanings is not None
    assert meanings[int(logits.argmax(-1)[0])] == meanings[number] == meaning


def test_classes_of_sentiment():
    """Three sentences, negative, positive, positive: 0, 1, 1 in the official files."""
    meanings = find_task("sst2").meanings
    assert meanings is not None
    assert [meanings[label] for label in (0, 1, 1)] == ["negative", "positive", "positive"]
