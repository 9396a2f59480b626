# SPDX-License-Identifier: Apache-2.0
"""`bert-jax generate`: the cache of keys and values against whole forward passes, draws, the command, and bad input."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import refusal_of, run_stage
from conversion_samples import MODEL, VOCABULARY, write_hugging_face

from bert_jax.base.errors import UserError
from bert_jax.config.description import ModelDescription
from bert_jax.feed.batch import batch_of_rows
from bert_jax.use.embedding import embed, EmbedSettings
from bert_jax.use.generate import compiled_generation, generate, GenerateSettings, Generation
from bert_jax.use.model import load, Pretrained

CAUSAL = ModelDescription(replace(MODEL, causal=True), pooler=False, nsp=False)
PROMPTS = ["the a", "", "b c d of the"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two models of 20 positions as Hugging Face has them: a decoder, and a masked LM."""
    folder = tmp_path_factory.mktemp("generate")
    write_hugging_face(folder / "ltr", CAUSAL)
    write_hugging_face(folder / "both", ModelDescription(MODEL, pooler=False, nsp=False))
    return folder


@pytest.fixture(scope="module")
def model(folder) -> Pretrained:
    return load(folder / "ltr")


def next_logits(model: Pretrained, ids: Sequence[int]) -> np.ndarray:
    """[V] of the token behind `ids`, by a whole forward pass; special tokens that are never predicted are left out."""
    batch = batch_of_rows([(ids, [0] * len(ids))], 1, 20)
    batch["masked_lm_positions"][0, 0] = len(ids) - 1
    logits = np.array(model(batch).mlm_logits)[0, 0]
    logits[[model.tokenizer.pad_id, model.tokenizer.cls_id, model.tokenizer.mask_id]] = -np.inf
    return logits


def by_recomputation(model: Pretrained, prompt: str, count: int) -> list[int]:
    ids = [model.tokenizer.cls_id, *model.tokenizer.encode(prompt).ids]
    begin = len(ids)
    while len(ids) < begin + count:
        ids.append(int(next_logits(model, ids).argmax()))
        if ids[-1] == model.tokenizer.sep_id:
            return ids[begin:-1]
    return ids[begin:]


def test_greedy_is_the_argmax_of_whole_forward_passes(model):
    """Prompts of several lengths beside each other; the one without words begins at [CLS]."""
    found = generate(model, PROMPTS, GenerateSettings(tokens=10))
    assert [one.added for one in found] == [by_recomputation(model, prompt, 10) for prompt in PROMPTS]
    assert found[0].text.startswith("the a ")
    assert [len(one.prompt) for one in found] == [2, 0, 5]


def test_draws_follow_the_softmax(model):
    """The share of each first token among many draws, against softmax(logits / T), of the K likeliest alone."""
    count, temperature, top_k = 4000, 0.7, 5
    logits = next_logits(model, [model.tokenizer.cls_id, *model.tokenizer.encode("the a").ids])
    best = np.argsort(-logits)[:top_k]
    shares = np.exp((logits[best] - logits[best].max()) / temperature)
    shares /= shares.sum()
    prompt = np.full((count, 4), model.tokenizer.pad_id, np.int32)
    prompt[:, :3] = [model.tokenizer.cls_id, *model.tokenizer.encode("the a").ids]
    allowed = np.ones(len(VOCABULARY), bool)
    allowed[[model.tokenizer.pad_id, model.tokenizer.cls_id, model.tokenizer.mask_id]] = False
    program = compiled_generation(model.description, model.compute, True, top_k)
    keys = jax.random.split(jax.random.key(0), count)
    drawn = np.asarray(program(model.params, prompt, np.full(count, 3), keys, temperature, allowed)[0])[:, 3]
    assert set(drawn) <= set(best.tolist())
    found = np.array([(drawn == token).mean() for token in best])
    np.testing.assert_allclose(found, shares, atol=4 * np.sqrt(0.25 / count))


def test_weights_that_overflow_generate_no_text(model):
    """They are finite, so loading them refuses nothing; of NaN every token has the same rank."""
    huge = jax.tree.map(lambda leaf: 1e38 * np.sign(leaf), model.params)
    damaged = Pretrained(model.description, huge, model.tokenizer, model.compute, model.origin)
    with pytest.raises(UserError, match=r"NaN or infinity from weights that are finite \(the largest is 1e\+38"):
        generate(damaged, ["the a"])


def test_draws_follow_from_seed_and_prompt_alone(model):
    def drawn(prompts: Sequence[str], seed: int) -> list[Generation]:
        return generate(model, prompts, GenerateSettings(tokens=8, temperature=1.5, seed=seed))

    alone, beside, other = drawn(["the a"], 3), drawn(["the a", "b c d of the a b"], 3), drawn(["the a"], 4)
    assert alone[0] == beside[0]
    assert alone[0].added != other[0].added


def test_more_prompts_than_fit_at_once_keep_their_order(model):
    prompts = [f"{letter} the" for letter in "abcdefghijklmnopqrst"]
    found = generate(model, prompts, GenerateSettings(tokens=2))
    assert [one.text.split()[0] for one in found] == list("abcdefghijklmnopqrst")


def test_the_command_reads_prompts_a_line(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the a\n\nb c\n")))
    run_stage("generate", folder / "ltr", "--tokens", 3, "--json")
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["prompt"] for record in records] == ["the a", "b c"]
    assert all(len(record["added"]) == 3 or record["ended"] for record in records)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["both", "the a"], "is a bidirectional model"),
        (["ltr", "a " * 19], "is 20 tokens long with [CLS] and the model has 20 positions, which leaves none to add"),
        (["ltr", "a " * 30], "is 31 tokens long with [CLS] and the model has 20 positions, which leaves none to add"),
        (["ltr", "a b", "--tokens", "18"], "shorten it, or give --tokens 17 or fewer"),
        (["ltr", "a", "--tokens", "0"], "--tokens 0 is not possible"),
        (["ltr", "a", "--temperature", "-1"], "--temperature -1.0 is not possible"),
        (["ltr", "a", "--temperature", "1e-45"], "--temperature 1e-45 is not possible: use 0"),
        (["ltr", "a", "--top-k", "3"], "give --temperature too"),
        (["ltr", "a", "--seed", "3"], "give --temperature too"),
    ],
)
def test_bad_input(folder, capsys, arguments, said):
    error = refusal_of(capsys, "generate", folder / arguments[0], *arguments[1:])
    assert said in error
    if arguments[0] == "both":
        assert f"bert-jax fill-mask {folder / 'both'}" in error


def test_a_model_without_a_head_is_refused(tmp_path):
    encoder = write_hugging_face(tmp_path / "encoder", ModelDescription(MODEL, pooler=False, mlm=False, nsp=False))
    with pytest.raises(UserError, match="needs an MLM head"):
        generate(load(encoder), ["a"])


def test_a_texts_vector_may_be_its_last_tokens(folder, model, capsys):
    """`embed --pooling last`: the one token that has seen all of it; [CLS], which has seen nothing, is refused."""
    texts = ["the a b", "c"]
    found, _ = embed(texts, model, EmbedSettings(pooling="last"))
    wanted = [sequence[-1] for sequence in model.encode(texts).sequence_output]
    np.testing.assert_allclose(found, np.stack(wanted), atol=1e-5)
    (folder / "texts.txt").write_text("the a b\n")
    arguments = [folder / "ltr", "--input", folder / "texts.txt", "--output", folder / "out.npz", "--pooling", "cls"]
    assert "--pooling cls: this model is left to right" in refusal_of(capsys, "embed", *arguments)
