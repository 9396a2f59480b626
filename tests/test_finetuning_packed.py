# SPDX-License-Identifier: Apache-2.0
"""Several examples in a row: each once an epoch, little padding, one shape, and to each it is as if it were alone."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from finetune_samples import MODEL
from test_finetuning_batches import LONGEST, table_of

from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.finetune import ResolvedConfig
from bert_jax.config.model import ModelConfig
from bert_jax.config.training import MeshConfig, OptimizerConfig
from bert_jax.feed.packing import fill_rows
from bert_jax.finetuning.batches import Draw, draw_rows, encoder_fields, NOBODY, RowTable, Units, units_of_rows
from bert_jax.finetuning.losses import TaskLoss
from bert_jax.finetuning.packed import choose_row_size, packed_draw, packed_passes, PackedOrder, shares_rows
from bert_jax.mesh.sharding import make_mesh
from bert_jax.tasks.rows import Row
from bert_jax.train.state import Training
from bert_jax.train.step import accumulate_gradients


def drawn(draw: Draw) -> list[int]:
    return sorted(draw.examples[draw.examples != NOBODY].tolist())


def made_up_lengths(count: int) -> np.ndarray:
    """Spread like those of sentences: many short ones, few long."""
    return np.clip(np.random.default_rng(0).lognormal(2.6, 0.5, count).astype(np.int64) + 2, 4, 66)


def units_of_lengths(lengths: np.ndarray) -> Units:
    return units_of_rows(RowTable([Row([7] * int(n), [0] * int(n), number) for number, n in enumerate(lengths)]))


# ---- which examples share a row ------------------------------------------------------------------------------------


def test_rows_hold_every_sequence_once_and_no_more_than_fits():
    lengths = made_up_lengths(300)
    rows = fill_rows(lengths, 72, 5)
    assert sorted(rows[rows != NOBODY].tolist()) == list(range(300))
    tokens = np.where(rows == NOBODY, 0, lengths[rows]).sum(1)
    assert tokens.max() <= 72
    assert rows.shape[1] == 5
    filled_up = rows == NOBODY
    assert not (filled_up[:, :-1] & ~filled_up[:, 1:]).any()  # behind the last only


@pytest.mark.parametrize(("size", "multiple"), [(8, 1), (5, 8), (1, 1)])
def test_every_example_is_seen_once_an_epoch(size, multiple):
    units = units_of_rows(table_of([1] * 53))
    order, orders = PackedOrder(units, size, seed=3, hidden_size=16, row_multiple=multiple), []
    for epoch in range(2):
        draws = [order.draw(epoch * order.steps_per_epoch + step) for step in range(order.steps_per_epoch)]
        numbers = [number for draw in draws for number in drawn(draw)]
        assert sorted(numbers) == list(range(53))
        counts = [len(drawn(draw)) for draw in draws]
        # No short batch at the end: some have one example less.
        assert max(counts) <= size
        assert min(counts) >= size - 1
        assert all(draw.shape.rows % multiple == 0 for draw in draws)
        orders.append(numbers)
    assert orders[0] != orders[1]


def test_a_batch_is_a_function_of_seed_and_step():
    units = units_of_rows(table_of([1] * 40))

    def order(seed: int) -> PackedOrder:
        return PackedOrder(units, 8, seed, hidden_size=16)

    one, other = order(1), order(1)
    for step in (11, 0, 7):  # of another epoch, backwards
        np.testing.assert_array_equal(one.draw(step).rows, other.draw(step).rows)
    assert drawn(order(2).draw(0)) != drawn(one.draw(0))


def test_devices_do_not_change_which_examples_share_a_row():
    units = units_of_rows(table_of([1] * 40))
    one, many = (PackedOrder(units, 8, 1, hidden_size=16, row_multiple=multiple) for multiple in (1, 16))
    for step in range(5):
        alone, cut = one.draw(step).rows, many.draw(step).rows
        assert len(cut) == 16
        np.testing.assert_array_equal(cut[: len(alone)], alone)
        assert (cut[len(alone) :] == NOBODY).all()


def test_batches_have_like_numbers_of_tokens_in_one_shape():
    """Of sentences of 4 to 66 tokens no more than a twentieth is padding, and all steps run one program."""
    units = units_of_lengths(made_up_lengths(4_000))
    order = PackedOrder(units, 32, seed=0, hidden_size=128)
    draws = [order.draw(step) for step in range(2 * order.steps_per_epoch)]
    tokens = [int(units.lengths[drawn(draw)].sum()) for draw in draws]
    assert max(tokens) - min(tokens) <= 0.02 * np.mean(tokens)
    assert len({draw.rows.shape for draw in draws}) == 1
    assert sum(tokens) / sum(draw.shape.rows * draw.shape.width for draw in draws) >= 0.95


def test_rows_hold_the_longest_example_whichever_batch_it_is_in():
    """The bug: rows were as wide as the longest example of 32 batches, and an epoch has more; SST-2 ended with a traceback."""
    lengths = np.minimum(made_up_lengths(4_000), 40)
    lengths[1_234] = 300
    order = PackedOrder(units_of_lengths(lengths), 8, seed=0, hidden_size=128)
    numbers = [number for step in range(order.steps_per_epoch) for number in drawn(order.draw(step))]
    assert sorted(numbers) == list(range(4_000))
    assert order.row_size.width >= 300


def test_a_pass_holds_every_example_once_and_little_padding():
    units = units_of_lengths(made_up_lengths(4_000))
    draws = list(packed_passes(units, 128, row_multiple=2, tokens_at_once=2_048))
    assert sorted(number for draw in draws for number in drawn(draw)) == list(range(4_000))
    assert len({draw.rows.shape for draw in draws}) == 1
    assert draws[0].shape.rows % 2 == 0
    assert units.lengths.sum() / sum(draw.shape.rows * draw.shape.width for draw in draws) >= 0.97


def test_wide_rows_cost_attention():
    """The same lengths take narrower rows in a model whose attention is dear beside its products."""
    batches = [np.array([40, 30, 30, 30])]
    narrow, wide = (choose_row_size(batches, hidden_size, longest=40).width for hidden_size in (1, 4096))
    assert narrow < wide


@pytest.mark.parametrize("hidden_size", [16, 128, 768])
def test_the_rows_are_those_of_least_work_among_all_widths(hidden_size):
    """The bug: a width is passed over by a bound that is none."""
    lengths = made_up_lengths(300)
    batches = [lengths[first : first + 20] for first in range(0, 300, 20)]
    longest = int(lengths.max())
    found = choose_row_size(batches, hidden_size, longest)

    def work(width: int) -> int:
        rows = max(len(fill_rows(batch, width, min(16, width // int(lengths.min())))) for batch in batches)
        step = 8 if rows >= 8 else 4 if rows >= 4 else 2 if rows >= 2 else 1
        return -(-rows // step) * step * width * (6 * hidden_size + 8 * width)

    widths = range(longest + longest % 2, 3 * (longest + longest % 2) + 1, 2)
    assert found.rows * found.width * (6 * hidden_size + 8 * found.width) == min(map(work, widths))


@pytest.mark.parametrize(
    ("head", "shared"),
    [
        (TaskHead("classification", 3), True),
        (TaskHead("tagging", 3, ("O", "B", "I")), True),
        (TaskHead("classification", 3, lstm=4), False),
        (TaskHead("span", 2), False),
        (TaskHead("choice", 1), False),
    ],
)
def test_who_shares_rows(head, shared):
    units = units_of_rows(table_of([1] * 4))
    assert shares_rows(None, head, units) is shared
    assert shares_rows("buckets", head, units) is False


# ---- exactness -----------------------------------------------------------------------------------------------------

HEADS = {
    "classification": TaskHead("classification", 3),
    "regression": TaskHead("regression", 1),
    "multi_label": TaskHead("multi_label", 3),
    "tagging": TaskHead("tagging", 3, ("O", "B", "I")),
    "tagging, BiLSTM": TaskHead("tagging", 3, ("O", "B", "I"), lstm=4),
    "a mix of layers": TaskHead("classification", 3, layers=(0, 1, 2), combine="mix"),
}
MODELS = {
    "both sides": replace(MODEL, vocab_size=400, max_position_embeddings=LONGEST),
    "left to right": replace(MODEL, vocab_size=400, max_position_embeddings=LONGEST, causal=True),
    "biLM": replace(MODEL, vocab_size=400, max_position_embeddings=LONGEST, lstm_units=8),
}


def labels(kind: str, units: Units, draw: Draw) -> dict[str, np.ndarray]:
    """Labels by the number of an example, whatever the arrangement of its batch."""
    examples = np.where(draw.examples == NOBODY, 0, draw.examples)
    if kind == "tagging":
        tags = units.table.token_labels(draw.rows, draw.shape.width)
        return {"labels": np.where(tags < 0, tags, tags % 3)}
    if kind == "regression":
        return {"targets": np.cos(examples).astype(np.float32)}
    if kind == "multi_label":
        return {"targets": (np.stack([examples, examples // 2, examples // 3], -1) % 2).astype(np.float32)}
    return {"labels": (examples % 3).astype(np.int32)}


def gradients_of(head: TaskHead, model: ModelConfig, draws: list[Draw], units: Units, **settings: int) -> list:
    """Gradients and sums of each batch, from the same drawn weights, without dropout."""
    model = replace(model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    optimizer = OptimizerConfig(name="adamw", learning_rate=1e-3, warmup_steps=0)
    config = ResolvedConfig(optimizer=optimizer, model=model, steps_per_epoch=4, epochs=1.0, **settings)
    description = ModelDescription(model, pooler=head.needs_pooler, mlm=False, nsp=False, task=head)
    training, loss = Training(config, make_mesh(MeshConfig(data=1)), description), TaskLoss(head.kind)
    rng, found = np.random.default_rng(0), []
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), training.abstract_state.params
    )
    for draw in draws:
        batch = {**encoder_fields(units, draw), **labels(head.kind, units, draw)}
        seeds = np.zeros((len(batch["input_ids"]), 2), np.uint32)
        with jax.set_mesh(training.mesh):
            step = jax.jit(lambda params, batch, seeds: accumulate_gradients(training, loss, params, batch, seeds))
            found.append(jax.tree.map(np.asarray, step(params, batch, seeds)))
    return found


@pytest.mark.parametrize(
    ("name", "model"),
    [*((name, "both sides") for name in HEADS), ("classification", "left to right"), ("classification", "biLM")],
)
def test_each_example_gives_the_gradient_that_it_gives_alone(name, model):
    """Against a row for each example; of what is dropped nothing, whose bits go by the row and the place in it."""
    head, units, examples = HEADS[name], units_of_rows(table_of([1] * 11)), np.arange(11)
    filled = fill_rows(units.lengths, 64, 4)
    assert 2 <= len(filled) < 11
    alone = draw_rows(units, examples, [LONGEST], 1)
    (one, sums), (other, expected) = gradients_of(head, MODELS[model], [packed_draw(filled, 64), alone], units)
    for term, scores in expected.items():
        np.testing.assert_allclose(sums[term], scores, rtol=1e-5)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest), one, other)


def test_micro_batches_change_nothing():
    units = units_of_rows(table_of([1] * 11))
    rows = np.full((8, 4), NOBODY)
    filled = fill_rows(units.lengths, 64, 4)
    rows[: len(filled)] = filled
    draw, head = packed_draw(rows, 64), HEADS["classification"]
    ((whole, _),) = gradients_of(head, MODELS["both sides"], [draw], units)
    ((parts, _),) = gradients_of(head, MODELS["both sides"], [draw], units, micro_batches=4)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest), parts, whole)
