# SPDX-License-Identifier: Apache-2.0
"""Joining other processes and agreeing with them, without them; test_multihost.py has real ones."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from bert_jax import distributed
from bert_jax.cli import main
from bert_jax.distributed import all_or_none, initialize, require_connection, require_same
from bert_jax.errors import UserError


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("host:1234", 2, None), "--process-id lacking: these go together: --coordinator HOST:PORT --processes N"),
        ((None, 2, None), "--coordinator and --process-id lacking"),
        (("host", 2, 0), "--coordinator host is not HOST:PORT: name process 0's host and a free port there"),
        (("host:1234", 0, 0), "--processes 0 is not possible: use 1 or more"),
        (("host:1234", 2, 2), "--process-id 2 is not one of 2 processes: use 0 to 1"),
    ],
)
def test_a_place_that_is_not_possible(place, message):
    with pytest.raises(UserError, match=message):
        initialize(*place)


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
    assert main([*arguments, "--processes", "2"]) == 2
    assert "--coordinator and --process-id lacking" in capsys.readouterr().err
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
