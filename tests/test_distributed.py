# SPDX-License-Identifier: Apache-2.0
"""Joining other processes and agreeing with them, without them; test_multihost.py has real ones."""

import os
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from conftest import refusal_of
from jax.experimental import multihost_utils

from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.mesh import distributed
from bert_jax.mesh.distributed import all_or_none, initialize, require_connection, require_same


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("host:1234", 2, None), "--process-id lacking: these go together: --coordinator HOST:PORT --processes N"),
        ((None, 2, None), "--coordinator and --process-id lacking"),
        (("host:\N{SUPERSCRIPT TWO}", 2, 0), "is not HOST:PORT"),
        (("host:99999", 2, 0), "is not HOST:PORT"),
        (("host", 2, 0), "--coordinator host is not HOST:PORT: name process 0's host and a free port there"),
        (("host:1234", 0, 0), "--processes 0 is not possible: use 1 or more"),
        (("host:1234", 2, 2), "--process-id 2 is not one of 2 processes: use 0 to 1"),
    ],
)
def test_a_place_that_is_not_possible(place, message):
    with pytest.raises(UserError, match=message):
        initialize(*place)


ALONE = [
    (("127.0.0.1:PORT", 2, 0), "process 1 of 2 to come to 127.0.0.1:PORT"),
    (("127.0.0.1:PORT", 3, 0), "processes 1 to 2 of 3 to come to 127.0.0.1:PORT"),
    (("127.0.0.1:PORT", 3, 2), "process 0 at 127.0.0.1:PORT and all others of 3"),
    ((None, None, None), "the other processes that the cluster tells of"),
]


@pytest.mark.parametrize(("place", "awaited"), ALONE)
def test_a_process_that_stays_alone_says_whom_it_waits_for_and_ends_to_be_tried_again(
    place, awaited, monkeypatch, capsys, unused_port
):
    """Where JAX would abort in native code."""
    ended = threading.Event()
    statuses: list[int] = []

    def end(status: int) -> None:
        statuses.append(status)
        ended.set()

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: ended.wait(20))
    coordinator, *numbers = place
    initialize(coordinator and coordinator.replace("PORT", str(unused_port)), *numbers, connect_seconds=0.1)
    assert statuses == [75]
    awaited = awaited.replace("PORT", str(unused_port))
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"bert-jax: waiting for {awaited}, at most 0.1 s"
    assert second.startswith(f"bert-jax: gave up after 0.1 s of waiting for {awaited}")
    assert ("where nothing answers (Connection refused)" in second) == (place[2] == 2)
    assert second.endswith("try again")


def test_nothing_is_said_and_nobody_ends_where_the_others_come_in_time(monkeypatch, capsys):
    monkeypatch.setattr(os, "_exit", lambda _: pytest.fail("ended"))
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
    initialize("host:1234", 2, 1, connect_seconds=0.05)
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_jax_itself_is_ended_before_it_aborts(unused_port):
    """In native code, where it waits for the others."""
    program = (
        "import sys; from bert_jax.mesh.distributed import initialize; initialize(sys.argv[1], 2, 0, connect_seconds=1)"
    )
    command = [sys.executable, "-c", program, f"127.0.0.1:{unused_port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert (done.returncode, done.stderr.count("\n")) == (75, 2), done.stderr


def test_a_machine_that_is_no_cluster(monkeypatch):
    """JAX's own detection, which may ask the network, is not run here."""

    def refuse(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(UserError, match=r"--distributed: no cluster was found .* give --coordinator HOST:PORT"):
        initialize()


def test_the_command_line_joins_before_anything_else(monkeypatch, tmp_path, capsys):
    """Even before the data is looked for."""
    arguments = ["pretrain", "demo", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "run")]
    assert "--coordinator and --process-id lacking" in refusal_of(capsys, *arguments, "--processes", "2")
    joined = []
    monkeypatch.setattr(distributed, "initialize", lambda *place: joined.append(place))
    assert main([*arguments, "--coordinator", "h:1", "--processes", "2", "--process-id", "1"]) == 2
    assert main([*arguments, "--distributed"]) == 2
    assert joined == [("h:1", 2, 1), (None, None, None)]


@pytest.fixture
def two_processes(monkeypatch):
    """As if this were process 0 of two. Calling it says what the other one gathers."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def other_says(value) -> None:
        monkeypatch.setattr(
            multihost_utils, "process_allgather", lambda own: np.stack([own, np.broadcast_to(value, own.shape)])
        )

    return other_says


def test_a_process_that_was_started_alone(two_processes):
    with pytest.raises(
        UserError, match="this is one of 2 processes that share the devices: start each with --distributed"
    ):
        require_connection()


def test_all_go_on_or_none(two_processes):
    two_processes(0)
    with all_or_none():
        pass
    two_processes(1)
    with pytest.raises(UserError, match="process 1 gave up: it says why"), all_or_none():
        pass


def test_a_process_that_is_refused_tells_the_others_and_gives_its_own_reason(two_processes, monkeypatch):
    told = []
    monkeypatch.setattr(
        multihost_utils, "process_allgather", lambda failed: told.append(int(failed)) or np.array([1, 0])
    )
    with pytest.raises(UserError, match="my own reason"), all_or_none():
        raise UserError("my own reason")
    assert told == [1]


def test_processes_that_were_started_differently(two_processes, monkeypatch):
    contents = {"configuration": "seed=0", "--data": "one"}
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda own: np.stack([own, own]))
    require_same(contents)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda own: np.stack([own, own + np.uint32([0, 1])]))
    with pytest.raises(UserError, match="process 1 was started with another --data than process 0"):
        require_same(contents)


def test_alone_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(multihost_utils, "process_allgather", None)
    require_connection()
    require_same({"configuration": "any"})
    with all_or_none():
        pass
