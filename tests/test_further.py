# SPDX-License-Identifier: Apache-2.0
"""Further pre-training: from a model of any format, with what it lacks drawn anew, and what it cannot begin with refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal_of, run_stage, small_config

from bert_jax.base.errors import UserError
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.training import OptimizerConfig
from bert_jax.conversion.checkpoints import Asked, open_checkpoint
from bert_jax.conversion.convert import convert
from bert_jax.conversion.entry_map import map_entries
from bert_jax.conversion.further import pretrain_further, Start
from bert_jax.conversion.own_format import flat
from bert_jax.rerun.reproduce import reproduce
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.directory import RunDirectory
from bert_jax.tokenization import load_tokenizer, WordPieceTokenizer
from bert_jax.train.pretraining import pretrain

PLAIN = replace(small_config().model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
ENCODER_ALONE, MLM_ALONE = ("bert.pooler.*", "cls.*"), ("bert.pooler.*", "cls.seq_relationship.*")


def recipe(steps: int = 4, **changes) -> PretrainConfig:
    """One phase of rows of 16 tokens, without dropout."""
    phase = PhaseConfig(sequence_length=16, steps=steps, batch_size=16, max_predictions_per_seq=3)
    settings = {
        "model": PLAIN,
        "phases": (phase,),
        "eval_every": 0,
        "save_every": 2,
        "log_every": 2,
        "keep_checkpoints": 9,
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
    }
    return small_config(**(settings | changes))


@pytest.fixture(scope="module")
def source(prepared, tmp_path_factory) -> Path:
    """A finished run of 8 steps."""
    run = tmp_path_factory.mktemp("source") / "run"
    pretrain(recipe(8, save_every=4), prepared.data, run, resume_command="")
    return run


@pytest.fixture(scope="module")
def hugging_face(source, tmp_path_factory) -> Path:
    """The same for Hugging Face."""
    folder = tmp_path_factory.mktemp("hugging_face") / "model"
    assert convert(source, folder, "huggingface").holds
    return folder


def further(model: Path, data: Path, run: Path, config: PretrainConfig, *settings: str, **start) -> RunDirectory:
    asked = Asked(padding_rows="keep", skip=start.pop("skip", ()), head=False)
    return pretrain_further(config, settings, Start(model, asked=asked, **start), data, run, resume_command="")


def parameters(run: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """The parameters of a run's checkpoint, flat."""
    moved = run.parent / f"{run.name}-at-{step}"
    if step is not None and not moved.exists():
        shutil.copytree(run, moved)
        for folder in (moved / "checkpoints").iterdir():
            if folder.name != str(step):
                shutil.rmtree(folder)
    place = run if step is None else moved
    return {name: np.asarray(array) for name, array in flat(open_checkpoint(place).parameters()).items()}


def lines(run: Path, kind: str) -> list[dict]:
    read = (run / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, read) if line["kind"] == kind]


@pytest.mark.parametrize(
    ("skip", "drawn"),
    [((), []), (MLM_ALONE, ["nsp", "pooler"]), (ENCODER_ALONE, ["mlm", "nsp", "pooler"])],
    ids=["everything", "MLM alone", "encoder alone"],
)
def test_what_the_model_has_is_taken_to_the_bit(source, hugging_face, prepared, tmp_path, capsys, skip, drawn):
    """And what it lacks is what the seed draws. At step 0 held-out text is scored as the model scored it at its end."""
    run = further(hugging_face, prepared.data, tmp_path / "run", recipe(2), skip=skip)
    assert run.source()["drawn"] == drawn
    assert run.source()["summary"] in capsys.readouterr().err
    theirs, ours = parameters(source), parameters(run.path, 0)
    new = {name for name in ours if name.removeprefix("encoder/").split("/")[0] in drawn}
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours.keys() - new)
    assert all(not np.array_equal(ours[name], theirs[name]) for name in new if name.endswith("kernel"))
    last, first = lines(source, "eval")[-1], lines(run.path, "eval")[0]
    assert first["step"] == 0
    if not drawn:
        assert first["mlm_loss"] == pytest.approx(last["mlm_loss"], abs=1e-6)
        assert first["nsp_loss"] == pytest.approx(last["nsp_loss"], abs=1e-6)


def test_a_stopped_run_goes_on_to_the_bit_without_its_model(hugging_face, prepared, tmp_path):
    """From a checkpoint in its middle, and from the one before the first step."""
    model = Path(shutil.copytree(hugging_face, tmp_path / "model"))
    straight = further(model, prepared.data, tmp_path / "straight", recipe(), skip=ENCODER_ALONE).path
    expected, measured = parameters(straight), lines(straight, "train")
    for step in (2, 0):
        stopped = Path(shutil.copytree(straight, tmp_path / f"stopped-{step}"))
        for folder in (stopped / "checkpoints").iterdir():
            if int(folder.name) > step:
                shutil.rmtree(folder)
        model.rename(tmp_path / "gone")
        further(model, prepared.data, stopped, recipe(), skip=ENCODER_ALONE)
        (tmp_path / "gone").rename(model)
        found = parameters(stopped)
        assert all(np.array_equal(found[name], value) for name, value in expected.items())
        assert [line["mlm_loss"] for line in lines(stopped, "train")] == [line["mlm_loss"] for line in measured]
        assert len(lines(stopped, "data")) == len(lines(stopped, "eval")) - 1 == 1, "nothing is measured twice"
    assert reproduce(straight, tmp_path / "again").equal, "the model is opened again"


def test_a_run_that_another_model_began_is_not_taken_for_the_same(source, hugging_face, prepared, tmp_path):
    run = further(
        hugging_face, prepared.data, tmp_path / "run", recipe(1, optimizer=OptimizerConfig(warmup_steps=0))
    ).path
    config = RunDirectory(run).config()
    with pytest.raises(UserError, match=rf"began with another --from \(path: {hugging_face} -> {source}\)"):
        further(source, prepared.data, run, config)
    with pytest.raises(UserError, match=rf"holds a run that began with {hugging_face}: give --from"):
        pretrain(config, prepared.data, run, resume_command="")
    with pytest.raises(UserError, match=r"began with weights drawn anew: give no --from"):
        further(hugging_face, prepared.data, source, RunDirectory(source).config())


def test_moments_and_the_step_are_taken_where_they_are_asked_for(source, prepared, tmp_path):
    """With the step a run that was stopped, and gone on with elsewhere, ends with the parameters of the straight one."""
    stopped = Path(shutil.copytree(source, tmp_path / "stopped"))
    shutil.rmtree(stopped / "checkpoints" / "8")
    settings = recipe(8, save_every=4)
    run = further(stopped, prepared.data, tmp_path / "run", settings, keep="step").path
    expected, found = parameters(source), parameters(run)
    assert all(np.array_equal(found[name], value) for name, value in expected.items())
    warm = further(stopped, prepared.data, tmp_path / "warm", recipe(2), keep="moments").path
    cold = further(stopped, prepared.data, tmp_path / "cold", recipe(2)).path
    with Checkpoints(warm / "checkpoints") as at, Checkpoints(stopped / "checkpoints") as before:
        theirs, ours = (one._read(step, {"optimizer": None})["optimizer"] for one, step in ((before, 4), (at, 0)))
    names = ["mu", "nu"]
    for name in names:
        mine, yours = (flat(_moments(tree)[name]) for tree in (ours, theirs))
        assert all(np.array_equal(mine[key], yours[key]) for key in yours)
        assert any(np.asarray(value).any() for value in mine.values())
    with_them, without = parameters(warm), parameters(cold)
    assert not np.array_equal(with_them["encoder/embeddings/word"], without["encoder/embeddings/word"])


def _moments(tree) -> dict:
    """The part of a restored optimizer's state that has moments."""
    if isinstance(tree, dict) and "mu" in tree:
        return tree
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return next((found for found in map(_moments, parts) if found), {})


def test_google_s_training_run_is_gone_on_with(source, prepared, tmp_path):
    """Stopped at step 4, as a TF1 checkpoint with its moments, and on: the parameters of the straight run, to the bit."""
    pytest.importorskip("tensorflow")
    stopped = Path(shutil.copytree(source, tmp_path / "stopped"))
    shutil.rmtree(stopped / "checkpoints" / "8")
    assert convert(stopped, tmp_path / "google", "tf1").holds
    run = further(tmp_path / "google", prepared.data, tmp_path / "run", recipe(8, save_every=4), keep="step").path
    expected, found = parameters(source), parameters(run)
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


def test_shape_is_the_models_and_all_else_the_recipes(hugging_face, prepared, tmp_path):
    """Another objective: without labels of pairs there is neither pooler nor NSP head, and that is recorded."""
    other = recipe(
        2,
        model=replace(PLAIN, hidden_size=64, num_hidden_layers=3, hidden_dropout_prob=0.2),
        objective=ObjectiveConfig("mlm_document"),
    )
    run = further(hugging_face, prepared.data, tmp_path / "run", other)
    model = run.config().model
    assert (model.hidden_size, model.num_hidden_layers, model.hidden_dropout_prob) == (16, 1, 0.2)
    assert run.source()["left_out"] == ["nsp", "pooler"]
    assert not run.description().pooler
    assert not run.description().nsp


# ---- another vocabulary --------------------------------------------------------------------------------------------


def test_rows_go_by_the_text_of_their_pieces():
    """Kept, the mean of the pieces that the old vocabulary makes of the new one, or drawn; in NumPy."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    old = WordPieceTokenizer([*special, "sea", "##side", "##s", "side"], lowercase=True)
    new = WordPieceTokenizer([*special, "seaside", "side", "##seas", "bay", "sea", "[unused1]"], lowercase=True)
    mapped = map_entries(old, new)
    assert mapped.counts() == {"kept": 7, "means": 2, "drawn": 2}
    table = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    drawn = np.full((11, 4), 7.0, np.float32)
    rows = mapped.rows(table, drawn)
    expected = np.stack(
        [*table[:5], (table[5] + table[6]) / 2, table[8], (table[5] + table[7]) / 2, drawn[0], table[5], drawn[0]]
    )
    np.testing.assert_allclose(rows, expected, atol=1e-7)
    assert np.array_equal(rows[6], table[8])


@pytest.fixture(scope="module")
def other_data(prepared, tmp_path_factory) -> Path:
    """The text with a vocabulary of 80 entries."""
    folder = tmp_path_factory.mktemp("other")
    run_stage("vocab", "--input", prepared.text, "--output", folder / "vocab", "--size", 80)
    options = ("--sequence-length", 16, "--workers", 1)
    run_stage("prepare", "--input", prepared.text, "--vocab", folder / "vocab", "--output", folder / "data", *options)
    return folder / "data"


def test_another_vocabulary_is_refused_or_mapped(source, hugging_face, prepared, other_data, tmp_path, capsys):
    with pytest.raises(UserError, match=r"another vocabulary .* are in both\): prepare it with --vocab .*--map-vocab"):
        further(hugging_face, other_data, tmp_path / "run", recipe())
    with pytest.raises(UserError, match=r"--map-vocab: .* has the vocabulary of .*: leave the option out"):
        further(hugging_face, prepared.data, tmp_path / "run", recipe(), map_vocabulary=True)
    with pytest.raises(UserError, match="moments do not fit the rows of another vocabulary"):
        further(source, other_data, tmp_path / "run", recipe(), map_vocabulary=True, keep="moments")
    assert not (tmp_path / "run").exists()
    run = further(hugging_face, other_data, tmp_path / "run", recipe(2), map_vocabulary=True)
    old, new = load_tokenizer(prepared.data), load_tokenizer(other_data)
    assert run.config().model.vocab_size == new.vocab_size
    assert sum(run.source()["entries"].values()) == new.vocab_size
    ids = [
        (old.vocabulary.index(piece), number) for number, piece in enumerate(new.vocabulary) if piece in old.vocabulary
    ]
    theirs, ours = (side["encoder/embeddings/word"] for side in (parameters(source), parameters(run.path, 0)))
    assert all(np.array_equal(theirs[before], ours[now]) for before, now in ids)
    assert f"{run.source()['entries']['kept']:,} keep their rows" in capsys.readouterr().err


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_settings_that_contradict_the_model_are_named(hugging_face, prepared, tmp_path):
    place = hugging_face, prepared.data, tmp_path / "run", recipe()
    with pytest.raises(UserError, match=rf"model\.hidden_size=32 is not that of {hugging_face}, which has 16: leave"):
        further(*place, "model.hidden_size=32")
    with pytest.raises(UserError, match=r"model\.hidden_size=128 is not that of"):
        further(*place, "model=tiny")
    with pytest.raises(
        UserError, match=r"phases\.0\.sequence_length=64 is longer than the 32 positions of .*vocab extend"
    ):
        further(*place, "phases.0.sequence_length=64", "phases.0.max_predictions_per_seq=10")
    with pytest.raises(UserError, match=r"model\.max_position_embeddings=64 is not .*vocab extend .* --positions N"):
        further(*place, "model.max_position_embeddings=64")
    assert not (tmp_path / "run").exists()
    assert further(*place, "model.hidden_size=16", "model.hidden_dropout_prob=0.1", "phases.0.steps=3").path.is_dir()


def test_moments_that_cannot_be_taken_are_named(source, hugging_face, prepared, tmp_path):
    place = prepared.data, tmp_path / "run", recipe()
    with pytest.raises(UserError, match=r"--keep moments: .* has no moments of an optimizer: leave it out"):
        further(hugging_face, *place, keep="moments")
    with pytest.raises(UserError, match=r"moments of .* are those of adamw_bert, and optimizer\.name=lamb cannot"):
        further(source, *place, "optimizer.name=lamb", keep="moments")
    with pytest.raises(UserError, match=r"is at step 8, and this configuration ends at 4: raise phases\.0\.steps"):
        further(source, *place, keep="step")


def test_models_that_are_not_whole_or_no_bert_are_named(hugging_face, prepared, tmp_path):
    roberta = Path(shutil.copytree(hugging_face, tmp_path / "roberta"))
    config = json.loads((roberta / "config.json").read_text())
    (roberta / "config.json").write_text(json.dumps(config | {"model_type": "roberta"}))
    with pytest.raises(UserError, match=r"config of a roberta model, which is no BERT \(positions count from 2"):
        further(roberta, prepared.data, tmp_path / "run", recipe())
    sharded = Path(shutil.copytree(hugging_face, tmp_path / "sharded"))
    names = list(open_checkpoint(hugging_face, Asked(padding_rows="keep")).tensors.entries)
    (sharded / "model.safetensors").rename(sharded / "model-00001-of-00002.safetensors")
    weights = dict.fromkeys(names[1:], "model-00001-of-00002.safetensors") | {
        names[0]: "model-00002-of-00002.safetensors"
    }
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    missing = r"1 (is|are) missing beside it \(model-00002-of-00002\.safetensors\): copy or download"
    with pytest.raises(UserError, match=missing):
        further(sharded, prepared.data, tmp_path / "run", recipe())
    (bare := Path(shutil.copytree(hugging_face, tmp_path / "bare")))
    for file in ("vocab.txt", "tokenizer.json"):
        (bare / file).unlink()
    with pytest.raises(UserError, match="has no vocabulary: put its vocab"):
        further(bare, prepared.data, tmp_path / "run", recipe())
    assert not (tmp_path / "run").exists()


def test_a_finished_or_converted_run_names_this_way_on(source, hugging_face, prepared, tmp_path, capsys):
    command = rf"bert-jax pretrain CONFIG --from {source} --data DATA --output NEW"
    pretrain(RunDirectory(source).config(), prepared.data, source, resume_command="")
    assert command in capsys.readouterr().err
    longer = replace(RunDirectory(source).config(), phases=(replace(recipe().phases[0], steps=12),))
    with pytest.raises(
        UserError, match=rf"holds a finished run of another configuration \(phases\.0\.steps: 8 -> 12\): .*{command}"
    ):
        pretrain(longer, prepared.data, source, resume_command="")
    assert convert(hugging_face, tmp_path / "ours", "bert-jax", Asked(padding_rows="keep")).holds
    with pytest.raises(UserError, match=rf"holds a converted model: .*--from {tmp_path / 'ours'}"):
        pretrain(recipe(), prepared.data, tmp_path / "ours", resume_command="")
    assert further(tmp_path / "ours", prepared.data, tmp_path / "run", recipe(2)).source()["drawn"] == []


@pytest.mark.parametrize(
    "option", [["--keep", "moments"], ["--map-vocab"], ["--gelu", "gelu_erf"], ["--skip", "cls.*"]]
)
def test_options_of_a_model_without_one_are_refused(prepared, tmp_path, capsys, option):
    error = refusal_of(capsys, "pretrain", "tiny", "--data", prepared.data, "--output", tmp_path / "run", *option)
    assert f"{option[0]} is of a model to begin with: name it with --from" in error
