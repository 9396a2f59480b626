# SPDX-License-Identifier: Apache-2.0
"""Paths on a bucket, against an emulator of Cloud Storage: what pathlib's methods do, failures, the cache, the lock."""

import hashlib
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from bucket_emulator import BUCKET, Emulator
from conftest import refusal_of

from bert_jax.base import bucket_cache, buckets, output_lock
from bert_jax.base.bucket_cache import local_copy, readable
from bert_jax.base.bucket_output import PUTTING, staged
from bert_jax.base.errors import TryAgain, UserError
from bert_jax.base.files import (
    complete_or_absent,
    map_tensors,
    open_growing,
    put_grown,
    read_json,
    write_json,
    write_tensors,
)
from bert_jax.base.output_lock import locked
from bert_jax.base.paths import any_path, on_bucket
from bert_jax.cli import main


@pytest.fixture
def folder(emulator, request):
    """A folder of the bucket for a test alone."""
    return any_path(f"gs://{BUCKET}/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}")


# ---- paths -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_like_one_of_this_machine(folder):
    for name in ("a.json", "b.txt", "inner/c.json", "inner/deep/d.txt"):
        (folder / name).write_bytes(name.encode())
    assert str(folder / "inner" / "c.json") == f"{folder}/inner/c.json"
    assert [path.name for path in folder.iterdir()] == ["a.json", "b.txt", "inner"]
    assert [str(path) for path in folder.glob("*.json")] == [f"{folder}/a.json"]
    assert [str(path) for path in folder.glob("*/c.json")] == [f"{folder}/inner/c.json"]
    assert not list((folder / "nowhere").glob("*"))
    assert [(path.is_dir(), path.is_file()) for path in (folder / "inner", folder / "a.json")] == [
        (True, False),
        (False, True),
    ]
    assert not (folder / "a.js").exists()
    assert (folder / "inner/c.json").stat().st_size == len("inner/c.json")
    assert (folder / "b.txt").read_text() == "b.txt"
    assert sorted(folder.objects()) == ["a.json", "b.txt", "inner/c.json", "inner/deep/d.txt"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        (folder / "nowhere").read_bytes()
    folder.rmtree()
    assert not folder.exists()


def test_text_is_decoded_as_from_a_file(folder):
    (folder / "x").write_bytes(b"one\r\ntwo\xff\n")
    with (folder / "x").open(encoding="utf-8", errors="replace") as file:
        assert list(file) == ["one\n", "two\ufffd\n"]
    with pytest.raises(UnicodeDecodeError):
        (folder / "x").read_text()


def test_what_another_process_writes_is_seen_at_once(folder, emulator):
    """Fails where lists are remembered: gcsfs does so by default, and tells of what is there long after it was removed."""
    (folder / "a").write_bytes(b"1")
    assert [path.name for path in folder.iterdir()] == ["a"]
    code = f"""
from bert_jax.base.paths import any_path
folder = any_path("{folder}")
(folder / "b").write_bytes(b"2")
(folder / "a").unlink()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert [(folder / name).is_file() for name in "ab"] == [False, True]


def test_tensorflow_stays_out_of_it():
    """etils would take TensorFlow's file system where it is installed, for Orbax's paths too."""
    code = """
import sys
import bert_jax.base.paths
from etils import epath
print(epath.Path("gs://x/y")._backend, "tensorflow" in sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if name != "EPATH_USE_TF"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "FileSystemSpecBackend" in done.stdout
    assert "False" in done.stdout


def test_files_are_whole_or_absent(folder):
    with pytest.raises(TypeError), complete_or_absent(folder / "x") as file:
        file.writelines([b"half", None])
    assert not (folder / "x").exists()
    write_json(folder / "x.json", {"a": 1})
    assert read_json(folder / "x.json", "") == {"a": 1}
    digest = write_tensors(folder / "x.safetensors", {"a": np.arange(6, dtype=np.int32).reshape(2, 3)})
    copy = local_copy(folder / "x.safetensors")
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == digest
    assert map_tensors(copy)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_grows_is_put_when_it_is_asked_for(folder):
    path = folder / "metrics.jsonl"
    for line in (b"1\n", b"2\n"):
        with open_growing(path) as file:
            file.write(line)
    assert not path.exists()
    put_grown()
    assert path.read_bytes() == b"1\n2\n"
    with complete_or_absent(path) as file:  # what a resumed run takes back
        file.write(b"1\n")
    with open_growing(path) as file:
        file.write(b"3\n")
    put_grown()
    assert path.read_bytes() == b"1\n3\n"


# ---- failures --------------------------------------------------------------------------------------------------------


def test_a_request_that_fails_is_sent_again(folder, emulator):
    with emulator.fail(503, 1, methods="POST") as failed:
        (folder / "x").write_bytes(b"1")
    assert len(failed) == 1
    with emulator.fail(503, 1, methods="GET", name=folder.name) as failed:
        assert (folder / "x").read_bytes() == b"1"
    assert len(failed) == 1


@pytest.fixture
def impatient(monkeypatch):
    """No waiting between the six times that gcsfs sends a request."""
    import asyncio

    import gcsfs.retry

    async def at_once(_):
        pass

    monkeypatch.setattr(
        gcsfs.retry, "asyncio", type("", (), {"sleep": staticmethod(at_once), "gather": asyncio.gather})
    )


def test_storage_that_does_not_answer_is_no_users_error(folder, emulator, impatient):
    (folder / "x").write_bytes(b"1")
    with emulator.fail(503, 100, name=folder.name) as failed, pytest.raises(TryAgain) as told:
        (folder / "x").exists()
    assert len(failed) > 1
    assert f"{folder}/x: storage does not answer" in str(told.value)


def test_a_file_that_cannot_be_looked_up_is_not_taken_for_missing(folder, emulator):
    """A run would be begun anew over one that is there."""
    (folder / "x").write_bytes(b"1")
    with emulator.fail(403, 100, name=folder.name), pytest.raises(UserError, match="may not be read"):
        (folder / "x").is_file()


@pytest.mark.parametrize(
    ("stage", "arguments"),
    [
        ("report", ["gs://nobucket/run"]),
        ("evaluate", ["gs://nobucket/run", "--data", "data"]),
        ("pretrain", ["tiny", "--data", "data", "--output", "gs://nobucket/run"]),
        ("pretrain", ["tiny", "--data", "gs://nobucket/data", "--output", "run"]),
        ("vocab", ["--input", "gs://nobucket/text", "--output", "vocab"]),
        ("prepare", ["--input", "text", "--vocab", "v", "--output", "gs://nobucket/data"]),
    ],
)
def test_a_bucket_that_is_not_there(stage, arguments, emulator, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "there is no bucket nobucket: make it" in refusal_of(capsys, stage, *arguments)
    assert not list(tmp_path.iterdir())


def test_a_bucket_that_may_not_be_used(emulator, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    buckets._require_bucket.cache_clear()
    with emulator.fail(403, 100):
        assert main(["report", f"gs://{BUCKET}/run"]) == 2
    told = capsys.readouterr().err
    assert f"gs://{BUCKET} may not be read or written" in told
    assert "storage.objectAdmin" in told
    assert told.count("\n") == 1


def test_a_bucket_that_does_not_answer(emulator, capsys, impatient):
    buckets._require_bucket.cache_clear()
    with emulator.fail(503, 100):
        assert main(["report", f"gs://{BUCKET}/run"]) == 75
    told = capsys.readouterr().err
    assert "storage does not answer" in told
    assert told.count("\n") == 1


def test_no_bucket_is_named(emulator, capsys):
    assert "names no bucket" in refusal_of(capsys, "report", "gs://")


# ---- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A cache of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bucket_cache, "_most_bytes", 10_000)
    held: dict = {}
    monkeypatch.setattr(bucket_cache, "_held", held)
    yield tmp_path / "bert_jax" / "buckets"
    for lock in held.values():
        os.close(lock)


def written(folder, name: str, size: int):
    (folder / name / "a").write_bytes(name.encode() * (size // len(name)))
    return folder / name


def test_a_copy_is_made_once_and_is_the_same(folder, emulator, cache):
    source = written(folder, "one", 300)
    copy = local_copy(source)
    assert (copy / "a").read_bytes() == b"one" * 100
    begun = len(emulator.seen)
    assert local_copy(source) == copy
    assert not [path for _, path in emulator.seen[begun:] if "alt=media" in path]
    assert readable(str(source / "a")).read_bytes() == b"one" * 100
    (source / "a").write_bytes(b"other")
    assert (local_copy(source) / "a").read_bytes() == b"other"
    assert (copy / "a").read_bytes() == b"one" * 100  # whoever has it mapped keeps it


def test_a_copy_that_was_cut_off_is_not_used(folder, cache):
    source = written(folder, "one", 300)
    copy = local_copy(source)
    os.close(bucket_cache._held.pop(copy))
    (copy / bucket_cache.COMPLETE).unlink()
    (copy / "a").write_bytes(b"half")
    assert (local_copy(source) / "a").read_bytes() == b"one" * 100


def test_content_is_compared_with_the_buckets_checksum(folder, cache, monkeypatch):
    source = written(folder, "one", 300)

    def copy_to(path, file):
        file.write(b"two" * 100)

    monkeypatch.setattr(buckets.BucketPath, "copy_to", copy_to)
    with pytest.raises(TryAgain, match="came with the MD5"):
        local_copy(source)
    assert not list(cache.glob("*/one/a"))


def test_the_copy_used_longest_ago_goes(folder, cache):
    one, two = (local_copy(written(folder, name, 4_000)) for name in ("one", "two"))
    for copy, time in ((one, 1_000), (two, 2_000)):
        os.utime(copy / bucket_cache.COMPLETE, (time, time))
    with pytest.raises(UserError, match="copies that are in use"):
        local_copy(written(folder, "six", 4_000))
    for lock in bucket_cache._held.values():
        os.close(lock)
    bucket_cache._held.clear()
    six = local_copy(folder / "six")
    assert [copy.exists() for copy in (one, two, six)] == [False, True, True]


def test_more_than_the_cache_may_have_is_refused(folder, cache):
    with pytest.raises(UserError, match="raise --cache-size"):
        local_copy(written(folder, "big", 12_000))
    assert not list(cache.glob("*/big"))


def test_processes_of_a_host_share_a_copy(folder, emulator, tmp_path):
    """Both are given the copy, and the objects came once."""
    source = written(folder, "one", 300_000)
    code = f"""
from bert_jax.base.bucket_cache import readable
print((readable("{source}") / "a").stat().st_size)
"""
    begun = len(emulator.seen)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in both] == ["300000\n"] * 2
    assert len([path for _, path in emulator.seen[begun:] if "alt=media" in path or "/download/" in path]) == 1


# ---- outputs ---------------------------------------------------------------------------------------------------------


def test_the_file_that_completes_an_output_comes_last(folder, emulator):
    with staged(folder, "a test", "last.json") as place:
        place.mkdir()
        for name in ("last.json", "zz.bin", "a.bin"):
            (place / name).write_text(name)
    assert sorted(folder.objects()) == ["a.bin", "last.json", "zz.bin"]
    assert not place.exists()
    with pytest.raises(UserError, match="holds something else"), staged(folder, "a test", "last.json"):
        pass


def test_an_output_that_was_cut_off_is_written_over(folder, emulator, impatient):
    for name in ("a.bin", PUTTING):
        (folder / name).write_bytes(b"old")
    with staged(folder, "a test", "last.json") as place:
        place.mkdir()
        for name in ("last.json", "a.bin"):
            (place / name).write_text("new")
    assert {name: (folder / name).read_bytes() for name in folder.objects()} == {"a.bin": b"new", "last.json": b"new"}


def write_two(folder) -> None:
    with staged(folder, "x", "last") as place:
        place.mkdir()
        for name in ("a.bin", "last"):
            (place / name).write_text(name)


def test_of_a_put_that_fails_nothing_looks_complete(folder, emulator, impatient):
    """The lock, the mark and one file come; the same again goes on from what is in the cache."""
    with emulator.fail(503, 100, methods="POST", after=3), pytest.raises(TryAgain):
        write_two(folder)
    assert sorted(folder.objects()) == ["a.bin", PUTTING]
    with staged(folder, "x", "last") as again:
        assert sorted(path.name for path in again.iterdir()) == ["a.bin", "last"]
    assert sorted(folder.objects()) == ["a.bin", "last"]


# ---- the lock --------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(output_lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(output_lock, "DEAD_AFTER_SECONDS", 1.0)


def test_one_process_has_an_output(folder, quick):
    refusal = pytest.raises(UserError, match=f"another bert-jax pretrain .process {os.getpid()}")
    with locked(folder, "pretrain"), refusal, locked(folder, "x"):
        pass
    assert not folder.exists()
    with locked(folder, "pretrain"):
        pass


def test_of_two_that_begin_at_once_one_has_it(folder, quick):
    """Fails where the lock is looked for, and then written."""
    results: list[str] = []
    barrier, done = threading.Barrier(4), threading.Event()

    def take() -> None:
        barrier.wait()
        try:
            with locked(folder, "x"):
                results.append("taken")
                done.wait()
        except UserError:
            results.append("refused")
        if len(results) == 4:
            done.set()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(results) < 4:
        done.wait(0.05)
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["refused"] * 3 + ["taken"]


def test_the_lock_of_a_process_of_this_machine_that_was_killed_is_taken_at_once(folder, capsys):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    owner = output_lock._this_process("pretrain") | {"pid": ended.pid}
    (folder / "lock").write_bytes(json.dumps(owner).encode())
    with locked(folder, "pretrain"):
        assert output_lock._owner((folder / "lock").read_bytes())["pid"] == os.getpid()
    assert "watching" not in capsys.readouterr().err


def test_the_lock_of_another_machine_is_taken_when_it_stands_still(folder, quick, capsys):
    owner = output_lock._this_process("pretrain") | {"boot": "another", "host": "other"}
    (folder / "lock").write_bytes(json.dumps(owner).encode())
    with locked(folder, "pretrain"):
        pass
    assert "was left by another bert-jax pretrain" in capsys.readouterr().err


def test_addresses_stay_what_they_are(emulator):
    path = any_path(f"gs://{BUCKET}/a/b")
    assert on_bucket(path)
    assert (path.name, path.suffix, str(path.parent), str(path.absolute())) == ("b", "", f"gs://{BUCKET}/a", str(path))
    assert str(path.with_name("c.json")) == f"gs://{BUCKET}/a/c.json"
    assert any_path(path) == path
    assert isinstance(emulator, Emulator)
