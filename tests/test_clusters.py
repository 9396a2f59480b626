# SPDX-License-Identifier: Apache-2.0
"""The examples in tools/clusters: commands that the stages accept, files that their readers accept, scripts that try again."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from bert_jax.pipelines import pretrain
from conftest import small_config

from bert_jax.cli import EXIT_STATUSES
from bert_jax.config.settings import load_config, to_dict

CLUSTERS = Path(__file__).parents[1] / "tools" / "clusters"
SCRIPTS = sorted(CLUSTERS.glob("*.sh"))
BIN = Path(sys.executable).parent
# As each script would set them.
VARIABLES = {"CONFIG": "large", "DATA": "/data", "OUTPUT": "/run"}


def commands() -> Iterator[tuple[str, list[str]]]:
    """(file, arguments of `bert-jax`) of every command in the examples."""
    job = job_of_the_jobset()
    yield "jobset.yaml", job["template"]["spec"]["containers"][0]["args"]
    sky = yaml.safe_load((CLUSTERS / "skypilot.yaml").read_text())
    texts = {script.name: script.read_text() for script in SCRIPTS} | {"skypilot.yaml": sky["run"]}
    for name, text in texts.items():
        lines = [line for line in text.splitlines() if "bert-jax pretrain" in line and not line.startswith("#")]
        for line in lines:
            command = re.sub(r"\$\{?(\w+)\}?", lambda variable: VARIABLES[variable[1]], line.replace('"$@"', ""))
            [found] = re.findall(r"bert-jax (pretrain [^)\n]*)", command)
            yield name, shlex.split(found)


def job_of_the_jobset() -> dict:
    jobset = yaml.safe_load((CLUSTERS / "jobset.yaml").read_text())
    [replicated] = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def test_every_command_is_one_that_the_stage_accepts():
    found = list(commands())
    assert {name for name, _ in found} == {"jobset.yaml", "skypilot.yaml", *(script.name for script in SCRIPTS)}
    for name, (stage, *arguments) in found:
        assert stage == "pretrain", name
        parsed = pretrain.make_parser().parse_args(arguments)
        load_config(parsed.config)
        several = name != "skypilot.yaml"  # which asks for one host: one process
        assert parsed.distributed == several, name


def test_the_job_in_the_jobset_is_one_that_kubernetes_accepts_and_it_acts_on_our_exit_statuses():
    validate = pytest.importorskip("kubernetes_validate", reason="in requirements-dev.lock").validate
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "bert"}, "spec": job_of_the_jobset()}
    validate(job, "1.31", strict=True)
    with pytest.raises(Exception, match="parallel"):
        validate(job | {"spec": job["spec"] | {"parallelism": "four"}}, "1.31", strict=True)
    [rule] = job["spec"]["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [1, 2])
    assert "75 the machines failed" in " ".join(EXIT_STATUSES), "not among those that end the JobSet"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_have_no_fault_that_shellcheck_finds(script):
    subprocess.run([lint_tool("shellcheck"), script], check=True)


def test_the_image_has_no_fault_that_hadolint_finds():
    subprocess.run([lint_tool("hadolint"), CLUSTERS / "Dockerfile"], check=True)


def lint_tool(name: str) -> Path:
    if not (BIN / name).is_file():
        pytest.skip(f"{name} is not installed: it is in requirements-dev.lock")
    return BIN / name


# ---- scripts that try again ------------------------------------------------------------------------------------------


def stand_in(folder: Path, name: str, body: str) -> None:
    """A command of a cluster that is not here."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}")
    (folder / name).chmod(0o755)


def run_script(name: str, *arguments: str, path: Path, **variables: object) -> subprocess.CompletedProcess:
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    environment["PATH"] = f"{path}:{BIN}:{os.environ['PATH']}"
    return subprocess.run([CLUSTERS / name, *arguments], env=environment, capture_output=True, text=True, timeout=500)


SRUN = """
[[ -e $FAILED ]] || { touch "$FAILED"; exit 75; }  # the first time a node is lost
shift  # --kill-on-bad-exit=1
export SLURM_STEP_NODELIST=127.0.0.1 SLURM_NTASKS=2
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" &
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait %1
"""


def test_a_slurm_job_goes_back_into_the_queue_and_trains_in_two_processes(prepared, tmp_path):
    tools, run, config = tmp_path / "tools", tmp_path / "run", tmp_path / "config.json"
    stand_in(tools, "srun", SRUN)
    stand_in(tools, "scontrol", 'echo "$@" >> "$REQUEUED"')
    config.write_text(json.dumps(to_dict(small_config())))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "path": tools,
        "CONFIG": config,
        "DATA": prepared.data,
        "OUTPUT": run,
        "SLURM_JOB_ID": 17,
        "JAX_COORDINATOR_PORT": port,
        "FAILED": tmp_path / "failed",
        "REQUEUED": tmp_path / "requeued",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    lost = run_script("slurm.sh", "mesh.data=2", **variables)
    assert (lost.returncode, (tmp_path / "requeued").read_text()) == (75, "requeue 17\n")
    finished = run_script("slurm.sh", "mesh.data=2", **variables)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "requeued").read_text() == "requeue 17\n", "once"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == small_config().total_steps
    assert json.loads((run / "config.json").read_text())["mesh"]["data"] == 2


@pytest.mark.parametrize(
    ("status", "restarts", "again"), [(137, 0, True), (139, 20, False), (2, 0, False), (143, 99, True)]
)
def test_what_puts_a_slurm_job_back_into_the_queue(status, restarts, again, tmp_path):
    """srun ends with the highest status of all tasks: that of one that hung and was killed, not the 75 of the others."""
    tools, requeued = tmp_path / "tools", tmp_path / "requeued"
    stand_in(tools, "srun", f"exit {status}")
    stand_in(tools, "scontrol", 'echo "$@" >> "$REQUEUED"')
    variables = {"DATA": "/data", "OUTPUT": tmp_path, "SLURM_JOB_ID": 17, "SLURM_RESTART_COUNT": restarts}
    assert run_script("slurm.sh", path=tools, REQUEUED=requeued, **variables).returncode == status
    assert requeued.exists() == again


GCLOUD = """
[[ $3 == tpu-vm && $4 == describe ]] && { cat "$STATE"; exit; }
[[ $3 == tpu-vm && $4 == ssh ]] || exit 1
[[ $(cat "$STATE") == READY ]] || exit 1  # as gcloud ends for one that was preempted
[[ -e $LOST ]] || { touch "$LOST"; exit 255; }  # the first time nobody answers
bash -c "${@: -1}"
"""


@pytest.mark.parametrize(("status", "starts"), [(0, 1), (1, 1), (2, 1), (143, 3), (75, 3)])
def test_a_tpu_vm_is_started_again_where_that_helps(status, starts, tmp_path):
    tools, said = tmp_path / "tools", tmp_path / "said"
    stand_in(tools, "gcloud", GCLOUD)
    stand_in(tools, "bert-jax", f'printf "%s|" "$@" >> "$SAID"; echo >> "$SAID"; exit {status}')
    (tmp_path / "state").write_text("READY\n")
    variables = {"TPU": "pod", "ZONE": "z", "DATA": "/data", "OUTPUT": "/my runs/1", "TRIES": 4, "PAUSE": 0}
    variables["STATE"] = tmp_path / "state"
    ended = run_script("tpu_vm.sh", "seed=1", path=tools, SAID=said, LOST=tmp_path / "lost", **variables)
    assert ended.returncode == (status if starts == 1 else 75)
    arrived = "pretrain|large|--data|/data|--output|/my runs/1|--distributed|seed=1|"
    assert said.read_text().splitlines() == [arrived] * starts
    assert shutil.which("bert-jax", path=str(tools))


def test_a_tpu_vm_that_is_not_there_is_not_waited_for(tmp_path):
    """A name that is misspelt, or nobody is logged in; without QUEUE nothing would make it."""
    tools = tmp_path / "tools"
    stand_in(tools, "gcloud", "echo called >> $SAID; exit 1")
    variables = {"TPU": "pod", "ZONE": "z", "DATA": "/data", "OUTPUT": "/run", "TRIES": 4, "PAUSE": 0}
    assert run_script("tpu_vm.sh", path=tools, SAID=tmp_path / "said", **variables).returncode == 1
    assert (tmp_path / "said").read_text() == "called\n" * 2, "once to start, once to ask for its state"


def test_a_tpu_vm_that_was_preempted_is_made_again(tmp_path):
    """Of which gcloud says 1, as Python of a bug."""
    tools, said, state = tmp_path / "tools", tmp_path / "said", tmp_path / "state"
    stand_in(tools, "gcloud", GCLOUD)
    stand_in(tools, "bert-jax", 'echo started >> "$SAID"')
    state.write_text("PREEMPTED\n")
    (tmp_path / "lost").touch()
    variables = {"TPU": "pod", "ZONE": "z", "DATA": "/data", "OUTPUT": "/run", "TRIES": 4, "PAUSE": 0, "STATE": state}
    variables["QUEUE"] = f"echo READY > '{state}'; echo made >> '{said}'"
    assert run_script("tpu_vm.sh", path=tools, SAID=said, LOST=tmp_path / "lost", **variables).returncode == 0
    assert said.read_text().splitlines() == ["made", "started"]
