# SPDX-License-Identifier: Apache-2.0
"""Configurations as text: overrides, dictionaries, files; what is refused, by name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bert_jax.base.errors import UserError
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import differences, flatten, from_dict, load_config, override, settings_help, to_dict

DEFAULT = PretrainConfig()
CONFIGS = Path(__file__).parents[1] / "configs"
NAMED = sorted(path.stem for path in CONFIGS.glob("[!_]*.py") if path.stem != "finetune")


@pytest.mark.parametrize("name", NAMED)
def test_named_configurations_load_and_survive_json(name):
    config = load_config(name)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", NAMED)
def test_a_named_configuration_tells_its_commands(name):
    text = (CONFIGS / f"{name}.py").read_text(encoding="utf-8")
    assert f"bert-jax pretrain {name} " in text or name == "demo"


def test_overrides_are_typed():
    config = override(
        DEFAULT,
        ["model=tiny", "optimizer.learning_rate=3e-4", "phases.0.steps=1_000", "objective=mlm_pairs", "seed=7"],
    )
    assert config.model.hidden_size == 128
    assert config.optimizer.learning_rate == 3e-4
    assert config.phases[0].steps == 1_000
    assert config.objective.name == "mlm_pairs"
    assert config.objective.nsp is False
    assert config.seed == 7
    assert override(DEFAULT, ["optimizer.learning_rate=1"]).optimizer.learning_rate == 1.0
    phase = override(DEFAULT, ["phases.1.learning_rate=1e-3", "phases.1.warmup_steps=5"]).phases[1]
    assert (phase.learning_rate, phase.warmup_steps) == (1e-3, 5)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "optimizer.leaning_rate=1",
            "unknown setting 'optimizer.leaning_rate': did you mean 'optimizer.learning_rate'?",
        ),
        ("color=red", "unknown setting 'color': the settings here are optimizer, mesh, distill, seed"),
        ("epochs=3", "there is no setting 'epochs' here: write phases.0.steps"),
        ("learning_rate=1e-3", "there is no setting 'learning_rate' here: write optimizer.learning_rate"),
        ("phases.\N{SUPERSCRIPT TWO}.steps=1", "does not exist: phases has the entries 0 to 1"),
        ("phases.4.steps=1", "'phases.4' does not exist: phases has the entries 0 to 1"),
        ("seed=x", "seed='x' is not of type int"),
        ("seed=1.5", "seed=1.5 is not of type int"),
        ("scan_layers=1", "scan_layers=1 is not of type bool"),
        ("phases=3", "'phases' is a group of settings: set one of them, such as phases.0.sequence_length=..."),
        ("optimizer.learning_rate", "'optimizer.learning_rate' is not a setting: write KEY=VALUE"),
        ("model=huge", "model=huge is not a known size: choose one of tiny"),
        ("optimizer.name=sgd", "optimizer.name=sgd is not known: choose one of adamw_bert, adamw, lamb"),
        ("objective.mlm_probability=0", "objective.mlm_probability=0.0 must be more than 0"),
        ("objective.mask_share=0.95", "add up to more than 1"),
        ("model.hidden_dropout_prob=1", "model.hidden_dropout_prob=1.0 must be at least 0 and less than 1"),
        ("mesh.data=0", "are not possible: use numbers from 1, and -1 at most once"),
        ("mesh.fsdp=-1", "are not possible: use numbers from 1, and -1 at most once"),
        ("seed=-1", "seed=-1 is out of range"),
        ("phases.0.learning_rate=1e-3", "phases.learning_rate and phases.warmup_steps go together"),
    ],
)
def test_refused_by_name(assignment, message):
    with pytest.raises(UserError) as refused:
        override(DEFAULT, [assignment])
    assert message in str(refused.value)


def test_differences_leave_out_what_a_resumed_run_may_change():
    changed = override(DEFAULT, ["mesh.fsdp=2", "micro_batches=2", "save_every=5", "remat=full", "seed=1"])
    assert differences(DEFAULT, changed) == ["seed: 0 -> 1"]


def test_help_documents_every_setting():
    text = settings_help()
    for key, _ in flatten(to_dict(replace(DEFAULT, phases=DEFAULT.phases[:1]))):
        assert f"  {key}=" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("config = 3\n", "does not define `config = PretrainConfig(...)`"),
        ("config = (\n", "cannot be read as a configuration: SyntaxError"),
        ("from bert_jax.config import PretrainConfig\nconfig = PretrainConfig(sede=1)\n", "TypeError"),
        ("from bert_jax.config import *\nconfig = PretrainConfig(seed=-1)\n", "seed=-1 is out of range"),
    ],
)
def test_broken_configuration_files(tmp_path, content, message):
    path = tmp_path / "mine.py"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"^{path}: ") as refused:
        load_config(path)
    assert message in str(refused.value)


def test_json_of_a_run_with_an_unknown_key(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_dict(DEFAULT) | {"sede": 1}), encoding="utf-8")
    with pytest.raises(UserError, match="unknown setting 'sede': did you mean 'seed'"):
        load_config(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not JSON"):
        load_config(path)


def test_numbers_stand_for_text_where_text_is_wanted():
    """On the command line `optimizer.freeze=2` is read as a number; a number wanted is never read as text."""
    assert override(DEFAULT, ["optimizer.freeze=2"]).optimizer.freeze == "2"
    changed = override(DEFAULT, ["optimizer.freeze=encoder", "remat=full"])
    assert override(changed, ["optimizer.freeze=none", "remat=none"]) == DEFAULT
    with pytest.raises(UserError, match=r"optimizer\.schedule=none is not known"):
        override(DEFAULT, ["optimizer.schedule=none"])
    assert override(DEFAULT, ["optimizer.freeze=encoder", "optimizer.layer_decay=1"]).optimizer.layer_decay == 1.0
    with pytest.raises(UserError, match=r"optimizer\.freeze=1\.5 is not of type str"):
        override(DEFAULT, ["optimizer.freeze=1.5"])


def test_other_configurations_are_read_and_documented_too():
    config = override(FinetuneConfig(), ["optimizer.learning_rate=3e-5", "epochs=4", "max_length=none", "mesh.data=2"])
    assert (config.optimizer.learning_rate, config.epochs, config.max_length, config.mesh.data) == (3e-5, 4.0, None, 2)
    with pytest.raises(
        UserError, match="unknown setting 'color': the settings here are optimizer, mesh, distill, seed"
    ):
        override(FinetuneConfig(), ["color=red"])
    with pytest.raises(UserError, match="there is no setting 'model' here: write --model"):
        override(FinetuneConfig(), ["model=base"])
    assert "  optimizer.learning_rate=none" in settings_help(FinetuneConfig())
