# SPDX-License-Identifier: Apache-2.0
"""Distillation in pre-training: the teacher's terms beside others' formulas, under any cut of a batch, and whole runs."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_stage, small_config
from flax import nnx
from scipy.special import log_softmax, rel_entr, softmax
from test_train_step import B, make_batch, MASK, PLAIN, SHAPE, VOCAB

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.base.files import write_json
from bert_jax.config.description import ModelDescription
from bert_jax.config.distill import PretrainDistillConfig
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.pretrain import PhaseConfig
from bert_jax.config.training import MeshConfig
from bert_jax.conversion import names
from bert_jax.conversion.own_format import config_for, write_run
from bert_jax.conversion.teachers import open_teacher
from bert_jax.mesh.sharding import make_mesh, parameter_path, put_on_mesh
from bert_jax.model.dropout import row_seeds
from bert_jax.rerun.opening import open_again
from bert_jax.rerun.overfit import overfit
from bert_jax.rerun.replay import replay
from bert_jax.rerun.reproduce import reproduce
from bert_jax.runs.cost import without_clock
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.reading import read_metrics
from bert_jax.tokenization import load_tokenizer, WordPieceTokenizer
from bert_jax.train.bad_steps import total_loss
from bert_jax.train.distillation import (
    DistillationLoss,
    hidden_scores,
    relation_scores,
    require_teacher,
    soft_distance,
    summed,
    TEACHER,
    Teacher,
)
from bert_jax.train.masked_lm import batch_fields, MaskedLmLoss
from bert_jax.train.pretraining import pretrain
from bert_jax.train.state import DROPOUT, Training
from bert_jax.train.step import accumulate_gradients, compile_train_step

# Two layers beside the run's one of 32 in 4 heads, as wide or narrower.
STUDENT = replace(PLAIN, num_hidden_layers=1)
DEEPER = replace(STUDENT, num_hidden_layers=2)
NARROW = replace(DEEPER, hidden_size=24, num_attention_heads=6, intermediate_size=48)
ALL = PretrainDistillConfig(
    labels=0.5, soft=0.8, temperature=3.0, hidden=0.7, hidden_size=24, relations=0.6, relation_heads=4
)
TOKENIZER = WordPieceTokenizer(
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(VOCAB - 5))], lowercase=True
)


# ---- the terms -----------------------------------------------------------------------------------------------------


def test_soft_targets_are_the_divergence_at_a_temperature():
    """SciPy's relative entropy of softmaxes, times the temperature squared; what counts by its weight."""
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(0, 4, (2, 5, 3, 11)).astype(np.float32)
    weights = rng.integers(0, 2, (5, 3)).astype(np.float32)
    found = summed(soft_distance(logits, targets, 2.5), weights)
    wanted, given = (softmax(x.astype(np.float64) / 2.5, axis=-1) for x in (targets, logits))
    np.testing.assert_allclose(found.loss, (rel_entr(wanted, given).sum(-1) * 2.5**2 * weights).sum(), rtol=1e-5)
    assert float(found.weight) == weights.sum()
    np.testing.assert_allclose(soft_distance(logits, logits, 2.5), 0, atol=1e-5)


def relations_by_numpy(student, teacher, sequence_ids, heads):
    """MiniLM's equations 4 to 7, row by row, head by head, query by query."""
    total = 0.0
    for row, ids in enumerate(sequence_ids):
        for place in np.flatnonzero(ids > 0):
            seen = np.flatnonzero(ids == ids[place])
            for one, other in ((0, 1), (2, 2)):
                for head in range(heads):
                    logs = []
                    for network in (teacher, student):
                        size = network[0].shape[-1] // heads
                        cut = slice(head * size, (head + 1) * size)
                        products = network[other][row, seen, cut] @ network[one][row, place, cut]
                        logs.append(log_softmax(products / np.sqrt(size)))
                    total += rel_entr(*np.exp(logs)).sum() / heads
    return total


@pytest.mark.parametrize(("width", "heads"), [(12, 3), (8, 2)])
def test_relations_are_minilm_s(width, heads):
    """Of networks of other widths, in packed rows with padding; a token is related to its own example alone."""
    rng = np.random.default_rng(1)
    ids = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1]], np.int32)
    student, teacher = (
        [rng.normal(0, 1.5, (2, 7, size)).astype(np.float32) for _ in range(3)] for size in (width, 4 * heads)
    )
    found = relation_scores(tuple(map(jnp.asarray, student)), tuple(map(jnp.asarray, teacher)), ids, heads)
    np.testing.assert_allclose(found.loss, relations_by_numpy(student, teacher, ids, heads), rtol=1e-5)
    assert float(found.weight) == 12


def test_layers_stand_beside_those_at_the_same_height():
    """Embeddings beside embeddings, two layers beside the third and the sixth of six; beside the second and third of three."""
    ids = np.array([[1, 1, 0]], np.int32)
    for layers, beside in ((6, [0, 3, 6]), (3, [0, 2, 3]), (1, [0, 1, 1])):
        teacher = np.arange(layers + 1, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 3, 4), np.float32)
        student = np.zeros((3, 1, 3, 4), np.float32)
        found = hidden_scores(student, teacher, ids)
        assert float(found.loss) == pytest.approx(2 * np.square(beside).mean())
        assert float(found.weight) == 2


# ---- the step ------------------------------------------------------------------------------------------------------


def training_on(
    mesh: tuple[int, int, int] = (1, 1, 1), micro_batches: int = 1, distill: PretrainDistillConfig = ALL, **changes
) -> Training:
    settings = {"model": STUDENT, "mesh": MeshConfig(*mesh), "micro_batches": micro_batches, "distill": distill}
    config = small_config(**(settings | changes))
    return Training(config, make_mesh(config.mesh))


def drawn(description: ModelDescription, seed: int):
    """Parameters of a model, drawn far apart, so that distances are no rounding."""
    rng, shapes = np.random.default_rng(seed), replace(training_on(), described=description).abstract_state.params

    def draw(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        scale = parameter_path(path).endswith("scale")
        return (scale + rng.normal(0, 0.02 if scale else 0.2, leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def teacher_with(model=DEEPER, **parts) -> Teacher:
    """A teacher whose weights are drawn."""
    description = ModelDescription(model, **({"pooler": False, "nsp": False} | parts))
    return Teacher("TEACHER", description, TOKENIZER, 32, {}, lambda: drawn(description, 7))


def loss_of(training: Training, teacher: Teacher | None = None) -> DistillationLoss:
    teacher = teacher or teacher_with(NARROW)
    own = MaskedLmLoss(training.config.objective.nsp, MASK)
    return DistillationLoss(own, teacher, training.config.distill, VOCAB, teacher.on_mesh(training))


def one_step(training: Training):
    loss = loss_of(training)
    step = compile_train_step(training, loss, batch_fields(SHAPE))
    first = training.initial_state()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, first.params)
    first = first.beginning_with(jax.device_put(drawn(training.description, 0), shardings))
    state, sums = step(first, put_on_mesh(training.mesh, make_batch()))
    assert "teacher" not in state.params
    return {name: float(value) for name, value in sums.items()}, jax.tree.map(np.asarray, state)


@pytest.fixture(scope="module")
def one_device():
    return one_step(training_on())


@pytest.mark.parametrize(("mesh", "micro_batches"), [((2, 2, 2), 1), ((1, 1, 1), 4), ((4, 1, 1), 2), ((2, 2, 1), 2)])
def test_any_cut_gives_the_same_step(one_device, mesh, micro_batches):
    """Sums, parameters and moments, which hold the gradients; the teacher is cut by the same table."""
    sums, state = one_step(training_on(mesh, micro_batches))
    assert sums == pytest.approx(one_device[0], rel=1e-5, abs=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), state, one_device[1])


def test_the_gradient_is_that_of_the_weighted_means_and_none_is_the_teacher_s():
    """In four micro-batches with unequal counts, one of them without a masked token."""
    training, batch = training_on(micro_batches=4), make_batch()
    loss, params = loss_of(training), drawn(training.description, 0)
    seeds = row_seeds(training.key(DROPOUT), 0, B)

    def by_hand(params):
        scores = loss.scores(training, params, batch, None)
        mean = {name: score.loss / score.weight for name, score in scores.items()}
        taught = 0.8 * mean["soft"] + 0.7 * mean["hidden"] + 0.6 * mean["relations"]
        return 0.5 * mean["mlm"] + 0.5 * mean["nsp"] + taught

    def both(params):
        wanted = jax.value_and_grad(by_hand)({**params, **loss.fixed})
        return wanted, accumulate_gradients(training, loss, params, batch, seeds)

    (by_hand_value, wanted), (found, scores) = jax.jit(both)(params)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(wanted.pop(TEACHER)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), found, wanted)
    assert {name: float(score.weight) for name, score in scores.items()} == {
        "mlm": batch["masked_lm_weights"].sum(),
        "nsp": B,
        "soft": batch["masked_lm_weights"].sum(),
        "hidden": batch["sequence_ids"].sum(),
        "relations": batch["sequence_ids"].sum(),
    }
    sums = {f"{name}_{part}": float(value) for name, score in scores.items() for part, value in score._asdict().items()}
    assert total_loss(sums, training.config) == pytest.approx(float(by_hand_value), rel=1e-5)


def test_labels_that_count_nothing_cost_no_gradient():
    def products(labels):
        training = training_on(distill=replace(ALL, labels=labels))
        seeds = row_seeds(training.key(DROPOUT), 0, B)
        loss, params = loss_of(training), drawn(training.description, 0)
        step = partial(accumulate_gradients, training, loss)
        return str(jax.make_jaxpr(step)(params, make_batch(), seeds)).count("dot_general")

    assert products(0.0) < products(0.5)


def test_vectors_of_other_widths_are_compared_through_the_projection():
    """NumPy's square of the difference: the embeddings' and the one layer's vectors, projected, beside two layers of 24."""
    training = training_on()
    loss, params, batch = loss_of(training), drawn(training.description, 0), make_batch()
    with jax.disable_jit():
        found = loss.scores(training, {**params, **loss.fixed}, batch, None)["hidden"]
        models = nnx.merge(training.graph, params), loss.teacher.model(training, loss.fixed)
        ours, theirs = (np.asarray(model.encode(batch, all_layers=True).all_layers) for model in models)
    kernel, bias = (params["teacher_projection"][name] for name in ("kernel", "bias"))
    assert kernel.shape == (32, 24)
    squares = np.square(ours @ kernel + bias - theirs[[0, 2]]).mean((0, 3))
    np.testing.assert_allclose(found.loss, squares[batch["sequence_ids"] > 0].sum(), rtol=1e-5)


def test_a_student_that_is_the_teacher_has_nothing_to_learn_of_it():
    training = training_on(distill=replace(ALL, labels=0.0, hidden_size=None, relation_heads=None))
    same = drawn(training.description, 0)
    teacher = Teacher("SAME", training.description, TOKENIZER, 32, {}, lambda: same)
    loss = loss_of(training, teacher)
    with (
        jax.disable_jit()
    ):  # compiled, the two are rounded apart, and 30 tokens add that up to 1.2e-5 on some processors
        scores = loss.scores(training, {**same, **loss.fixed}, make_batch(), None)
    for name in ("soft", "hidden", "relations"):
        assert float(scores[name].loss) == pytest.approx(0, abs=1e-5)


# ---- what is refused -----------------------------------------------------------------------------------------------


def refused(match: str, distill: PretrainDistillConfig, model=DEEPER, objective: str = "mlm_nsp", **parts) -> None:
    changes = parts.pop("changes", {})
    training = training_on(distill=distill, objective=ObjectiveConfig(name=objective))
    with pytest.raises(UserError, match=match):
        require_teacher(training, replace(teacher_with(model, **parts), **changes), TOKENIZER)


def test_a_teacher_that_cannot_teach_this_is_refused():
    soft, none = PretrainDistillConfig(), {"soft": 0.0, "temperature": 2.0}
    relations = PretrainDistillConfig(**none, relations=1.0)
    refused(
        "with pooler, NSP, and distill.soft=1 needs an MLM head: set distill.soft=0",
        soft,
        mlm=False,
        pooler=True,
        nsp=True,
    )
    hidden = PretrainDistillConfig(hidden=1.0)
    refused("compares vectors, which are 32 wide in this run: set distill.hidden_size=24", hidden, NARROW)
    refused("which are 16 wide in this run: set distill.hidden_size=24", replace(hidden, hidden_size=16), NARROW)
    refused("the teacher has 6 heads and the model 4: say with distill.relation_heads .* such as 4", relations, NARROW)
    refused(
        "relation_heads=3 does not divide .* use a divisor of 8, such as 4",
        replace(relations, relation_heads=3),
        NARROW,
    )
    refused("soft, hidden and relations are 0", PretrainDistillConfig(**none))
    refused("a pair of objective.name=mlm_nsp has 2 segments", soft, replace(DEEPER, type_vocab_size=1))
    refused("rows of 16 tokens at most, and this run has rows of 32", soft, changes={"longest": 16})
    refused("one of the two models is left to right", soft, replace(DEEPER, causal=True))
    refused("acts with objectives that predict masked tokens", soft, objective="rtd")
    entries = [*TOKENIZER.vocabulary[:-1], "other"]
    other = WordPieceTokenizer(entries, lowercase=True)
    refused("another vocabulary .*95 are in both", soft, changes={"tokenizer": other})
    training = training_on(distill=replace(relations, relation_heads=8))
    require_teacher(training, teacher_with(NARROW, mlm=False), TOKENIZER)  # deeper, narrower, without a head


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"soft": -1.0}, "distill.soft=-1.0"),
        ({"temperature": 0.0}, "distill.temperature=0.0 must be more than 0"),
        ({"soft": 0.0, "temperature": 3.0}, "distill.temperature=3.0 is of distill.soft, which is 0"),
        ({"relation_heads": 2}, "distill.relation_heads=2 is of distill.relations, which is 0"),
        ({"hidden_size": 24}, "distill.hidden_size=24 is of distill.hidden, which is 0"),
        ({"hidden": 1.0, "hidden_size": -1}, "distill.hidden_size=-1 must be more than 0"),
    ],
)
def test_settings_that_cannot_be(settings, match):
    with pytest.raises(UserError, match=match):
        PretrainDistillConfig(**settings)


# ---- whole runs ----------------------------------------------------------------------------------------------------

PHASE = PhaseConfig(sequence_length=16, steps=4, batch_size=16, max_predictions_per_seq=3)
CONFIG = small_config(
    objective=ObjectiveConfig(name="mlm_full_sentences"),
    phases=(PHASE,),
    distill=replace(ALL, relations=0.0, relation_heads=None),
    eval_every=2,
    save_every=2,
    log_every=2,
    keep_checkpoints=9,
)
OF_TEACHER = replace(CONFIG.model, hidden_size=24, num_attention_heads=3, num_hidden_layers=2)


def write_teacher(folder: Path, prepared, seed: int = 0, **parts) -> Path:
    """A run of ours with drawn weights and the vocabulary of the prepared data."""
    description = ModelDescription(OF_TEACHER, **({"pooler": False, "nsp": False} | parts))
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    load_tokenizer(prepared.data).save(folder)
    write_run(
        folder,
        description,
        lambda row: rng.normal(row.ours.endswith("scale"), 0.2, names.shape_of(row, description)).astype(np.float32),
        config_for(description),
    )
    return folder


@pytest.fixture(scope="module")
def teacher(prepared, tmp_path_factory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "run", prepared)


def distilled(data: Path, run: Path, teacher: Path | None, config=CONFIG) -> RunDirectory:
    model = None if teacher is None else open_teacher(teacher)
    return pretrain(config, data, run, resume_command="", teacher=model)


@pytest.fixture(scope="module")
def run(prepared, teacher, tmp_path_factory) -> Path:
    return distilled(prepared.data, tmp_path_factory.mktemp("distilled") / "run", teacher).path


def lines_of(run: Path) -> list[dict]:
    return without_clock(read_metrics(run / "metrics.jsonl")[0])


def test_a_run_logs_the_teacher_s_terms(run, teacher):
    for line in (line for line in lines_of(run) if line["kind"] == "train"):
        taught = 0.8 * line["soft_loss"] + 0.7 * line["hidden_loss"]
        assert line["loss"] == pytest.approx(0.5 * line["mlm_loss"] + taught)
        assert min(line["soft_loss"], line["hidden_loss"]) > 0.01
        assert "relations_loss" not in line
    assert all("soft_loss" not in line for line in lines_of(run) if line["kind"] == "eval")
    record = RunDirectory(run).teacher()
    assert (record["path"], record["format"]) == (str(teacher), "bert-jax")
    assert set(bert_jax.load(run).params) == {"encoder", "mlm"}


def test_scores_of_heads_that_a_run_did_not_train_say_so(run, tmp_path, capsys, prepared):
    alone = Path(shutil.copytree(run, tmp_path / "alone"))
    config = json.loads((alone / "config.json").read_text())
    config["distill"] |= {"labels": 0.0, "soft": 0.0, "temperature": 2.0}
    write_json(alone / "config.json", config)
    assert bert_jax.load(run).origin.weights is None
    run_stage("evaluate", alone, "--data", prepared.data)
    assert "step 4, not trained by it (distill.labels=0): mlm, validation" in capsys.readouterr().out


def test_a_stopped_run_goes_on_to_the_bit(run, teacher, prepared, tmp_path, capsys):
    again = Path(shutil.copytree(run, tmp_path / "again"))
    shutil.rmtree(again / "checkpoints" / "4")
    moved = Path(shutil.copytree(teacher, tmp_path / "moved"))  # the same one at another place
    distilled(prepared.data, again, moved)
    assert RunDirectory(again).teacher()["path"] == str(moved)
    assert "soft x 0.8, hidden x 0.7; temperature 3" in capsys.readouterr().err
    assert lines_of(again) == lines_of(run)
    jax.tree.map(np.testing.assert_array_equal, *(bert_jax.load(path).params for path in (run, again)))


def test_a_run_goes_on_with_its_own_teacher_alone(run, teacher, prepared, tmp_path):
    other = write_teacher(tmp_path / "other", prepared, seed=1)
    with pytest.raises(UserError, match=r"holds a run with the teacher .*run \(2 layers of 24.*other has the weights"):
        distilled(prepared.data, run, other)
    with pytest.raises(
        UserError, match=r"distill.labels=0.5 says what is learned of a teacher: name it with --teacher"
    ):
        distilled(prepared.data, run, None)
    started = Path(shutil.copytree(run, tmp_path / "started"))
    (started / "teacher.json").unlink()
    with pytest.raises(UserError, match="holds a run without a teacher: give no --teacher"):
        distilled(prepared.data, started, teacher)
    gone = Path(shutil.copytree(run, tmp_path / "gone"))
    shutil.copytree(other, tmp_path / "changed")
    write_json(gone / "teacher.json", RunDirectory(run).teacher() | {"path": str(tmp_path / "changed")})
    with pytest.raises(UserError, match=r"its teacher .*changed was changed since"):
        open_again(gone)


def test_it_is_computed_again_with_its_teacher(run, tmp_path):
    found = reproduce(run, tmp_path / "again")
    assert (found.equal, found.checkpoint) == (True, 4)
    assert RunDirectory(tmp_path / "again").teacher() == RunDirectory(run).teacher()
    replayed = replay(run, step=3)
    assert not replayed.is_bad
    assert replayed.sums["soft_loss"] > 0
    learned = overfit(run, seconds=2)
    assert learned.losses[-1] < learned.losses[0]


def test_its_page_and_card_tell_of_the_teacher(run, tmp_path):
    run_stage("convert", run, tmp_path / "converted", "--to", "huggingface", "--padding-rows", "drop")
    assert "It learned from run too (2 layers of 24" in (tmp_path / "converted" / "README.md").read_text()
    run_stage("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "2 layers of 24" in page
    assert "Distance of predictions" in page
    assert "Difference of vectors" in page
    assert "Distance of relations" not in page
