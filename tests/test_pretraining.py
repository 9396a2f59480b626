# SPDX-License-Identifier: Apache-2.0
"""Whole runs: resume to the bit, stops, kills, and bad input, on the made-up corpus."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import made_up_text, run_stage, small_config, TOPICS

import bert_jax.train.evaluation
import bert_jax.train.session
from bert_jax.base.errors import Interrupted, UserError
from bert_jax.config.model import ModelConfig
from bert_jax.config.objective import ObjectiveConfig, OBJECTIVES
from bert_jax.config.pretrain import PACKINGS, PhaseConfig, PretrainConfig
from bert_jax.config.settings import to_dict
from bert_jax.config.training import MeshConfig, OptimizerConfig
from bert_jax.feed.shards import open_data
from bert_jax.mesh.sharding import make_mesh
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.cost import without_clock
from bert_jax.runs.directory import RunDirectory
from bert_jax.train.pretraining import pretrain, Pretraining
from bert_jax.train.session import Session
from bert_jax.train.state import Training, TrainState

CONFIG = small_config()
# Without dropout, which the runs of CONFIG have and which takes long to compile.
PLAIN = replace(CONFIG.model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def shared(function: Callable) -> Callable:
    """`function(training, ...)`, called once for runs that differ only in when they log, evaluate and save."""
    cached = functools.cache(
        lambda *arguments: function(*(dict(x) if isinstance(x, frozenset) else x for x in arguments))
    )

    def call(training: Training, *arguments: object) -> object:
        config = replace(training.config, log_every=1, eval_every=1, save_every=1)
        hashable = [frozenset(one.items()) if isinstance(one, dict) else one for one in arguments]
        return cached(replace(training, config=config), *hashable)

    return call


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Runs of one network share their compiled programs, shapes and first parameters in this module: a resumed run would
    only trace and load them again, which test_killed_in_a_save and test_multihost.py do in processes of their own."""
    drawn = shared(lambda training, draw=Training.initial_state: jax.tree.map(np.asarray, draw(training)))

    def initial_state(training: Training) -> TrainState:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, training.abstract_state)
        return jax.device_put(drawn(training), shardings, may_alias=False)  # a step overwrites its state

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (bert_jax.train.session, "compile_train_step"),
            (bert_jax.train.evaluation, "compile_scores"),
        ):
            patch.setattr(module, name, shared(getattr(module, name)))
        patch.setattr(Training, "abstract_state", property(shared(Training.abstract_state.func)))
        patch.setattr(Training, "initial_state", initial_state)
        yield


@pytest.fixture(scope="module")
def few(prepared, tmp_path_factory) -> Path:
    """So little data that twelve steps go over it more than once at both lengths."""
    folder = tmp_path_factory.mktemp("few")
    (folder / "text.txt").write_text(made_up_text(8, seed=1), encoding="utf-8")
    options = ("--held-out", 0.4, "--sequence-length", 16, 32)
    run_stage(
        "prepare", "--input", folder / "text.txt", "--vocab", prepared.vocab, "--output", folder / "data", *options
    )
    train = open_data(folder / "data").split("train")
    for phase in CONFIG.phases:
        assert train.num_examples("nsp", phase.sequence_length) < phase.steps * phase.batch_size, (
            "an epoch must end in each phase"
        )
    return folder / "data"


@pytest.fixture(scope="module")
def straight(few, tmp_path_factory) -> Path:
    """The uninterrupted run."""
    run = tmp_path_factory.mktemp("straight") / "run"
    pretrain(CONFIG, few, run, resume_command="")
    return run


@functools.cache  # a finished run changes no more
def final_state(run: Path, config: PretrainConfig = CONFIG):
    """Everything the last checkpoint holds, as NumPy."""
    total = config.total_steps
    abstract = Training(config, make_mesh(config.mesh)).abstract_state
    checkpoints = Checkpoints(run / "checkpoints", config.keep_checkpoints)
    try:
        assert checkpoints.latest == total
        items = {"params": abstract.params, "optimizer": (abstract.opt_state, abstract.step)}
        restored = checkpoints.restore(total, items)
        assert restored["record"].pop("seconds") > 0
        assert restored["record"].pop("clock")["steps"] > 0
        restored["record"]["last_line"] = without_clock([restored["record"]["last_line"]])
        return jax.tree.map(np.asarray, restored)
    finally:
        checkpoints.close()


def scores(run: Path) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    return without_clock([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])


def stop_after(monkeypatch, steps: int) -> None:
    """SIGTERM to ourselves when that many steps have been measured."""
    original = bert_jax.train.session.Session.measured

    def measured(self, done, *arguments):
        original(self, done, *arguments)
        if done == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(bert_jax.train.session.Session, "measured", measured)


def assert_same(run: Path, straight: Path) -> None:
    jax.tree.map(np.testing.assert_array_equal, final_state(run), final_state(straight))
    assert scores(run) == scores(straight)


def test_a_run_leaves_what_the_contract_names(straight):
    assert {path.name for path in straight.iterdir()} == {
        "checkpoints",
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "model.json",
        "passport.json",
        "tensorboard",
        "tokenizer_config.json",
        "vocab.txt",
    }
    lines = scores(straight)
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("data", 0),
        ("data", 0),
        ("train", 3),
        ("eval", 5),
        ("train", 6),
        ("train", 9),
        ("eval", 10),
        ("train", 12),
        ("eval", 12),
    ]
    assert [line["phase"] for line in lines if line["kind"] != "eval"] == [0, 1, 0, 0, 1, 1]
    assert any((straight / "tensorboard").iterdir())


def test_the_objective_is_learned(prepared, tmp_path):
    """Held-out loss falls by half a nat in five steps: the whole path from text to update works."""
    pretrain(CONFIG, prepared.data, tmp_path / "run", resume_command="")
    begin, *_ = (line["mlm_loss"] for line in scores(tmp_path / "run") if line["kind"] == "eval")
    assert begin < np.log(CONFIG.model.vocab_size) - 0.5


@pytest.mark.parametrize("steps", [1, 5, 8, 10])
def test_stop_and_resume_equal_the_straight_run(few, straight, tmp_path, monkeypatch, steps):
    """Stopped by SIGTERM after k steps (within an interval of metrics, at the change of phase, inside phase two, across
    an epoch's end) and resumed: parameters, moments and metrics equal bit for bit."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Interrupted, match=r"saved at step \d+ of 12; go on with: again") as stopped:
            pretrain(CONFIG, few, run, resume_command="again")
    assert stopped.value.signal_number == signal.SIGTERM
    pretrain(CONFIG, few, run, resume_command="")
    assert_same(run, straight)


def test_a_stop_in_the_last_step_of_a_phase(few, straight, tmp_path, monkeypatch):
    """The signal comes when that step has been dispatched already and no save is due by the count of steps."""
    run, config = tmp_path / "run", replace(CONFIG, save_every=100)
    with monkeypatch.context() as patch:
        stop_after(patch, 8)
        with pytest.raises(Interrupted, match="saved at step 8 of 12"):
            pretrain(config, few, run, resume_command="")
    assert (run / "checkpoints" / "8").is_dir()
    pretrain(config, few, run, resume_command="")
    assert_same(run, straight)


RUN = """
import json, sys
from pathlib import Path
from bert_jax.config.settings import from_dict
from bert_jax.train.pretraining import pretrain
pretrain(from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), resume_command="")
"""


def test_killed_in_a_save(few, straight, tmp_path, capsys):
    """SIGKILL as soon as the save of step 8 has begun: the newest complete checkpoint is used and the result is that of
    the straight run. A folder that a save has left half done is named and not used."""
    run = tmp_path / "run"
    command = [sys.executable, "-c", RUN, json.dumps(to_dict(CONFIG)), str(few), str(run)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(path.name.startswith("8") for path in (run / "checkpoints").glob("*")):
        assert process.poll() is None, "the run ended before its second save began"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.wait()
    # What a save cut off a moment earlier leaves, whatever this kill has met.
    complete = min((run / "checkpoints").glob("[0-9]"), key=lambda path: path.name)
    shutil.copytree(complete, run / "checkpoints" / "9.orbax-checkpoint-tmp")
    pretrain(CONFIG, few, run, resume_command="")
    said = capsys.readouterr().err
    assert not list((run / "checkpoints").glob("*tmp*")), "what the cut off save left is removed"
    assert "a save was cut off (" in said
    assert "9.orbax-checkpoint-tmp" in said
    assert f"resuming {run} at step" in said
    assert_same(run, straight)


def test_the_start_says_what_was_chosen_and_how_long_it_took(prepared, tmp_path, capfd):
    """Mesh, dtype, attention with what its check has found, feed, compilation."""
    one_step, no_warm_up = (replace(CONFIG.phases[0], steps=1),), OptimizerConfig(warmup_steps=0)
    config = replace(CONFIG, model=PLAIN, attention="xla", phases=one_step, optimizer=no_warm_up, eval_every=0)
    pretrain(config, prepared.data, tmp_path / "run", resume_command="")
    said = capfd.readouterr().err
    assert "mesh: dcn 1, data 1, fsdp 1, tensor 1, on 1 of 8 cpu devices" in said
    assert "computing in float32" in said
    assert "attention: xla, checked against the reference on rows of 16 tokens: largest error" in said
    assert re.search(r"phase 0: compiled in \d+\.\d s", said)


def test_a_finished_run_says_so(few, straight, capsys):
    before = scores(straight)
    pretrain(CONFIG, few, straight, resume_command="")
    said = capsys.readouterr().err
    assert "has finished its 12 steps" in said
    assert f"bert-jax pretrain CONFIG --from {straight} --data DATA --output NEW" in said
    assert scores(straight) == before


def test_a_loss_that_is_not_finite_stops_the_run(few, tmp_path):
    """The step is named and nothing is overwritten: the checkpoints are those of before."""
    too_fast = OptimizerConfig(learning_rate=1e18, warmup_steps=0)
    config = replace(CONFIG, model=PLAIN, optimizer=too_fast, save_every=1)
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"step \d: the loss or the gradient is not finite \(mlm_loss=.*nothing is o"):
        pretrain(config, few, run, resume_command="")
    steps = [int(path.name) for path in (run / "checkpoints").glob("[0-9]*")]
    checkpoints = Checkpoints(run / "checkpoints", 3)
    abstract = Training(config, make_mesh(config.mesh)).abstract_state
    for step in steps:
        sums = checkpoints.restore(step, {"params": abstract.params})["record"]["window"]["sums"]
        assert all(np.isfinite(value) for value in sums.values())
    checkpoints.close()
    assert {line["kind"] for line in scores(run)} == {"data"}


# ---- objectives, masking and packing --------------------------------------------------------------------------------

VARIED = PhaseConfig(sequence_length=64, steps=9, batch_size=8, max_predictions_per_seq=24)


@pytest.fixture(scope="module")
def short(prepared, tmp_path_factory) -> Path:
    """Examples of all kinds and lengths: documents of short sentences, most pairs shorter than a row."""
    folder = tmp_path_factory.mktemp("short")
    rng = np.random.default_rng(0)
    words = np.concatenate(list(TOPICS.values()))
    documents = [[" ".join(rng.choice(words, rng.integers(1, 5))) + " ." for _ in range(16)] for _ in range(10)]
    text = "\n\n".join("\n".join(document) for document in documents)
    (folder / "text.txt").write_text(text + "\n", encoding="utf-8")
    options = ("--objective", *OBJECTIVES, "--held-out", 0.3, "--short-seq-prob", 0.7, "--sequence-length", 64)
    run_stage(
        "prepare", "--input", folder / "text.txt", "--vocab", prepared.vocab, "--output", folder / "data", *options
    )
    train = open_data(folder / "data").split("train")
    rows = VARIED.steps * VARIED.batch_size
    assert all(train.num_examples(objective.examples, 64) < rows for objective in OBJECTIVES.values())
    return folder / "data"


def varied(objective: str = "mlm_nsp", masking: str = "token", **changes) -> PretrainConfig:
    """Rows of 64 tokens; the share of picked tokens rises from step to step."""
    masks = {} if objective in ("ltr", "bilm") else {"masking": masking, "mlm_probability_end": 0.3}
    settings = ObjectiveConfig(objective, **masks, generator_share=0.5)
    model = replace(PLAIN, max_position_embeddings=64)
    rows = {"examples_per_row": 3, "buckets": 2}
    return replace(CONFIG, model=model, objective=settings, phases=(VARIED,), **(rows | changes))


@pytest.mark.parametrize(
    ("objective", "masking", "packing"),
    [
        ("mlm_pairs", "span", "packed"),
        ("mlm_sop", "token", "buckets"),
        ("mlm_full_sentences", "whole_word", "packed"),
        ("mlm_document", "span", "padded"),
    ],
)
def test_other_objectives_train(short, tmp_path, capfd, objective, masking, packing):
    """A short run, scored on held-out text, with the label of pairs only where it is predicted. NSP is
    trained on in the other tests, packed and in buckets in the next one."""
    config = varied(objective, masking, packing=packing, eval_every=0)
    pretrain(config, short, tmp_path / "run", resume_command="")
    data, *_, last, held_out = scores(tmp_path / "run")
    assert (data["kind"], last["kind"], held_out["kind"]) == ("data", "train", "eval")
    assert last["mlm_loss"] < np.log(CONFIG.model.vocab_size)
    pair = OBJECTIVES[objective].pair_label
    assert ("nsp_loss" in last) == ("nsp_loss" in held_out) == ("is_next_share" in last) == (pair is not None)
    if packing == "packed" and objective != "mlm_full_sentences":  # whose rows are full as they are
        assert last["examples_per_row"] > 1.05
    assert data["valid_token_share"] == pytest.approx(last["valid_token_share"], abs=0.15)
    said = capfd.readouterr().err
    assert f"by {masking.replace('_', ' ')}" in said
    assert ("sop acc" in said or "sop_acc" in said) == (objective == "mlm_sop")
    assert "nsp_" not in said


@pytest.mark.parametrize(("packing", "objective"), [("packed", "mlm_nsp"), ("buckets", "mlm_nsp"), ("packed", "bilm")])
def test_stop_and_resume_of_packed_rows_and_buckets(short, tmp_path, monkeypatch, packing, objective):
    """Stopped in a run longer than an epoch, with a mask rate that depends on the step: equal bit for bit."""
    config = varied(objective, masking="whole_word", packing=packing)
    pretrain(config, short, tmp_path / "straight", resume_command="")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Interrupted):
            pretrain(config, short, tmp_path / "run", resume_command="")
    pretrain(config, short, tmp_path / "run", resume_command="")
    jax.tree.map(
        np.testing.assert_array_equal, final_state(tmp_path / "run", config), final_state(tmp_path / "straight", config)
    )
    assert scores(tmp_path / "run") == scores(tmp_path / "straight")
    assert sum(line["kind"] == "data" for line in scores(tmp_path / "run")) == 1
    if objective == "bilm":  # which picks none
        return
    picked = [line["picked_share"] for line in scores(tmp_path / "run") if line["kind"] == "train"]
    assert picked[0] < 0.2 < picked[-1], "the share must depend on the step"


def objective_of(config: PretrainConfig, data_path: Path) -> Pretraining:
    """What a run trains on, without its directory."""
    data = open_data(data_path)
    return Pretraining(Training(config, make_mesh(config.mesh)), data, data.load_tokenizer(), None)


def fed(config: PretrainConfig, data_path: Path) -> list[dict]:
    """All batches of a run, without the run."""
    objective = objective_of(config, data_path)
    return [batch for span in objective.spans() for batch in objective.batches(span, span.begin)]


def test_each_width_is_compiled_once(short, tmp_path, monkeypatch, capsys):
    """Buckets: a program for each width when the phase begins, and each batch goes to its own."""
    compiled = []

    def compile_train_step(training, loss, batch):
        rows, width = batch["input_ids"].shape
        compiled.append((rows, width, batch["masked_lm_ids"].shape[1]))
        return lambda state, batch, limit: (None, width)

    monkeypatch.setattr(bert_jax.train.session, "compile_train_step", compile_train_step)
    objective = objective_of(varied(packing="buckets"), short)
    (phase,) = Session(objective, RunDirectory(tmp_path), None).phases(0)
    step = phase.compile()
    widths = [batch["input_ids"].shape[1] for batch in phase.feed(0)]
    assert [step(None, batch)[1] for batch in phase.feed(0)] == widths
    assert set(widths) == {32, 64}
    assert compiled == [(8, 32, 12), (8, 64, 24)]
    assert "phase 0: compiling for rows of 32, 64" in capsys.readouterr().err


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_fed_in_every_packing(short, objective, packing):
    """Each example is a row's or a part of one, with its own [CLS]; pairs alone have labels that count;
    the share of picked tokens follows the schedule to the end."""
    cls = open_data(short).load_tokenizer().cls_id
    batches = fed(varied(objective, packing=packing), short)
    assert len(batches) == VARIED.steps
    assert {batch["input_ids"].shape[1] for batch in batches} <= ({32, 64} if packing == "buckets" else {64})
    picked = []
    for batch in batches:
        examples = batch["sequence_ids"].max(1)  # [B]
        assert examples.max() <= (3 if packing == "packed" else 1)
        present = np.arange(batch["cls_positions"].shape[1])[None, :] < examples[:, None]
        starts = np.take_along_axis(batch["input_ids"], batch["cls_positions"], axis=1)
        assert (starts[present] == cls).all()
        pairs = OBJECTIVES[objective].examples in ("nsp", "sop")
        np.testing.assert_array_equal(batch["next_sentence_weights"] > 0, present & pairs)
        assert batch["segment_ids"].any() == pairs
        picked.append(batch["masked_lm_weights"].sum() / (batch["sequence_ids"] > 0).sum())
    if objective in ("ltr", "bilm"):  # all but the last token of each
        assert min(picked) > 0.8
        return
    assert picked[0] == pytest.approx(0.15, abs=0.02)
    assert picked[-1] == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("packing", PACKINGS)
def test_phases_of_one_length_go_on_in_the_stream(short, packing):
    """Two phases of four and five steps are fed the batches that one phase of nine is: no example comes again."""
    one = varied(packing=packing)
    two = replace(one, phases=(replace(VARIED, steps=4), replace(VARIED, steps=5)))
    jax.tree.map(np.testing.assert_array_equal, fed(two, short), fed(one, short))


def test_phases_with_rows_alike_are_measured_once(short, capfd):
    """Twelve phases in turn said the same twelve times, and doctor repeated each doubt as often."""
    large = replace(VARIED, batch_size=2 * VARIED.batch_size)
    phases = (VARIED, large, replace(VARIED, steps=4), replace(large, steps=3))
    config = replace(varied(), objective=ObjectiveConfig(), phases=phases)
    assert [line["phase"] for line in objective_of(config, short).first_lines()] == [0, 1]
    said = capfd.readouterr().err
    assert "data of phases 0, 2, rows of 64 tokens" in said
    assert "data of phases 1, 3, rows of 64 tokens" in said
    rising = replace(config, objective=ObjectiveConfig(mlm_probability_end=0.3))
    assert [line["phase"] for line in objective_of(rising, short).first_lines()] == [0, 1, 2, 3]


# ---- bad input: refused by name before anything is compiled ---------------------------------------------------------


def phase(**changes) -> PhaseConfig:
    return replace(CONFIG.phases[0], **changes)


REFUSED = {
    "vocabulary beyond the model": (
        lambda: replace(CONFIG, model=replace(CONFIG.model, vocab_size=50)),
        r"its vocabulary has \d+ entries and model.vocab_size=50 is smaller: set model.vocab_size=\d+",
    ),
    "sequence beyond the position table": (
        lambda: replace(CONFIG, model=replace(CONFIG.model, max_position_embeddings=16)),
        "phases.1.sequence_length=32 is beyond the position table of model.max_position_embeddings=16",
    ),
    "hidden size and heads": (
        lambda: replace(CONFIG, model=ModelConfig(hidden_size=16, num_attention_heads=3)),
        "model.hidden_size=16 is not divisible by model.num_attention_heads=3",
    ),
    "batch and mesh": (
        lambda: replace(CONFIG, mesh=MeshConfig(8), phases=(phase(batch_size=12),)),
        r"phases.0.batch_size=12 is not divisible by micro_batches=1 x data=8 x fsdp=1 = 8: use 8 or 16",
    ),
    "batch and micro-batches": (
        lambda: replace(CONFIG, micro_batches=3),
        "phases.0.batch_size=16 is not divisible by micro_batches=3",
    ),
    "heads and tensor": (
        lambda: replace(CONFIG, mesh=MeshConfig(1, 1, 8)),
        r"mesh.tensor=8 does not divide model.num_attention_heads=2, and a head is never cut: set mesh.tensor=2",
    ),
    "an attention for other devices": (lambda: replace(CONFIG, attention="pallas_tpu"), "attention=pallas_tpu"),
    "mesh and devices": (
        lambda: replace(CONFIG, mesh=MeshConfig(16)),
        "mesh data=16, fsdp=1, tensor=1 needs 16 devices and there are 8",
    ),
    "predictions that do not fit": (
        lambda: replace(CONFIG, phases=(phase(max_predictions_per_seq=1),)),
        "phases.0.max_predictions_per_seq=1 does not hold the 15% .* set phases.0.max_predictions_per_seq=2",
    ),
    "a mesh that cannot cut a parameter": (
        lambda: replace(
            CONFIG, mesh=MeshConfig(1, 8, 1), model=replace(CONFIG.model, hidden_size=12), phases=(phase(),)
        ),
        r"the parameter \S+ of shape \(.*\) cannot be cut over the mesh data=1, fsdp=8, tensor=1",
    ),
    "a warm-up that never ends": (
        lambda: replace(CONFIG, optimizer=OptimizerConfig(warmup_steps=12)),
        "a warm-up of 12 steps never ends in the 12 steps of its schedule: lower optimizer.warmup_steps",
    ),
    "a length that was not prepared": (
        lambda: replace(CONFIG, phases=(phase(sequence_length=24, max_predictions_per_seq=4),)),
        "bert-jax prepare .*--sequence-length.* 24",
    ),
    "packed rows whose predictions do not fit": (
        lambda: replace(CONFIG, packing="packed"),
        "phases.0.max_predictions_per_seq=3 does not hold the 15% .* in up to 4 examples: set .*max_predictions_per_seq=7",
    ),
    "buckets without a batch's examples": (
        lambda: replace(CONFIG, packing="buckets", phases=(phase(batch_size=512),)),
        r"packing=buckets needs at least a batch of examples: \S+ has \d+ of 16 tokens, phases.0.batch_size=512: set"
        r" phases.0.batch_size=\d+ or less, or packing=padded",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_compiling(few, tmp_path, case):
    make_config, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        pretrain(make_config(), few, tmp_path / "run", resume_command="")
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_configuration(few, straight):
    changed = replace(CONFIG, optimizer=replace(CONFIG.optimizer, learning_rate=2e-2), seed=3)
    with pytest.raises(
        UserError, match=r"another configuration \(optimizer.learning_rate: 0.01 -> 0.02; seed: 0 -> 3\)"
    ):
        pretrain(changed, few, straight, resume_command="")


def test_data_of_another_vocabulary(prepared, straight, tmp_path):
    vocab, data = tmp_path / "vocab", tmp_path / "data"
    run_stage("vocab", "--input", prepared.text, "--output", vocab, "--size", 80)
    run_stage("prepare", "--input", prepared.text, "--vocab", vocab, "--output", data, "--sequence-length", 16, 32)
    with pytest.raises(
        UserError, match=f"was trained with another vocabulary.*prepare the data with --vocab {straight}"
    ):
        pretrain(CONFIG, data, straight, resume_command="")


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - {"mlm_nsp", "mlm_pairs", "ltr", "bilm"}))
def test_data_that_was_prepared_for_another_objective(prepared, tmp_path, objective):
    """The command that prepares what is lacking is named, with what is there already."""
    data = tmp_path / "data"
    run_stage("prepare", "--input", prepared.text, "--vocab", prepared.vocab, "--output", data, "--sequence-length", 16)
    config = replace(CONFIG, objective=ObjectiveConfig(objective, generator_share=0.5), phases=CONFIG.phases[:1])
    name = "mlm_full_sentences" if objective == "rtd" else objective  # the same examples
    with pytest.raises(UserError, match=rf"run bert-jax prepare .*--objective mlm_nsp {name}") as refused:
        pretrain(config, data, tmp_path / "run", resume_command="")
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_truncated_shard(few, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(few, data)
    shard = min(data.glob("train-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"{shard.name}.*bytes.*prepare"):
        pretrain(CONFIG, data, tmp_path / "run", resume_command="")


def test_an_output_that_is_something_else(prepared, few, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and is not a run directory"):
        pretrain(CONFIG, few, tmp_path, resume_command="")
    with pytest.raises(UserError, match="is not empty and is not a run directory"):
        pretrain(CONFIG, few, prepared.vocab, resume_command="")


def test_a_write_that_fails(few, straight, tmp_path):
    """A checkpoint that cannot be written ends the run in one line with status 2; the one before it stays."""
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    shutil.rmtree(run / "checkpoints" / "12")
    limited = (
        "import resource, sys; from bert_jax.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000)); sys.exit(main(sys.argv[1:]))"
    )
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_dict(CONFIG)))
    command = ["pretrain", str(config), "--data", str(few), "--output", str(run)]
    done = subprocess.run([sys.executable, "-c", limited, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "bert-jax pretrain: " in done.stderr
    assert "a checkpoint could not be written (OUT_OF_RANGE" in done.stderr
    assert "; the newest one there, of step 8, is good: raise the limit on the size of files" in done.stderr
    assert (run / "checkpoints" / "8").is_dir()


def test_disk_full(few, tmp_path, monkeypatch, capsys):
    """Too little space for a checkpoint is said before one is begun; with space again the run goes on."""
    run = tmp_path / "run"
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000))
        with pytest.raises(
            UserError, match=r"disk full: a checkpoint takes 0.\d MiB and 0.0 MiB are free; none there is"
        ):
            pretrain(CONFIG, few, run, resume_command="")
    assert not list((run / "checkpoints").iterdir())
    pretrain(CONFIG, few, run, resume_command="")
    assert [line["step"] for line in scores(run)] == [0, 0, 3, 5, 6, 9, 10, 12, 12]
