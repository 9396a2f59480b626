# SPDX-License-Identifier: Apache-2.0
"""Settings of fine-tuning: the paper's recipe, what the task's table fills in, what is refused by name."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bert_jax.base.errors import UserError
from bert_jax.config.fields import build
from bert_jax.config.finetune import current_assignment, current_settings, FinetuneConfig, ResolvedConfig
from bert_jax.config.model import ModelConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import differences, flatten, override, settings_help, to_dict
from bert_jax.config.training import OptimizerConfig
from bert_jax.finetuning.directory import settings_as_begun
from bert_jax.finetuning.run import Finetuning
from bert_jax.finetuning.splits import resolved
from bert_jax.runs.directory import RunDirectory
from bert_jax.tasks.table import find_task
from bert_jax.train.bad_steps import not_finite
from bert_jax.train.capsule import stopped
from bert_jax.train.optimizer import learning_rate_schedule
from bert_jax.train.pretraining import Pretraining
from bert_jax.train.state import Training


def test_defaults_are_those_of_the_paper():
    """BERT, appendix A.3: Adam with bias correction, warm-up over a tenth, 3 epochs of 32 on GLUE."""
    config = resolved(FinetuneConfig(), find_task("sst2"), positions=512)
    assert (config.batch_size, config.epochs, config.max_length) == (32, 3.0, 128)
    optimizer = config.optimizer
    assert optimizer.learning_rate in (5e-5, 4e-5, 3e-5, 2e-5)
    assert (optimizer.warmup_steps, optimizer.warmup_share, optimizer.schedule) == (None, 0.1, "linear")
    assert (optimizer.name, optimizer.b1, optimizer.b2, optimizer.weight_decay) == ("adamw", 0.9, 0.999, 0.01)
    assert (optimizer.eps, optimizer.clip_norm, optimizer.layer_decay, optimizer.freeze) == (1e-6, 1.0, 1.0, "none")
    squad = resolved(FinetuneConfig(), find_task("squad2"), positions=512)
    assert (squad.batch_size, squad.epochs, squad.optimizer.learning_rate) == (48, 2.0, 5e-5)  # section 4.3
    assert (squad.max_length, squad.stride, squad.too_long) == (384, 128, "windows")  # run_squad.py


def test_what_is_set_goes_before_the_table():
    asked = finetuning(
        "optimizer.learning_rate=1e-3", "batch_size=7", "epochs=0.5", "max_length=40", "too_long=error", "stride=9"
    )
    assert resolved(asked, find_task("squad1"), positions=64) == asked


def finetuning(*settings: str) -> FinetuneConfig:
    return override(FinetuneConfig(), settings)


def test_settings_of_earlier_runs_are_read_under_their_present_names():
    """What a finetune.json held before the optimizer's settings were those of pre-training."""
    flat = {
        "seed": 3, "learning_rate": 1e-2, "batch_size": 8, "epochs": 2.0, "warmup_share": 0.2, "bias_correction": False,
        "weight_decay": 0.02, "clip_norm": 0.0, "layer_decay": 0.9, "freeze": "1", "max_length": 32, "scan_layers": None,
        "mesh": {"data": 1, "fsdp": 1, "tensor": 1, "dcn": 1},
    }  # fmt: skip
    read = build(FinetuneConfig, current_settings(flat))
    assert read == finetuning(
        "seed=3", "batch_size=8", "epochs=2", "max_length=32", "mesh.data=1", "optimizer.name=adamw_bert",
        "optimizer.learning_rate=1e-2", "optimizer.warmup_share=0.2", "optimizer.weight_decay=0.02", "packing=buckets",
        "optimizer.clip_norm=0", "optimizer.layer_decay=0.9", "optimizer.freeze=1",
    )  # fmt: skip
    assert current_settings(to_dict(read)) == to_dict(read)
    assert build(FinetuneConfig, current_settings({**flat, "bias_correction": True})).optimizer.name == "adamw"


def test_a_run_that_was_begun_without_packed_rows_goes_on_without(tmp_path):
    """The bug: the same command, after an update, is refused as another run, or goes on in another order."""
    asked = FinetuneConfig()
    assert settings_as_begun(tmp_path / "none", asked) == asked
    for name, settings, packing in (("earlier", {"seed": 3}, "buckets"), ("today", {"packing": None}, None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "finetune.json").write_text(json.dumps({"settings": settings}))
        assert settings_as_begun(tmp_path / name, asked).packing == packing
    chosen = finetuning("packing=packed")
    assert settings_as_begun(tmp_path / "earlier", chosen) == chosen


def test_warm_up_is_a_share_or_a_number_of_steps():
    optimizer = finetuning("optimizer.warmup_steps=7").optimizer
    assert (optimizer.warmup_steps, optimizer.warmup_share) == (7, None)
    part = OptimizerConfig.of(finetuning("optimizer.warmup_share=0.25", "optimizer.learning_rate=1").optimizer)
    assert part.schedule_part(9).warmup_steps == 2
    pretraining = override(PretrainConfig(), ["optimizer.warmup_share=0.01"])
    assert pretraining.schedule_parts()[0].warmup_steps == 10_000
    for asked in (["optimizer.warmup_steps=7", "optimizer.warmup_share=0.1"], ["optimizer.warmup_share=none"]):
        with pytest.raises(UserError, match="set one of them, the other to none"):
            finetuning(*asked)


def test_rows_are_no_longer_than_the_model_has_positions():
    assert resolved(FinetuneConfig(), find_task("sst2"), positions=40).max_length == 40
    with pytest.raises(UserError, match="max_length=41 is beyond the 40 positions of the model: set max_length=40"):
        resolved(FinetuneConfig(max_length=41), find_task("sst2"), positions=40)


def test_the_rate_rises_over_a_tenth_and_falls_to_nothing():
    """run_classifier.py: num_warmup_steps = int(num_train_steps * warmup_proportion)."""
    settings = resolved(finetuning("optimizer.learning_rate=1", "epochs=1"), find_task("sst2"), 512)
    schedule = learning_rate_schedule(ResolvedConfig.of(settings, ModelConfig(), 59).schedule_parts())
    published = [step / 5 if step < 5 else 1 - step / 59 for step in range(59)]
    assert [float(schedule(step)) for step in (0, 1, 4, 5, 6, 30, 58)] == pytest.approx(
        [published[step] for step in (0, 1, 4, 5, 6, 30, 58)]
    )


def test_few_layers_are_unrolled_on_a_cpu_unless_told_otherwise():
    def scanned(layers: int, platform: str, asked: bool | None = None) -> bool:
        mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))
        config = ResolvedConfig(scan_layers=asked, model=ModelConfig(num_hidden_layers=layers))
        return Training(config, mesh).compute.scan_layers

    assert [scanned(6, "cpu"), scanned(7, "cpu"), scanned(6, "gpu"), scanned(6, "tpu")] == [False, True, True, True]
    assert scanned(6, "cpu", asked=True)
    assert not scanned(12, "tpu", asked=False)


def test_settings_survive_json_and_differences_are_named():
    config = resolved(finetuning("optimizer.freeze=2", "layers=-2,-1", "lstm=8"), find_task("weibo"), 512)
    assert build(FinetuneConfig, to_dict(config)) == config
    assert differences(config, override(config, ["epochs=1", "mesh.data=1"])) == ["epochs: 3.0 -> 1.0"]


def test_help_documents_every_setting():
    text = settings_help(FinetuneConfig())
    for name in to_dict(FinetuneConfig()):
        assert f"  {name}=" in text or f"  {name}." in text


def test_layers_are_read_as_numbers():
    assert override(FinetuneConfig(), ["layers=-4,-3,-2,-1"]).chosen_layers == (-4, -3, -2, -1)
    assert override(FinetuneConfig(), ["layers=-1"]).chosen_layers == (-1,)
    assert FinetuneConfig().chosen_layers == ()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed=-1", "seed=-1 is out of range"),
        ("optimizer.warmup_share=1", "optimizer.warmup_share=1.0 must be at least 0 and less than 1"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate=0.0 must be more than 0"),
        ("batch_size=0", "batch_size=0 must be more than 0"),
        ("epochs=nan", "epochs=nan is no number that can be used"),
        ("max_length=4", "max_length=4 is too short: use at least 8"),
        ("buckets=0", "buckets=0 must be more than 0"),
        ("too_long=cut", "too_long=cut is not known: choose one of error, truncate, windows, none"),
        ("normalisation=all", "normalisation=all is not known: choose one of nbest, window, question"),
        ("broken_tags=keep", "broken_tags=keep is not known: choose one of repair, refuse"),
        ("layers=last", "layers=last is no list of numbers: write -4,-3,-2,-1"),
        ("optimizer.layer_decay=0", "optimizer.layer_decay=0.0 must be more than 0 and at most 1"),
        (
            "optimizer.freeze=most",
            "optimizer.freeze=most is not known: use none, embeddings, encoder or a number of layers",
        ),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay=-1.0 is not possible: use 0 or more"),
        ("optimizer.clip_norm=-1", "optimizer.clip_norm=-1.0 is not possible: use 0 or more"),
        ("combine=max", "combine=max is not known: choose one of concat, sum, mean, mix"),
        ("fusion=sum", "fusion=sum is not known: choose one of mean, max, attention"),
        ("lstm=-2", "lstm=-2 is not possible: use 0 or more"),
        ("learning_rate", "'learning_rate' is not a setting: write KEY=VALUE, such as optimizer.learning_rate=3e-4"),
        ("leaning_rate=1e-5", "unknown setting 'leaning_rate': did you mean 'optimizer.learning_rate'?"),
        ("learning_rate=1e-5", "there is no setting 'learning_rate' here: write optimizer.learning_rate"),
        ("bias_correction=false", "write optimizer.name=adamw (with) or adamw_bert (without)"),
        ("phases.1.steps=9", "there is no setting 'phases.1.steps' here: write epochs"),
        ("optimizer.name=sgd", "optimizer.name=sgd is not known: choose one of adamw_bert, adamw, lamb"),
        ("optimizer.schedule=step", "optimizer.schedule=step is not known: choose one of linear, cosine, constant"),
        ("mesh.data=0", "are not possible"),
    ],
)
def test_refused_by_name(assignment, message):
    with pytest.raises(UserError) as refused:
        override(FinetuneConfig(), [assignment])
    assert message in str(refused.value)
    known = {key for key, _ in flatten(to_dict(FinetuneConfig()))} | {"data", "fsdp", "tensor"}  # of "mesh sizes ..."
    named = set(re.findall(r"([a-z_][a-z_0-9.]*)=", str(refused.value)))
    assert named <= known, "the name of a setting that is not there"


@pytest.mark.parametrize(("objective", "config"), [(Finetuning, FinetuneConfig()), (Pretraining, PretrainConfig())])
def test_a_loss_that_is_not_finite_is_mended_by_settings_of_the_stage(objective, config):
    refused = stopped(3, not_finite({"task_loss": float("nan")}), RunDirectory(Path("run")), objective.remedy)
    assert str(refused).startswith("step 3: the loss or the gradient is not finite (task_loss=nan)")
    named = re.findall(r"(?:lower|raise|lengthen) ([a-z_.]+)", str(refused))
    assert len(named) == 2
    assert set(named) <= {key for key, _ in flatten(to_dict(config))}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("learning_rate=3e-5", "optimizer.learning_rate=3e-5"),
        ("warmup_share=0.2", "optimizer.warmup_share=0.2"),
        ("bias_correction=False", "optimizer.name=adamw_bert"),
        ("bias_correction=true", "optimizer.name=adamw"),
        ("epochs=2", "epochs=2"),
        ("optimizer.b2=0.98", "optimizer.b2=0.98"),
    ],
)
def test_scripts_of_earlier_versions_still_run(before, now):
    assert current_assignment(before) == now
    override(FinetuneConfig(), [now])
