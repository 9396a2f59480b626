# SPDX-License-Identifier: Apache-2.0
"""Checkpoints."""

import errno
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.checkpoint import Checkpoints, unfinished_saves
from bert_jax.errors import UserError


def abstract(tree):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def test_a_save_holds_the_values_of_its_moment(tmp_path):
    """The save goes on behind while the state is donated to further steps, as in training."""
    state = {"w": jnp.arange(200_000, dtype=jnp.float32)}
    saved = np.asarray(state["w"]).copy()
    step = jax.jit(lambda state: {"w": state["w"] + 1}, donate_argnums=0)
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    checkpoints.save(1, {"params": state}, {"window": {}})
    for _ in range(50):
        state = step(state)
    checkpoints.wait()
    restored = checkpoints.restore(1, {"params": abstract(state)})
    checkpoints.close()
    np.testing.assert_array_equal(restored["params"]["w"], saved)


def test_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step in range(1, 5):
        checkpoints.save(step, {"params": {"w": jnp.full(3, float(step))}}, {"n": step})
    checkpoints.wait()
    assert checkpoints.latest == 4
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["3", "4"]


def test_items_are_restored_apart_and_with_their_record(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    items = {"params": {"w": jnp.ones(3)}, "optimizer": ({"m": jnp.zeros(3)}, jnp.int32(7))}
    checkpoints.save(7, items, {"window": {"steps": 2, "sums": {"x": 0.1}}})
    restored = checkpoints.restore(7, {"params": abstract(items["params"])})
    checkpoints.close()
    assert set(restored) == {"params", "record"}
    assert restored["record"] == {"window": {"steps": 2, "sums": {"x": 0.1}}}


def test_another_shape_is_refused_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(1, {"params": {"w": jnp.ones(3)}}, {})
    checkpoints.wait()
    with pytest.raises(UserError, match=r"/c/1: this checkpoint cannot be restored \("):
        checkpoints.restore(1, {"params": abstract({"other": jnp.ones(5)})})
    checkpoints.close()


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "free some space and"),
        (ValueError("OUT_OF_RANGE: Error writing [OS error: File too large]"), "raise the limit on the size of files"),
        (ValueError("PERMISSION_DENIED: [OS error: Permission denied]"), "make DIR writable and"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a8c0"), "find out what removed files there"),
        (RuntimeError("a thread has died"), "see that DIR can be written to and"),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_the_advice_fits_what_failed_and_what_is_there(tmp_path, monkeypatch, reason, remedy, before):
    folder = tmp_path / "c"
    checkpoints = Checkpoints(folder, keep=2)
    if before:
        (folder / "1234").mkdir()
    (folder / "1238.orbax-checkpoint-tmp").mkdir()

    def fail(*_: object, **__: object) -> None:
        raise reason

    with monkeypatch.context() as patch:
        patch.setattr(type(checkpoints._manager), "save", fail)
        with pytest.raises(UserError) as caught:
            checkpoints.save(1238, {"params": {"w": jnp.ones(3)}}, {})
    checkpoints.close()
    said = str(caught.value)
    assert f"; {'the newest one there, of step 1,234, is good' if before else 'none there is complete yet'}: " in said
    assert remedy.replace("DIR", str(folder)) in said
    assert ("free some space" in said) == ("free" in remedy)


def test_unfinished_saves_are_found(tmp_path):
    (tmp_path / "5.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "4").mkdir()
    assert unfinished_saves(tmp_path) == ["5.orbax-checkpoint-tmp"]
    assert unfinished_saves(tmp_path / "nowhere") == []
