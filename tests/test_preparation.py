# SPDX-License-Identifier: Apache-2.0
"""`prepare` as a long job: the number of processes changes nothing, and what is finished survives whatever happens."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import made_up_text

from bert_jax.base.files import file_sha256
from bert_jax.cli import main
from bert_jax.feed.shards import MANIFEST
from bert_jax.preparation import publishing

OBJECTIVES = ("--objective", "mlm_nsp", "mlm_sop", "mlm_full_sentences", "mlm_document")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A vocabulary for `made_up_text`."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "text.txt").write_text(made_up_text(200))
    assert main(["vocab", "--input", str(folder / "text.txt"), "--output", str(folder / "vocab"), "--size", "100"]) == 0
    return folder / "vocab"


@pytest.fixture
def corpus(tmp_path):
    """Four files: two small ones that make a part together, one that is a part of several chunks, one more."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number, documents in enumerate((20, 20, 200, 40)):
        (folder / f"{number}.txt").write_text(made_up_text(documents, seed=number))
    return folder


@pytest.fixture
def command(corpus, words):
    """The arguments of a run into a folder: about nine chunks."""

    def arguments(output: Path, *options: object) -> list[str]:
        paths = ("--input", corpus, "--vocab", words, "--output", output)
        usual = ("--sequence-length", 16, "--shard-size", 12_000, "--workers", 1)
        return [str(word) for word in ("prepare", *paths, *usual, *options)]

    return arguments


@pytest.fixture
def long_corpus(corpus):
    """A hundred chunks more, so that there is a middle to be killed in."""
    (corpus / "4.txt").write_text(made_up_text(400, seed=4) * 8)
    return corpus


def contents(output: Path) -> dict[str, bytes]:
    """Name -> content of every file, but for the times of the text's files, and for the page, which names its folder."""
    files = sorted(path for path in output.iterdir() if path.name != "passport.html")
    return {path.name: re.sub(rb'"modified": \d+', b"", path.read_bytes()) for path in files}


def records(output: Path) -> list[Path]:
    return sorted((output / "prepare-unfinished").glob("record-*.json"))


def shard_times(folder: Path) -> dict[str, int]:
    """sha256 -> time of each shard: equal times mean that the same file was renamed."""
    return {file_sha256(path): path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def start(arguments: Sequence[str], **options: object) -> subprocess.Popen:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "bert_jax.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for_records(process: subprocess.Popen, output: Path, count: int = 1) -> None:
    while len(records(output)) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def descendants(process: int) -> list[int]:
    """Processes below one, on Linux."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found = [child for child, parent in parents.items() if parent == process]
    return found + [grandchild for child in found for grandchild in descendants(child)]


# ---- any number of processes -----------------------------------------------------------------------------------------


def test_the_number_of_workers_changes_nothing(command, tmp_path):
    """Byte for byte, with every objective and several passes over the text."""
    for workers in (1, 2, 3):
        assert main(command(tmp_path / f"out{workers}", "--workers", workers, *OBJECTIVES)) == 0
    expected = contents(tmp_path / "out1")
    shards = [name for name in expected if name.startswith("train")]
    assert len(shards) > 6
    assert contents(tmp_path / "out2") == expected
    assert contents(tmp_path / "out3") == expected


def test_an_error_in_a_worker_comes_through_as_itself(command, tmp_path):
    """The segmenter is loaded where the text is processed; here it is not installed."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "jieba.py").write_text("raise ImportError")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "blocked")}
    process = start(command(tmp_path / "out", "--workers", 2, "--segmenter", "jieba"), env=environment)
    errors = process.communicate()[1].splitlines()
    assert process.returncode == 2
    assert len(errors) == 2, errors  # the memory that is needed, and the error
    assert "pip install" in errors[-1]
    assert "jieba" in errors[-1]


def test_memory_is_said_beforehand(command, tmp_path, capsys):
    main(command(tmp_path / "out", "--shard-size", 32_000_000, "--workers", 1))
    assert re.match(r"memory: at most about \d+ MB$", capsys.readouterr().err.splitlines()[0])
    main(command(tmp_path / "out2", "--shard-size", 32_000_000, "--workers", 3))
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("memory")]
    here, worker = re.fullmatch(r"memory: at most about (\d+) MB here \+ (\d+) MB for each of 3 workers", line).groups()
    assert int(here) < 1000
    assert int(worker) <= 300


# ---- killed, interrupted, out of disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_where_it_was(command, long_corpus, tmp_path, workers):
    """SIGKILL in the middle; the finished shards are kept, the data is that of an unbroken run."""
    assert main(command(tmp_path / "whole")) == 0
    output = tmp_path / "out"
    process = start(command(output, "--workers", workers))
    wait_for_records(process, output, count=2)
    workers_of_it = descendants(process.pid)
    process.kill()
    process.communicate()
    finished = {path.name for path in records(output)}
    kept = {shard for name in finished for shard in shards_of(output / "prepare-unfinished" / name)}
    before = {file_sha256(path): path.stat().st_mtime_ns for path in kept}
    assert kept
    assert len(finished) < 90, "it was killed too late to show anything"
    assert not (output / MANIFEST).exists()
    wait_until_gone(workers_of_it)
    assert main(command(output, "--workers", workers)) == 0
    assert contents(output) == contents(tmp_path / "whole")
    assert before.items() <= shard_times(output).items(), "finished shards were made again"


def shards_of(record: Path) -> list[Path]:
    splits = json.loads(record.read_text())["splits"].values()
    return [record.parent / split["shard"]["file"] for split in splits]


def wait_until_gone(processes: Sequence[int]) -> None:
    """Workers that lost their main process end by themselves, so the test does: else it fails at its time limit."""
    for _ in range(3000):
        alive = [number for number in processes if is_running(number)]
        if not alive:
            return
        time.sleep(0.01)
    raise AssertionError(f"processes {alive} are left")


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_it_says_how_to_go_on(command, long_corpus, tmp_path, number, status):
    output = tmp_path / "out"
    process = start(command(output, "--workers", 2))
    wait_for_records(process, output)
    process.send_signal(number)
    errors = process.communicate()[1].splitlines()
    assert process.returncode == status
    assert len(errors) == 2, errors
    done = len(records(output))
    assert done < 90
    assert f"interrupted; {done} shards are finished and stay: run the same command again to go on" in errors[-1]
    assert main(command(output)) == 0


def test_a_killed_worker_is_said_and_the_rest_stays(command, long_corpus, tmp_path):
    """As when the system runs out of memory."""
    output = tmp_path / "out"
    process = start(command(output, "--workers", 2))
    wait_for_records(process, output)
    if not Path("/proc/self/stat").exists():
        process.kill()
        process.communicate()
        pytest.skip("processes are found by /proc, which is not here")
    children = [child for child in descendants(process.pid) if descendants(child)]
    victim = descendants(children[0])[0]  # the server that starts the workers stands between
    os.kill(victim, signal.SIGKILL)
    errors = process.communicate()[1].splitlines()
    assert process.returncode == 2
    assert re.search(r"a worker was killed \(out of memory\?\); \d+ shards are finished and stay: run the", errors[-1])
    assert len(records(output)) >= 1
    assert main(command(output)) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_finished_shards_stay(command, corpus, tmp_path, workers):
    """The operating system's limit on the size of a file stands for the full disk."""
    (corpus / "9.txt").write_text(made_up_text(600).replace("\n\n", "\n"))  # one long document: a larger shard
    output = tmp_path / "out"
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000));"
        "from bert_jax.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = command(output, "--workers", workers)
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) == 2, errors
    assert "file size limit reached at" in errors[-1]
    assert "-00003-00000.safetensors: free some space and run the same command again" in errors[-1]
    assert len(records(output)) > 2
    before = shard_times(output / "prepare-unfinished")
    assert main(arguments) == 0
    assert before.items() <= shard_times(output).items()
    assert main(command(tmp_path / "whole")) == 0
    assert contents(output) == contents(tmp_path / "whole")


def test_an_interrupted_publication_goes_on(command, tmp_path, monkeypatch):
    """Some files have their final names, the manifest is not there yet."""
    assert main(command(tmp_path / "whole")) == 0
    output = tmp_path / "out"
    replace, moved = os.replace, []

    def interrupted(source: Path, target: Path) -> None:
        if Path(target).parent == output:
            if len(moved) == 4:
                raise KeyboardInterrupt
            moved.append(target)
        replace(source, target)

    monkeypatch.setattr(publishing.os, "replace", interrupted)
    assert main(command(output)) == 130
    assert len(moved) == 4
    assert not (output / MANIFEST).exists()
    monkeypatch.undo()
    before = shard_times(output) | shard_times(output / "prepare-unfinished")
    assert main(command(output)) == 0
    assert shard_times(output) == before
    assert contents(output) == contents(tmp_path / "whole")


def test_an_interruption_before_the_manifest_leaves_nothing_complete(command, tmp_path, monkeypatch):
    output = tmp_path / "out"
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if Path(target) == output / MANIFEST:
            assert (output / "vocab.txt").exists()
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(publishing.os, "replace", interrupted)
    assert main(command(output)) == 130
    assert not (output / MANIFEST).exists()
    monkeypatch.undo()
    assert main(command(output)) == 0
    assert not (output / "prepare-unfinished").exists()


def test_an_interruption_after_the_manifest_is_tidied_up(command, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"

    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publishing.shutil, "rmtree", interrupted)
    assert main(command(output)) == 130
    monkeypatch.undo()
    assert (output / "prepare-unfinished").exists()
    assert main(command(output)) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert not (output / "prepare-unfinished").exists()


# ---- begun before ----------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(command, corpus, tmp_path, capsys):
    """A run that a bad file has ended, after the parts before it."""
    good = (corpus / "3.txt").read_bytes()
    (corpus / "3.txt").write_bytes(good[:-9] + b"\xff" + good[-8:])
    assert main(command(tmp_path / "out")) == 2
    assert "3.txt is not UTF-8" in capsys.readouterr().err
    assert len(records(tmp_path / "out")) == 9
    (corpus / "3.txt").write_bytes(good)
    return tmp_path / "out"


def test_a_mended_file_is_read_again_and_the_rest_is_kept(command, begun, tmp_path, capsys):
    before = shard_times(begun / "prepare-unfinished")
    assert main(command(begun)) == 0
    assert "goes on: 9 shard(s) are finished" in capsys.readouterr().err
    assert before.items() <= shard_times(begun).items()
    assert main(command(tmp_path / "whole")) == 0
    assert contents(begun) == contents(tmp_path / "whole")


def test_a_changed_file_is_not_taken_for_the_old_one(command, begun, corpus, tmp_path):
    """Of the same size, as an edited letter leaves it; in a finished part."""
    text = (corpus / "0.txt").read_text()
    (corpus / "0.txt").write_text(text.replace("ship", "tide"))
    assert main(command(begun)) == 0
    assert main(command(tmp_path / "whole")) == 0
    assert contents(begun) == contents(tmp_path / "whole")


def test_a_shard_that_was_damaged_meanwhile_is_made_again(command, begun, tmp_path):
    shard = sorted((begun / "prepare-unfinished").glob("train-*"))[0]
    shard.write_bytes(shard.read_bytes()[:-8])
    assert main(command(begun)) == 0
    assert main(command(tmp_path / "whole")) == 0
    assert contents(begun) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", 3], "was begun with --seed 0, now it is 3"),
        (["--shard-size", 13_000], "was begun with --shard-size 12000, now it is 13000"),
        (["--cased"], "was begun with another --vocab or case"),
    ],
)
def test_other_settings_do_not_go_on_silently(command, begun, capsys, options, message):
    if "--cased" in options:
        vocab = begun.parent / "vocab.txt"
        vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "of"]))
        options = ["--vocab", vocab, *options]
    assert main(command(begun, *options)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert f"give the same again to go on, or remove {begun / 'prepare-unfinished'} to begin anew" in line


def test_what_another_version_has_begun_is_refused(command, begun, capsys):
    path = begun / "prepare-unfinished" / "request.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bert_jax": "0.0.1"}))
    assert main(command(begun)) == 2
    assert "was begun by bert_jax 0.0.1, this is" in capsys.readouterr().err


def test_two_runs_do_not_write_to_one_folder(command, begun, capsys):
    with (begun / "prepare-unfinished" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(command(begun)) == 2
    assert "prepare-unfinished: another bert-jax is writing there: wait for it" in capsys.readouterr().err
    assert main(command(begun)) == 0


# ---- finished before -------------------------------------------------------------------------------------------------


def test_finished_data_is_known_by_its_text_where_the_times_differ(command, corpus, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(command(output)) == 0
    before = contents(output)
    os.utime(corpus / "1.txt", (0, 0))
    capsys.readouterr()
    assert main(command(output)) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert contents(output) == before
    (corpus / "1.txt").write_text((corpus / "1.txt").read_text().replace("rose", "seed"))
    assert main(command(output)) == 2
    assert "made from other text: 1.txt of" in capsys.readouterr().err


def test_sources_are_recorded_with_their_hashes(command, corpus, tmp_path):
    assert main(command(tmp_path / "out", "--licence", "CC0 1.0")) == 0
    passport = json.loads((tmp_path / "out" / MANIFEST).read_text())
    [source] = passport["sources"]
    assert source["source"] == "corpus"
    assert [file["file"] for file in source["files"]] == ["0.txt", "1.txt", "2.txt", "3.txt"]
    assert [file["sha256"] for file in source["files"]] == [file_sha256(path) for path in sorted(corpus.iterdir())]
    assert passport["licence"] == "CC0 1.0"
    splits = passport["splits"].values()
    for name in ("documents", "sentences", "tokens"):
        assert source[name] == sum(split[name] for split in splits)
    assert source["documents"] == 280
    counts = np.load(tmp_path / "out" / "token_counts.npy")
    assert counts.sum() == passport["splits"]["train"]["tokens"]
