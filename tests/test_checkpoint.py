# SPDX-License-Identifier: Apache-2.0
"""Checkpoints."""

import errno
import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.base.errors import UserError
from bert_jax.runs.checkpoint import Checkpoints, unfinished_saves
from bert_jax.runs.checkpoint_integrity import sealed, unsealed


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


def test_a_record_holds_the_values_of_its_moment():
    """It is written behind the steps, which go on adding to their sums: on slow storage it was refused when the run went on."""
    sums = {"loss": 1.0}
    record = sealed({"window": {"sums": sums}}, {})
    sums["loss"] += 1
    assert unsealed(record)[0] == {"window": {"sums": {"loss": 1.0}}}


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


@pytest.mark.parametrize("name", ["5.orbax-checkpoint-tmp", "5"])
def test_nothing_is_written_through_a_link_among_the_checkpoints(tmp_path, name):
    (tmp_path / "outside").mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / name).symlink_to(tmp_path / "outside")
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        checkpoints.remove_unfinished()
        checkpoints.save(5, {"params": {"w": jnp.ones(3)}}, {})
    assert list((tmp_path / "outside").iterdir()) == []
    (tmp_path / "linked").symlink_to(tmp_path / "missing")
    with pytest.raises(UserError, match="linked is a link to"):
        Checkpoints(tmp_path / "linked", keep=1)


def test_checkpoints_may_lie_on_another_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "c").symlink_to(tmp_path / "disk")
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        checkpoints.save(5, {"params": {"w": jnp.ones(3)}}, {})
    assert (tmp_path / "disk" / "5").is_dir()
    assert (tmp_path / "c").is_symlink()


# ---- damage ----------------------------------------------------------------------------------------------------------

ITEMS = {
    "params": {
        "encoder": {"kernel": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)},
        "bias": np.arange(600, dtype=np.float32),
    },
    "optimizer": ({"mu": np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32)}, np.int32(8)),
}
RECORD = {"window": {"steps": 2, "sums": {"loss": 0.1}}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of steps 4 and 8, not to be written to."""
    folder = tmp_path_factory.mktemp("saved") / "c"
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (4, 8):
            checkpoints.save(step, jax.tree.map(jnp.asarray, ITEMS), RECORD)
            checkpoints.wait()
    return folder


@pytest.fixture
def damaged(saved, tmp_path):
    """A copy of them, to be damaged."""
    return shutil.copytree(saved, tmp_path / "c")


def restore(folder, step=8):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(step, abstract(jax.tree.map(jnp.asarray, ITEMS)))


def refusal(folder):
    with pytest.raises(UserError) as caught:
        restore(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def largest_file(folder, item):
    return max(
        (path for path in (folder / "8" / item).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


def flip(path, place, bit=3):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_what_is_whole_is_restored(saved):
    restored = restore(saved)
    jax.tree.map(np.testing.assert_array_equal, {name: restored[name] for name in ITEMS}, ITEMS)
    assert restored["record"] == RECORD


@pytest.mark.parametrize(
    ("item", "array"), [("params", r"params/(encoder/kernel|bias)"), ("optimizer", "optimizer/0/mu")]
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_flipped_bit_of_an_array_is_refused_by_its_name(damaged, item, array, share):
    file = largest_file(damaged, item)
    flip(file, int(share * file.stat().st_size))
    message = refusal(damaged)
    assert str(damaged / "8") in message
    assert "of step 4" in message
    assert re.search(f"array {array} ", message), message


def test_each_item_is_checked_without_the_others(damaged):
    """A stage that asks for parameters alone is refused theirs, and does not read the moments."""
    file = largest_file(damaged, "optimizer")
    flip(file, file.stat().st_size // 2)
    with Checkpoints(damaged) as checkpoints:
        checkpoints.restore(8, {"params": abstract(jax.tree.map(jnp.asarray, ITEMS["params"]))})
    file = largest_file(damaged, "params")
    flip(file, file.stat().st_size // 2)
    with Checkpoints(damaged) as checkpoints, pytest.raises(UserError, match="array params/"):
        checkpoints.restore(8, {"params": abstract(jax.tree.map(jnp.asarray, ITEMS["params"]))})


@pytest.mark.parametrize(
    "name", ["record/metadata", "params/manifest.ocdbt", "optimizer/_METADATA", "optimizer/manifest.ocdbt"]
)
def test_a_missing_file_is_named(damaged, capfd, name):
    (damaged / "8" / name).unlink()
    assert f"({name} is missing): remove that folder to go on from the one before it, of step 4" in refusal(damaged)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["record/metadata", "params/_METADATA", "params/array_metadatas/process_0", "optimizer/manifest.ocdbt"]
)
def test_a_cut_file_is_named(damaged, capfd, name):
    file = damaged / "8" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert f"{name} is damaged" in refusal(damaged)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("item", ["params", "optimizer"])
def test_a_cut_or_missing_array_is_one_line(damaged, capfd, item):
    file = largest_file(damaged, item)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert f"array {item}/" in refusal(damaged)
    file.unlink()
    assert f"array {item}/" in refusal(damaged)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("old", "new"), [('"steps": 2', '"steps": 3'), ('"checksums"', '"checksumz"'), ('"checksum"', '"checksux"')]
)
def test_a_changed_record_is_refused(damaged, old, new):
    file = damaged / "8" / "record" / "metadata"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert "record/metadata is not what was saved" in refusal(damaged)


def test_an_optimizer_that_is_gone_is_not_one_that_never_was(damaged):
    with Checkpoints(damaged) as checkpoints:
        assert checkpoints.has(8, "params")
        assert checkpoints.has(8, "optimizer")
        assert not checkpoints.has(8, "other")
    shutil.rmtree(damaged / "8" / "optimizer")
    with Checkpoints(damaged) as checkpoints:
        assert checkpoints.has(8, "optimizer")
    assert "optimizer/_METADATA is missing" in refusal(damaged)


def test_checkpoints_of_earlier_versions_have_no_checksums_and_are_read(damaged):
    file = damaged / "8" / "record" / "metadata"
    file.write_text(json.dumps(RECORD))
    assert restore(damaged)["record"] == RECORD
    with Checkpoints(damaged) as checkpoints:
        assert checkpoints.has(8, "optimizer")
        assert not checkpoints.has(8, "other")


def test_the_only_checkpoint_has_none_before_it(damaged):
    shutil.rmtree(damaged / "4")
    (damaged / "8" / "record" / "metadata").unlink()
    assert "there is none before it here" in refusal(damaged)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    items = {"params": {"w": jnp.ones(3), "b": jnp.array([1.0, value])}}
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        checkpoints.save(1, items, {})
    with (
        Checkpoints(tmp_path / "c") as checkpoints,
        pytest.raises(UserError, match="array params/b holds values that are"),
    ):
        checkpoints.restore(1, abstract(items))
