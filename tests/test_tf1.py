# SPDX-License-Identifier: Apache-2.0
"""TF1 checkpoints: found, read and written, against TensorFlow itself and the index files of published checkpoints."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from conftest import real_data

from bert_jax.base.errors import UserError
from bert_jax.conversion import tf1
from bert_jax.conversion.tensors import each, stored, TensorEntry, Writable
from bert_jax.conversion.tf1 import find_tf1, open_tf1, write_tf1

NAME = "bert_model.ckpt"
DATA = f"{NAME}.data-00000-of-00001"
TABLE_END = bytes.fromhex("57fb808b247547db")  # LevelDB's table format: the magic number 0xdb4775248b80fb57


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow", reason="TF1 checkpoints need TensorFlow")


def made_up_arrays() -> dict[str, np.ndarray]:
    """One of each kind: matrices, a vector, the type and the scalar of a step, half precision, an empty one."""
    rng = np.random.default_rng(0)
    return {
        "bert/pooler/dense/kernel": rng.normal(size=(7, 5)).astype(np.float32),
        "bert/pooler/dense/bias": rng.normal(size=5).astype(np.float32),
        "bert/embeddings/word_embeddings": rng.normal(size=(11, 3)).astype(ml_dtypes.bfloat16),
        "half": rng.normal(size=(2, 2, 2)).astype(np.float16),
        "empty": np.zeros((0, 4), np.float32),
        "global_step": np.int64(1_000_000_007) * np.ones((), np.int64),
    }


def write(prefix: Path, arrays: dict[str, np.ndarray]) -> Path:
    write_tf1(prefix, list(each(stored(prefix, arrays))))
    return prefix


@pytest.fixture
def written(tf, tmp_path):
    return write(tmp_path / NAME, made_up_arrays())


def empty_checkpoint(folder: Path, name: str) -> Path:
    """Enough of a checkpoint to be found: what ends as an index does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.index").write_bytes(b"names" + TABLE_END)
    (folder / f"{name}.data-00000-of-00001").touch()
    return folder / name


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- the names, shapes and types of published checkpoints ---------------------------------------------------


def google_variables(config: dict) -> dict[str, tuple[int, ...]]:
    """What modeling.py and run_pretraining.py of google-research/bert create, restated."""
    size, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]

    def norm(scope: str) -> dict[str, tuple[int, ...]]:
        return {f"{scope}/LayerNorm/beta": (size,), f"{scope}/LayerNorm/gamma": (size,)}

    def dense(scope: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
        return {f"{scope}/kernel": (inputs, outputs), f"{scope}/bias": (outputs,)}

    found: dict[str, tuple[int, ...]] = {
        "bert/embeddings/word_embeddings": (vocab, size),
        "bert/embeddings/token_type_embeddings": (config["type_vocab_size"], size),
        "bert/embeddings/position_embeddings": (config["max_position_embeddings"], size),
        "cls/predictions/output_bias": (vocab,),
        "cls/seq_relationship/output_weights": (2, size),
        "cls/seq_relationship/output_bias": (2,),
    }
    found |= norm("bert/embeddings") | dense("bert/pooler/dense", size, size)
    found |= dense("cls/predictions/transform/dense", size, size) | norm("cls/predictions/transform")
    for number in range(config["num_hidden_layers"]):
        layer = f"bert/encoder/layer_{number}"
        for part in ("query", "key", "value"):
            found |= dense(f"{layer}/attention/self/{part}", size, size)
        found |= dense(f"{layer}/attention/output/dense", size, size) | norm(f"{layer}/attention/output")
        found |= dense(f"{layer}/intermediate/dense", size, inner)
        found |= dense(f"{layer}/output/dense", inner, size) | norm(f"{layer}/output")
    return found


@pytest.fixture(params=["uncased_L-4_H-256_A-4", "uncased_L-8_H-512_A-8"])
def published(tf, request):
    """The prefix of a published checkpoint of which only the index is there."""
    return real_data(f"tf1-index/{request.param}") / NAME


def test_a_published_index_holds_the_variables_of_googles_code(published):
    config = json.loads((published.parent / "bert_config.json").read_text())
    tensors = open_tf1(published)
    expected = {name: TensorEntry(shape, "float32") for name, shape in google_variables(config).items()}
    assert dict(tensors.entries) == expected
    assert list(tensors.entries) == sorted(expected, key=str.encode)


def test_a_published_index_without_its_data_says_so_at_the_first_tensor(published):
    assert find_tf1(published.parent) == published
    with pytest.raises(
        UserError, match=r"^cls/predictions/output_bias in .*bert_model\.ckpt cannot be read, "
    ) as caught:
        open_tf1(published).read("cls/predictions/output_bias")
    assert f"{DATA} is not beside its index: copy all files" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_written_has_the_index_of_the_published_checkpoint(published, tmp_path):
    """To the byte, but for checksums of the tensors (4 bytes each) and of the index's parts: same names, types, shapes,
    order, places, lengths and number of data files."""
    entries = open_tf1(published).entries
    zeros = [Writable(name, entry, lambda entry=entry: np.zeros(*entry)) for name, entry in entries.items()]
    write_tf1(tmp_path / NAME, zeros[::-1])  # the order of writing is not that of the index
    genuine, ours = (
        np.frombuffer(path.read_bytes(), np.uint8)
        for path in (published.parent / f"{NAME}.index", tmp_path / f"{NAME}.index")
    )
    assert names_in(tmp_path) == [DATA, f"{NAME}.index"]
    assert len(ours) == len(genuine)
    assert (ours != genuine).sum() <= 4 * (len(entries) + 3)
    assert (tmp_path / DATA).stat().st_size == sum(entry.bytes for entry in entries.values())


# ---- round trip ---------------------------------------------------------------------------------------------


def test_tensorflow_reads_what_was_written(tf, written):
    reader = tf.train.load_checkpoint(str(written))
    arrays = made_up_arrays()
    assert reader.get_variable_to_shape_map() == {name: list(array.shape) for name, array in arrays.items()}
    assert tf.train.list_variables(str(written)) == [(name, list(arrays[name].shape)) for name in sorted(arrays)]
    for name, array in arrays.items():
        assert np.asarray(reader.get_tensor(name)).tobytes() == array.tobytes()


@pytest.mark.parametrize(("piece_bytes", "files"), [(1, 6), (160, 3), (tf1.PIECE_BYTES, 1)])
def test_a_round_trip_keeps_every_byte(tf, tmp_path, monkeypatch, piece_bytes, files):
    monkeypatch.setattr(tf1, "PIECE_BYTES", piece_bytes)
    arrays = made_up_arrays()
    tensors = open_tf1(write(tmp_path / NAME, arrays))
    assert {name: tensors.entries[name] for name in arrays} == stored(tmp_path, arrays).entries
    for name, array in arrays.items():
        found = tensors.read(name)
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        assert found.tobytes() == array.tobytes()
    assert len(list(tmp_path.glob(f"{NAME}.data-*"))) == files


def test_a_saver_reads_what_was_written_and_is_read(tf, tmp_path):
    """`tf.train.Saver` is what google-research/bert saves and restores with; both ways, slots and step included."""
    v1 = tf.compat.v1
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(3, 4)).astype(np.float32)
    arrays = {"a/kernel": kernel, "a/kernel/adam_m": kernel / 10, "a/kernel/adam_v": kernel**2}
    arrays["global_step"] = np.asarray(7, np.int64)
    write(tmp_path / "ours" / "model.ckpt-7", arrays)
    with tf.Graph().as_default(), v1.Session() as session:
        variables = [
            v1.get_variable(name, array.shape, v1.as_dtype(array.dtype), trainable=False)
            for name, array in arrays.items()
        ]
        saver = v1.train.Saver(variables)
        saver.restore(session, tf.train.latest_checkpoint(str(tmp_path / "ours")))
        for variable, array in zip(variables, session.run(variables), strict=True):
            np.testing.assert_array_equal(array, arrays[variable.op.name])
        saver.save(session, str(tmp_path / "theirs" / "model.ckpt"), global_step=7)
    prefix = find_tf1(tmp_path / "theirs")
    assert prefix == tmp_path / "theirs" / "model.ckpt-7"
    tensors = open_tf1(prefix)
    assert tensors.entries == {name: stored(prefix, arrays).entries[name] for name in sorted(arrays)}
    assert all(tensors.read(name).tobytes() == array.tobytes() for name, array in arrays.items())


def test_a_path_is_no_pattern(tf, tmp_path):
    """TensorFlow's reader takes patterns."""
    prefix = write(tmp_path / "[ab]*" / "model[1]?.ckpt", {"a": np.ones(3, np.float32)})
    write(tmp_path / "ab" / "model1x.ckpt", {"a": np.zeros(3, np.float32)})
    assert find_tf1(prefix.parent) == prefix
    assert open_tf1(prefix).read("a").tolist() == [1, 1, 1]
    (prefix.parent / "model[1]?.ckpt.data-00000-of-00001").unlink()
    with pytest.raises(UserError, match="is not beside its index"):
        open_tf1(prefix).read("a")


# ---- writing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [False, True])
def test_only_the_state_of_a_run_is_noted_as_the_latest(tf, tmp_path, step):
    """Google's published weights have no file `checkpoint`; a run's directory has, and Estimators resume from it."""
    arrays = made_up_arrays()
    if not step:
        del arrays["global_step"]
    write(tmp_path / "model.ckpt-7", arrays)
    assert ("checkpoint" in names_in(tmp_path)) == step
    assert tf.train.latest_checkpoint(str(tmp_path)) == (str(tmp_path / "model.ckpt-7") if step else None)


def test_a_tensor_that_cannot_be_made_leaves_nothing(tf, tmp_path, monkeypatch):
    monkeypatch.setattr(tf1, "PIECE_BYTES", 1)  # the first is on disk when the second fails

    def fail() -> np.ndarray:
        raise UserError("no such tensor")

    good, bad = (
        Writable("a", TensorEntry((3,), "float32"), lambda: np.ones(3, np.float32)),
        TensorEntry((3,), "float32"),
    )
    with pytest.raises(UserError, match=r"^no such tensor$"):
        write_tf1(tmp_path / NAME, [good, Writable("b", bad, fail)])
    assert names_in(tmp_path) == []
    with pytest.raises(
        ValueError, match=r"b was made as float64\(3,\), not as its TensorEntry\(shape=\(3,\), dtype='float32'\)"
    ):
        write_tf1(tmp_path / NAME, [good, Writable("b", bad, lambda: np.ones(3))])
    assert names_in(tmp_path) == []


def test_a_full_disk_leaves_nothing_and_is_said_in_one_line(tf, tmp_path):
    """A limit on the size of files stands for the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(
            UserError, match=r"bert_model\.ckpt cannot be written \([^\[{]*File too large\): mend"
        ) as caught:
            write(tmp_path / NAME, {"a": np.ones(2**18, np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert names_in(tmp_path) == []


def test_what_a_killed_run_left_is_replaced(tf, tmp_path):
    leftover = tmp_path / f"{NAME}.partial" / "pieces"
    leftover.mkdir(parents=True)
    (leftover / "0.index").write_bytes(b"half")
    assert find_tf1(tmp_path) is None
    write(tmp_path / NAME, {"a": np.ones(3, np.float32)})
    assert names_in(tmp_path) == [DATA, f"{NAME}.index"]


def test_an_existing_checkpoint_is_kept(written):
    before = {path.name: path.read_bytes() for path in written.parent.iterdir()}
    with pytest.raises(UserError, match=r"bert_model\.ckpt\.index exists and is not overwritten"):
        write(written, {"a": np.ones(3, np.float32)})
    assert {path.name: path.read_bytes() for path in written.parent.iterdir()} == before


PEAK_OF_WRITING = """
import re, sys
from pathlib import Path
import numpy as np
from bert_jax.conversion import tf1
from bert_jax.conversion.tensors import TensorEntry, Writable

def peak_memory():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

folder = Path(sys.argv[1])
tf1.write_tf1(folder / "warm", [Writable("a", TensorEntry((3,), "float32"), lambda: np.ones(3, np.float32))])
tf1.PIECE_BYTES = 2**26
entry = TensorEntry((2**20,), "float32")
tensors = [Writable(f"t{number}", entry, lambda: np.ones(2**20, np.float32)) for number in range(64)]
Path("/proc/self/clear_refs").write_text("5")  # the peak is now
before = peak_memory()
tf1.write_tf1(folder / sys.argv[2], tensors)
print(peak_memory() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux counts it")
def test_no_more_than_a_piece_is_in_memory(tf, tmp_path):
    """256 MiB in tensors of 4 MiB, written in pieces of 64 MiB: one piece and a few copies of one tensor, but not a
    piece twice, which TensorFlow's constants alone would need. In a process of its own, where nothing else allocates,
    and where malloc gives back at once what is freed."""
    command = [sys.executable, "-c", PEAK_OF_WRITING, str(tmp_path), NAME]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(result.stdout) < 80 * 2**20
    assert len(list(tmp_path.glob(f"{NAME}.data-*"))) == 4


# ---- finding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".index", ".meta", ".data-00000-of-00001"])
def test_a_checkpoint_is_found_by_its_prefix_and_by_each_of_its_files(tmp_path, suffix):
    prefix = empty_checkpoint(tmp_path, "model.ckpt-1000")
    empty_checkpoint(tmp_path, "model.ckpt-2000")
    assert find_tf1(tmp_path / f"model.ckpt-1000{suffix}") == prefix


def test_the_only_checkpoint_of_a_directory_is_found(tmp_path):
    prefix = empty_checkpoint(tmp_path, NAME)
    for other in ("bert_config.json", "vocab.txt", "model.safetensors.index.json", "graph.pbtxt"):
        (tmp_path / other).touch()
    (tmp_path / "faiss.index").write_bytes(b"IxFI, an index of another program")
    (tmp_path / "empty.index").touch()
    assert find_tf1(tmp_path) == prefix


def test_where_there_is_none(tmp_path):
    (tmp_path / "faiss.index").write_bytes(b"IxFI, an index of another program")
    (tmp_path / "checkpoint").write_text("of another program")
    for path in (tmp_path, tmp_path / "faiss.index", tmp_path / NAME, tmp_path / "absent" / NAME):
        assert find_tf1(path) is None


def test_of_several_none_is_guessed(tmp_path):
    for step in (0, 1000):
        empty_checkpoint(tmp_path, f"model.ckpt-{step}")
    with pytest.raises(
        UserError, match=r"several TF1 checkpoints \(model\.ckpt-0, model\.ckpt-1000\): give the path of one"
    ):
        find_tf1(tmp_path)


@pytest.mark.parametrize("written_in", ["", "gs://bucket/run/", "/home/someone/run/"])
def test_of_several_the_latest_is_taken_wherever_it_was_written(tmp_path, written_in):
    for step in (0, 1000, 2000):
        empty_checkpoint(tmp_path, f"model.ckpt-{step}")
    state = f'model_checkpoint_path: "{written_in}model.ckpt-1000"\nall_model_checkpoint_paths: "model.ckpt-2000"\n'
    (tmp_path / "checkpoint").write_text(state)
    assert find_tf1(tmp_path) == tmp_path / "model.ckpt-1000"


def test_a_latest_that_is_not_there_is_not_replaced_by_another(tmp_path):
    empty_checkpoint(tmp_path, "model.ckpt-1000")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-2000"\n')
    with pytest.raises(UserError, match=r"model\.ckpt-2000 is the latest, which is not there \(model\.ckpt-1000 is\)"):
        find_tf1(tmp_path)


@pytest.mark.parametrize("by", ["", NAME, DATA])
def test_data_without_an_index_is_named(tmp_path, by):
    (tmp_path / DATA).touch()
    with pytest.raises(UserError, match=rf"{re.escape(DATA)} has no {re.escape(NAME)}\.index beside it"):
        find_tf1(tmp_path / by)


# ---- broken files -------------------------------------------------------------------------------------------


def read_all(prefix: Path) -> None:
    tensors = open_tf1(prefix)
    for name in tensors.entries:
        tensors.read(name)


def test_data_that_are_cut_short_are_refused_with_both_sizes(written):
    data = written.with_name(DATA)
    size = data.stat().st_size
    os.truncate(data, size - 1)
    with pytest.raises(UserError, match=rf"cannot be read, its data are {size - 1} bytes of {size}: copy all files"):
        read_all(written)


def test_a_missing_data_file_among_several_is_counted(tf, tmp_path, monkeypatch):
    monkeypatch.setattr(tf1, "PIECE_BYTES", 1)
    prefix = write(tmp_path / NAME, {name: np.ones(3, np.float32) for name in "abc"})
    (tmp_path / f"{NAME}.data-00001-of-00003").unlink()
    tensors = open_tf1(prefix)
    assert tensors.read("a").tolist() == [1, 1, 1]
    with pytest.raises(UserError, match=r"^b in .* cannot be read, 2 of its 3 data files are there"):
        tensors.read("b")


def test_altered_data_are_noticed(written):
    data = written.with_name(DATA)
    content = bytearray(data.read_bytes())
    content[10] ^= 1
    data.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read \(.*[Cc]hecksum.*\): copy all files") as caught:
        read_all(written)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut short", "altered", "empty"])
def test_a_broken_index_is_refused(written, damage):
    index = written.with_name(f"{NAME}.index")
    content = bytearray(index.read_bytes())
    content[20] ^= 1
    index.write_bytes({"cut short": content[:-30], "altered": content, "empty": b""}[damage])
    assert find_tf1(written.parent) == written  # a checkpoint, though broken
    with pytest.raises(UserError, match=r"bert_model\.ckpt\.index cannot be read \(.+\): copy all files") as caught:
        open_tf1(written)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_tensorflow_2_is_refused_by_name(tf, tmp_path):
    tf.train.Checkpoint(kernel=tf.Variable([1.0, 2.0])).write(str(tmp_path / "ckpt"))
    assert find_tf1(tmp_path) == tmp_path / "ckpt"
    with pytest.raises(UserError, match="object-based checkpoint of TensorFlow 2"):
        open_tf1(tmp_path / "ckpt")


def test_a_checkpoint_with_text_is_refused_by_the_tensors_name(tf, tmp_path):
    tensors = [tf.constant([b"text"])]
    tf.raw_ops.SaveV2(prefix=str(tmp_path / NAME), tensor_names=["words"], shape_and_slices=[""], tensors=tensors)
    with pytest.raises(UserError, match=r"^words in .* is of type string"):
        open_tf1(tmp_path / NAME)


# ---- TensorFlow ---------------------------------------------------------------------------------------------


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def test_without_tensorflow_the_extra_is_named(tmp_path):
    """And a checkpoint is found all the same."""
    empty_checkpoint(tmp_path, NAME)
    code = """
import sys
sys.modules["tensorflow"] = None  # import tensorflow now fails
from pathlib import Path
from bert_jax.conversion.tf1 import find_tf1, open_tf1, write_tf1
from bert_jax.base.errors import UserError
prefix = find_tf1(Path(sys.argv[1]))
for what in (lambda: open_tf1(prefix), lambda: write_tf1(prefix.with_name("other"), [])):
    try:
        what()
    except UserError as error:
        print(error)
"""
    said = 'TF1 checkpoints are read and written by TensorFlow: pip install "bert-jax[tensorflow]"'
    assert run_python(code, tmp_path).stdout.splitlines() == [said, said]


def test_tensorflow_is_imported_when_needed_and_says_nothing(written):
    code = """
import sys
from pathlib import Path
from bert_jax.conversion.tf1 import find_tf1, open_tf1, write_tf1
from bert_jax.conversion.tensors import each
prefix = find_tf1(Path(sys.argv[1]))
assert "tensorflow" not in sys.modules
write_tf1(prefix.with_name("copy"), list(each(open_tf1(prefix))))
"""
    done = run_python(code, written.parent)
    assert (done.stdout, done.stderr) == ("", "")
