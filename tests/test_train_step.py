# SPDX-License-Identifier: Apache-2.0
"""The train step on meshes and micro-batches: the same loss, gradient and update, however the batch is cut."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from conftest import small_config
from flax import nnx

from bert_jax.config.description import ModelDescription
from bert_jax.config.model import ModelConfig
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.training import MeshConfig, OptimizerConfig
from bert_jax.feed.batch import BatchShape
from bert_jax.mesh.sharding import make_mesh, put_on_mesh
from bert_jax.train.masked_lm import batch_fields, batch_statistics, MaskedLmLoss
from bert_jax.train.state import DROPOUT, Training, TrainState
from bert_jax.train.step import compile_scores, compile_train_step, train_step

B, S, M = 16, 16, 4
VOCAB, MASK = 96, 4
SHAPE = BatchShape(B, S, M)
MODEL = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=32,
)
PLAIN = replace(MODEL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # compiles faster


def make_batch(seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of different lengths with different numbers of predictions, from none to four."""
    rng = np.random.default_rng(seed)
    valid = np.arange(S)[None, :] < rng.integers(6, S + 1, (B, 1))
    predicted = np.arange(M)[None, :] < (np.arange(B)[:, None] * 5 // B)
    return {
        "input_ids": np.where(valid, rng.integers(5, VOCAB, (B, S)), 0).astype(np.int32),
        "segment_ids": np.where(valid, np.arange(S)[None, :] > 4, 0).astype(np.int32),
        "sequence_ids": valid.astype(np.int32),
        "position_ids": np.broadcast_to(np.arange(S), (B, S)).astype(np.int32),
        "masked_lm_positions": np.where(predicted, 1 + np.arange(M)[None, :], 0).astype(np.int32),
        "masked_lm_ids": np.where(predicted, rng.integers(5, VOCAB, (B, M)), 0).astype(np.int32),
        "masked_lm_weights": predicted.astype(np.float32),
        "cls_positions": np.zeros((B, 1), np.int32),
        "next_sentence_labels": rng.integers(0, 2, (B, 1)).astype(np.int32),
        "next_sentence_weights": np.ones((B, 1), np.float32),
    }


def training_on(mesh: tuple[int, int, int], micro_batches: int = 1, **changes) -> Training:
    settings = {"model": MODEL, "mesh": MeshConfig(*mesh), "micro_batches": micro_batches}
    config = small_config(**(settings | changes))
    # The first phase's batch is that of the tests.
    return Training(config, make_mesh(config.mesh))


def loss_of(training: Training) -> MaskedLmLoss:
    return MaskedLmLoss(training.config.objective.nsp, MASK)


def one_step(training: Training, state: TrainState, batch):
    return train_step(training, loss_of(training), state, batch, training.key(DROPOUT), training.schedule)


@cache
def drawn(model: ModelConfig) -> TrainState:
    """A model's first state, as NumPy."""
    return jax.tree.map(np.asarray, training_on((1, 1, 1), model=model).initial_state())


def first_state(training: Training) -> TrainState:
    """`training.initial_state()`, without compiling it for each mesh: see test_the_first_state_is_that_of_one_device."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, training.abstract_state)
    return jax.device_put(drawn(training.config.model), shardings, may_alias=False)  # a step overwrites its state


def run_steps(training: Training, steps: int = 3):
    """(sums of each step, parameters and moments after them)."""
    state = first_state(training)
    step = compile_train_step(training, loss_of(training), batch_fields(BatchShape(B, S, 6, 3)))
    history = []
    for number in range(steps):
        state, sums = step(state, put_on_mesh(training.mesh, uneven_batch(number)))
        history.append({name: float(value) for name, value in sums.items()})
    return history, jax.tree.map(np.asarray, (state.params, state.opt_state))


@pytest.fixture(scope="module")
def one_device():
    """Three steps on one device, with dropout 0.1."""
    return run_steps(training_on((1, 1, 1)))


@pytest.mark.parametrize(
    ("mesh", "micro_batches"),
    [((8, 1, 1), 1), ((1, 8, 1), 1), ((2, 2, 2), 1), ((1, 1, 4), 1), ((1, 1, 1), 4), ((2, 2, 1), 2), ((2, 2, 2), 2)],
)
def test_any_cut_gives_the_same_steps(one_device, mesh, micro_batches):
    """Rows of one to three examples, meshes and micro-batches with unequal numbers of them and of masked tokens, some with
    none: counts, losses, gradient norm, parameters and both moments, which hold the gradients, to 1e-5, dropout included.
    """
    history, state = run_steps(training_on(mesh, micro_batches))
    for sums, expected in zip(history, one_device[0], strict=True):
        assert sums == pytest.approx(expected, rel=1e-5, abs=1e-5)
    jax.tree.map(
        lambda found, wanted: np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5), state, one_device[1]
    )


def test_steps_do_change_the_parameters(one_device):
    """The comparison above must compare something."""
    moved = jax.tree.map(lambda old, new: float(np.abs(old - new).max()), drawn(MODEL).params, one_device[1][0])
    # The key's bias shifts all scores of a query alike: softmax does not see it, its gradient is rounding noise.
    moved["encoder"]["layers"]["attention"]["key"].pop("bias")
    # Segment and position rows, every kernel, every bias: all have moved by more than the tolerance.
    assert min(jax.tree.leaves(moved)) > 1e-4


def test_parameters_are_cut_over_the_mesh():
    """State is created sharded: with fsdp=8 a device holds an eighth of a kernel and of its moments."""
    state = training_on((1, 8, 1)).initial_state()
    kernel = state.params["encoder"]["layers"]["feed_forward"]["intermediate"]["kernel"]
    assert kernel.shape == (2, 32, 64)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 4, 64)}
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel.shape]
    assert all(leaf.sharding == kernel.sharding for leaf in moments)
    assert len(moments) == 2  # first and second


@pytest.mark.parametrize("mesh", [(1, 8, 1), (2, 2, 2)])
def test_the_first_state_is_that_of_one_device(mesh):
    """Each device draws its own part of the same random numbers."""
    state = training_on(mesh).initial_state()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-7), state, drawn(MODEL))


def test_losses_are_weighted_means():
    """The sums divide to the mean over real predictions: doubling a filler's label or a row's weight shows."""
    training = training_on((1, 1, 1))
    step = compile_scores(training, loss_of(training), batch_fields(SHAPE))
    params = first_state(training).params
    batch = make_batch()
    mlm, nsp = step(params, put_on_mesh(training.mesh, batch)).values()
    assert float(mlm.weight) == batch["masked_lm_weights"].sum()
    assert float(nsp.weight) == B
    filler = {**batch, "masked_lm_ids": np.where(batch["masked_lm_weights"] > 0, batch["masked_lm_ids"], 7)}
    assert float(step(params, put_on_mesh(training.mesh, filler))["mlm"].loss) == float(mlm.loss)
    # Untrained: near ln V and ln 2.
    assert float(mlm.loss / mlm.weight) == pytest.approx(np.log(VOCAB), abs=0.1)
    assert float(nsp.loss / nsp.weight) == pytest.approx(np.log(2), abs=0.1)


def test_without_nsp_its_head_gets_no_gradient():
    """Of a run of an earlier version, which has one: segments stay, the label is not predicted."""
    objective, moving = ObjectiveConfig("mlm_pairs"), OptimizerConfig(learning_rate=1e-2, warmup_steps=0)
    training = training_on((1, 1, 1), objective=objective, optimizer=moving, model=PLAIN)
    training = replace(training, described=ModelDescription(PLAIN))
    batch = {name: jax.numpy.asarray(field) for name, field in make_batch().items()}

    @jax.jit
    def heads_after(state: TrainState):
        """What is not asked for is not compiled."""
        state, _ = one_step(training, state, batch)
        mu = state.opt_state[1].mu
        return mu["nsp"]["kernel"], mu["mlm"]["bias"], state.params["nsp"]["kernel"]

    state = first_state(training)
    pair, words, kernel = map(np.asarray, heads_after(state))
    assert not pair.any()
    assert words.any()
    assert (kernel != state.params["nsp"]["kernel"]).any()
    np.testing.assert_allclose(kernel, state.params["nsp"]["kernel"], rtol=1e-3)  # decay only


def test_dropout_changes_with_the_step_and_the_seed():
    """Keys are fold_in(key, step): the same batch gives another loss at another step."""
    training = training_on((1, 1, 1))
    other = replace(training, config=replace(training.config, seed=1))
    batch = {name: jax.numpy.asarray(field) for name, field in make_batch().items()}
    # The loss alone: the rest of the step is not compiled.
    loss = [jax.jit(lambda state, of=of: one_step(of, state, batch)[1]["mlm_loss"]) for of in (training, other)]
    state = first_state(training)
    losses = [
        float(loss[seed](state._replace(step=np.int32(number)))) for seed, number in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert losses[0] == losses[1]
    assert len(set(losses[1:])) == 3


def test_statistics_of_a_batch():
    """Counts by hand (shares are measured, not assumed)."""
    batch = {
        "input_ids": np.array([[2, MASK, 8, 9, 3, 0], [2, 7, 8, MASK, 6, 3]]),
        "sequence_ids": np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 2, 2, 2]]),
        "masked_lm_positions": np.array([[1, 2, 3], [3, 0, 0]]),
        "masked_lm_ids": np.array([[5, 8, 6], [9, 0, 0]]),
        "masked_lm_weights": np.array([[1, 1, 1], [1, 0, 0]], np.float32),
        "cls_positions": np.array([[0, 0], [0, 3]]),
        "next_sentence_labels": np.array([[1, 1], [0, 1]]),
        "next_sentence_weights": np.array([[1, 0], [1, 1]], np.float32),
    }
    found = batch_statistics({name: jax.numpy.asarray(field) for name, field in batch.items()}, MASK)
    assert {name: float(value) for name, value in found.items()} == {
        "rows": 2,
        "row_tokens": 12,
        "examples": 3,
        "valid_tokens": 11,
        "squared_lengths": 25 + 9 + 9,
        "masked": 2,
        "kept": 1,
        "not_next": 2,
    }


# ---- packed rows: each example as if it were alone ------------------------------------------------------------------

PACKED = ((5, 7, 4), (9, 6))  # lengths of the examples of each row, of 16 tokens
LENGTHS = [length for row in PACKED for length in row]
OWN_IDS = 12  # ids from 5 on that each example has for itself, so that gradients of the table tell examples apart


def make_example(number: int) -> dict[str, np.ndarray]:
    """One example of the five, with a row of its own and two predictions; its ids are in no other example."""
    rng, length = np.random.default_rng(number), LENGTHS[number]
    place = np.arange(S)
    own = 5 + OWN_IDS * number + rng.integers(0, OWN_IDS, S)
    positions = np.sort(rng.choice(np.arange(1, length), 2, replace=False))
    fields = {
        "input_ids": np.where(place < length, own, 0),
        "segment_ids": ((place > length // 2) & (place < length)).astype(int),
        "sequence_ids": (place < length).astype(int),
        "position_ids": place,
        "masked_lm_positions": np.append(positions, [0] * (M - 2)),
        "masked_lm_ids": np.append(rng.integers(5, VOCAB, 2), [0] * (M - 2)),
        "masked_lm_weights": np.array([1, 1] + [0] * (M - 2)),
        "cls_positions": np.array([0]),
        "next_sentence_labels": np.array([number % 2]),
        "next_sentence_weights": np.array([1]),
    }
    return {name: field.astype(np.float32 if "weights" in name else np.int32) for name, field in fields.items()}


def alone() -> dict[str, np.ndarray]:
    """The five examples, a row each."""
    rows = [make_example(number) for number in range(len(LENGTHS))]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def packed() -> dict[str, np.ndarray]:
    """The five examples in two rows. The predictions of a row's second example stand before the first's."""
    size = {"masked_lm": 6, "cls": 3, "next_sentence": 3}
    widths = {name: size.get(name.rsplit("_", 1)[0], S) for name in make_example(0)}
    batch = {name: np.zeros((2, width), make_example(0)[name].dtype) for name, width in widths.items()}
    number = 0
    for row, lengths in enumerate(PACKED):
        begin = 0
        for place, length in enumerate(lengths):
            example, tokens = make_example(number), slice(begin, begin + length)
            for name in ("input_ids", "segment_ids", "position_ids"):
                batch[name][row, tokens] = example[name][:length]
            batch["sequence_ids"][row, tokens] = place + 1
            slots = slice(2 * (1 - place), 2 * (2 - place)) if place < 2 else slice(4, 6)
            batch["masked_lm_positions"][row, slots] = begin + example["masked_lm_positions"][:2]
            batch["masked_lm_ids"][row, slots] = example["masked_lm_ids"][:2]
            batch["masked_lm_weights"][row, slots] = 1
            batch["cls_positions"][row, place] = begin
            batch["next_sentence_labels"][row, place] = example["next_sentence_labels"][0]
            batch["next_sentence_weights"][row, place] = 1
            begin, number = begin + length, number + 1
    return batch


def uneven_batch(number: int) -> dict[str, np.ndarray]:
    """Sixteen rows with one to three examples, with none to five predictions each, more in later rows."""
    batch = {name: np.concatenate([field] * 4 + [field[1:], field[:1]] * 4) for name, field in packed().items()}
    words = batch["input_ids"]
    batch["input_ids"] = np.where(words > 0, 5 + (words - 5 + 7 * number) % (VOCAB - 5), 0).astype(np.int32)
    alone = batch["sequence_ids"] == 1  # all that is left of every third row
    for name in ("input_ids", "segment_ids", "sequence_ids", "position_ids"):
        batch[name][::3] *= alone[::3]
    own = np.take_along_axis(batch["sequence_ids"], batch["masked_lm_positions"], axis=1) == 1
    batch["masked_lm_weights"][::3] *= own[::3]
    batch["next_sentence_weights"][::3, 1:] = 0
    rank = np.cumsum(batch["masked_lm_weights"], axis=1)
    batch["masked_lm_weights"] *= rank <= (np.arange(B) * 7 // B)[:, None]
    batch["next_sentence_weights"][::5] = 0
    return batch


def summed_loss(training: Training, params, batch, mlm: float, nsp: float):
    """The sums of both losses, without dropout."""
    scores = loss_of(training).scores(training, params, batch, None)
    return mlm * scores["mlm"].loss + nsp * scores["nsp"].loss


@pytest.fixture(scope="module")
def untied() -> tuple[Training, dict]:
    """Two layers with a decoder of their own, so that the table's gradient comes through the encoder alone; weights ten
    times as large as a model's at its start, so that attention is not uniform and a leak would show."""
    training = training_on((1, 1, 1), model=replace(MODEL, tie_word_embeddings=False, initializer_range=0.2))
    return training, first_state(training).params


@pytest.fixture(scope="module")
def gradient(untied):
    """(parameters, batch, weight of the MLM loss, of the NSP loss) -> (the weighted sum of both, its gradient)."""
    training, _ = untied
    return jax.jit(jax.value_and_grad(lambda *arguments: summed_loss(training, *arguments)))


@pytest.mark.parametrize(("mlm", "nsp"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_packed_rows_equal_each_example_alone(untied, gradient, mlm, nsp):
    """Losses and the gradient of every parameter of MLM and NSP, in float32, to 1e-5."""
    _, params = untied
    (loss, found), (expected_loss, expected) = (gradient(params, batch, mlm, nsp) for batch in (packed(), alone()))
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected)) > 1, "there is something to compare"


def test_packed_outputs_equal_each_example_alone(untied):
    """Logits of every prediction and of every pair, to 1e-5."""
    training, params = untied
    forward = jax.jit(lambda batch: nnx.merge(training.graph, params)(batch))
    found, expected = forward(packed()), forward(alone())
    weights = packed()["next_sentence_weights"] > 0
    np.testing.assert_allclose(found.nsp_logits[weights], expected.nsp_logits[:, 0], atol=1e-5)
    order = [1, 0, 2, 4, 3]  # of the predictions, see `packed`
    real = packed()["masked_lm_weights"] > 0
    logits = np.asarray(found.mlm_logits)[real].reshape(len(LENGTHS), 2, VOCAB)
    np.testing.assert_allclose(logits, np.asarray(expected.mlm_logits)[order, :2], atol=1e-5)


def test_packing_changes_no_count_of_work():
    """Model FLOPs follow from tokens, squared lengths and predictions of the examples, not from the rows they are in."""
    found, expected = (batch_statistics(batch, MASK) for batch in (packed(), alone()))
    for name in ("examples", "valid_tokens", "squared_lengths", "not_next"):
        assert float(found[name]) == float(expected[name]), name
    assert float(found["examples"]) == len(LENGTHS)
    assert float(found["squared_lengths"]) == sum(length**2 for length in LENGTHS)
    assert float(found["row_tokens"]) == 2 * S


@pytest.mark.parametrize("number", range(len(LENGTHS)))
def test_an_example_gets_no_gradient_from_its_neighbours(untied, gradient, number):
    """The loss of one packed example: exactly zero at every id that only the others hold."""
    _, params = untied
    batch = packed()
    row, place = [(row, place) for row, lengths in enumerate(PACKED) for place in range(len(lengths))][number]
    own = np.zeros_like(batch["next_sentence_weights"])
    own[row, place] = 1
    slots = np.take_along_axis(batch["sequence_ids"], batch["masked_lm_positions"], axis=1) == place + 1
    slots &= np.arange(len(PACKED))[:, None] == row
    batch |= {"next_sentence_weights": own, "masked_lm_weights": batch["masked_lm_weights"] * slots}
    table = np.asarray(gradient(params, batch, 1.0, 1.0)[1]["encoder"]["embeddings"]["word"])
    mine = np.unique(make_example(number)["input_ids"][: LENGTHS[number]])
    assert (np.abs(table[mine]).max(1) > 1e-3).all()
    assert not np.delete(table, mine, axis=0).any()
