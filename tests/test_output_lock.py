# SPDX-License-Identifier: Apache-2.0
"""One process at a time writes into an output, on one host or several, and a dead one keeps nobody out."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import small_config

import bert_jax.use.embedding
from bert_jax.base import output_lock
from bert_jax.base.errors import UserError
from bert_jax.base.output_lock import LOCK_FILE, locked
from bert_jax.finetuning.run import finetune
from bert_jax.finetuning.several import run_all
from bert_jax.train.pretraining import pretrain
from bert_jax.use.embedding import embed_lines

ELSEWHERE = {
    "host": "elsewhere",
    "pid": 7,
    "stage": "pretrain",
    "boot": "another kernel",
    "since": "2026-01-02",
    "beat": 0,
}


@pytest.fixture
def quick(monkeypatch):
    """An owner signs every 20 ms and is dead after 0.4 s without."""
    monkeypatch.setattr(output_lock, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(output_lock, "DEAD_AFTER_SECONDS", 0.4)


STAGES = {
    "pretrain": lambda output: pretrain(small_config(), output, output, resume_command=""),
    "finetune": lambda output: finetune(None, output, resume_command=""),
    "finetune --seeds": lambda output: run_all([], output, resume_command=""),
    "embed": lambda output: embed_lines([], 0, None, None, output),
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_second_process_is_refused_at_its_start_and_told_of_the_first(stage, tmp_path, monkeypatch):
    """Nothing of what it was given is looked at before. `prepare`: test_preparation.py."""
    monkeypatch.setattr(bert_jax.use.embedding, "check", lambda *_: None)
    output = tmp_path / "output"
    with locked(output, "pretrain"):
        words = rf"output: another bert-jax pretrain \(process {os.getpid()} on {socket.gethostname()}, since 20.*\) is writing"
        with pytest.raises(UserError, match=words):
            STAGES[stage](output)
        assert [path.name for path in output.iterdir()] == [LOCK_FILE], "the first one's"


def test_the_owner_is_written_down_and_counts_on(tmp_path, quick):
    with locked(tmp_path, "prepare"):
        first = json.loads((tmp_path / LOCK_FILE).read_text())
        assert (first["host"], first["pid"], first["stage"]) == (socket.gethostname(), os.getpid(), "prepare")
        deadline = time.monotonic() + 10
        while json.loads((tmp_path / LOCK_FILE).read_text() or "{}").get("beat", 0) <= first["beat"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existed", [False, True])
def test_what_was_made_for_the_lock_goes_with_it_where_it_stays_empty(tmp_path, existed):
    output = tmp_path / "parent" / "output"
    if existed:
        output.mkdir(parents=True)
    with locked(output, "pretrain"):
        assert (output / LOCK_FILE).is_file()
    assert output.exists() == existed
    with locked(output, "pretrain"):
        (output / "result").touch()
    assert [path.name for path in output.iterdir()] == ["result"]


OWNER = """
import sys, time
from pathlib import Path
from bert_jax.base.output_lock import locked
with locked(Path(sys.argv[1]), "pretrain"):
    print("mine", flush=True)
    time.sleep(60)
"""


def test_a_lock_dies_with_its_owner(tmp_path):
    """Killed, without a chance to clean up; nobody waits for it."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout.readline() == "mine\n"
        with pytest.raises(UserError, match=rf"process {owner.pid} on"), locked(tmp_path, "pretrain"):
            pass
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
    assert (tmp_path / LOCK_FILE).exists(), "left behind"
    begin = time.monotonic()
    with locked(tmp_path, "pretrain"):
        assert time.monotonic() - begin < 5 < output_lock.DEAD_AFTER_SECONDS


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("file_system", ["keeps locks to each host", "has no locks"])
@pytest.mark.parametrize("alive", [True, False])
def test_a_process_on_another_host(tmp_path, quick, monkeypatch, capsys, file_system, alive):
    """The kernel's lock is free here or is none: what the other one counts decides."""
    if file_system == "has no locks":
        monkeypatch.setattr(fcntl, "flock", no_locks)
    lock, ended = tmp_path / LOCK_FILE, threading.Event()
    lock.write_text(json.dumps(ELSEWHERE))

    def count() -> None:
        number = 0
        while not ended.wait(0.02):
            number += 1
            lock.write_text(json.dumps({**ELSEWHERE, "beat": number}))

    other = threading.Thread(target=count)
    if alive:
        other.start()
    try:
        if alive:
            with (
                pytest.raises(
                    UserError, match=r"another bert-jax pretrain \(process 7 on elsewhere, since 2026-01-02\)"
                ),
                locked(tmp_path, "finetune"),
            ):
                pass
        else:
            with locked(tmp_path, "finetune"):
                assert json.loads(lock.read_text())["stage"] == "finetune"
            assert "process 7 on elsewhere, since 2026-01-02): watching for 0.4 s" in capsys.readouterr().err
    finally:
        ended.set()
        if alive:
            other.join()


def test_a_lock_that_its_owner_removes_at_that_moment_is_taken_anew(tmp_path, monkeypatch):
    """Else two processes would each hold a file, one of them without a name."""
    tried = []
    flock = fcntl.flock

    def remove_first(file: int, how: int) -> None:
        if not tried:
            (tmp_path / LOCK_FILE).unlink()
        tried.append(file)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with locked(tmp_path, "pretrain"):
        monkeypatch.undo()
        assert len(tried) == 2
        with pytest.raises(UserError, match="another bert-jax pretrain"), locked(tmp_path, "pretrain"):
            pass


def test_a_lock_that_its_owner_removes_while_it_is_watched_is_taken_anew(tmp_path, quick, monkeypatch):
    """An owner on another host, which the kernel's lock does not reach, ends in order before its next sign of life."""
    lock = tmp_path / LOCK_FILE
    lock.write_text(json.dumps(ELSEWHERE))
    still = output_lock._require_still

    def ends_in_order(path: Path, signed: bytes) -> None:
        path.unlink()
        still(path, signed)

    monkeypatch.setattr(output_lock, "_require_still", ends_in_order)
    with locked(tmp_path, "finetune"):
        assert json.loads(lock.read_text())["stage"] == "finetune"


@pytest.mark.parametrize("contents", ["", "[1]", '{"host": 1}', "half of a sig"])
def test_a_lock_that_cannot_be_read_keeps_nobody_out_and_is_no_crash(tmp_path, quick, contents):
    (tmp_path / LOCK_FILE).write_text(contents)
    with locked(tmp_path, "pretrain"):
        pass


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("work")
    output = tmp_path / "output"
    output.mkdir()
    (output / LOCK_FILE).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=LOCK_FILE), locked(output, "pretrain"):
        pass
    assert (tmp_path / "precious").read_text() == "work"
