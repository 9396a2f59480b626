# SPDX-License-Identifier: Apache-2.0
"""Text to masked rows: `bert-jax prepare` and epochs of our feed, beside google-research/bert's create_pretraining_data.py.

Its dupe_factor is the number of epochs: it stores each example once for each epoch, with other masks. Then all of the text is
prepared with one worker and with two: wall time, CPU-seconds and, on Linux, memory of all processes.
"""

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bert_jax.base.types import JsonObject
from bert_jax.bench.measure import alternate, compared
from bert_jax.bench.own_text import last_line, prepare_command, text_files, write_sentences
from bert_jax.bench.side_process import fresh_process, SideError
from bert_jax.bench.sides.child import cpu_seconds
from bert_jax.bench.workbench import Record, Workbench
from bert_jax.config.settings import to_dict

HERE = "bert_jax.bench.sides.here"
OURS, GOOGLE = "bert-jax", "google-research/bert"
EPOCHS = (1, 5)
WARM_UP_MEGABYTES, WARM_UP_SENTENCES = 0.05, 10  # of each document
WORKERS = {"two workers": 2, "one worker": 1}
LOOK_EVERY = 0.25  # seconds between two looks at the memory of a process and its children


def measure(bench: Workbench) -> Iterator[Record]:
    """Yield a record for each number of epochs, and one of all text; or the one that says why there is none."""
    if not (bench.inputs.text and bench.inputs.vocab):
        yield bench.absent("preparation", "text and a vocabulary", "--text and --vocab")
        return
    if bench.inputs.google is None:
        yield bench.absent(GOOGLE, "a checkout of it", "--google")
    yield from bench.each([f"{n} epoch{'s' * (n > 1)}" for n in EPOCHS], partial(measure_epochs, bench))
    yield from bench.each(["all text"], lambda _: measure_all_text(bench))


def measure_epochs(bench: Workbench, name: str) -> Record:
    """Compare text to so many epochs of masked rows of 128 tokens, by CPU-seconds."""
    text, warm_up, sizes = bench.folder / "text.txt", bench.folder / "warm-up.txt", bench.suite.sizes
    megabytes = write_sentences(bench.inputs.text, sizes.preparation_megabytes, text)
    write_sentences(bench.inputs.text, WARM_UP_MEGABYTES, warm_up, longest=WARM_UP_SENTENCES)
    epochs, case = int(name.split()[0]), bench.suite.feed[0]
    settings: JsonObject = {
        "text": str(text),
        "warm_up": str(warm_up),
        "vocab": str(bench.inputs.vocab),
        "epochs": epochs,
    }
    settings |= {"length": case.shape.sequence_length, "predictions": case.shape.max_predictions}
    sides = {OURS: partial(fresh_process, HERE, "prepare", rows=case.shape.rows, **settings)}
    if bench.inputs.google is not None:
        side = partial(fresh_process, HERE, "prepare_googles", repository=str(bench.inputs.google), **settings)
        sides[f"{GOOGLE}, dupe_factor {epochs}"] = side
    samples = alternate(sides, sizes.rounds)
    rates = {side: [megabytes / sample["cpu_seconds"] for sample in found] for side, found in samples.items()}
    return compared(
        f"text to {name} of masked rows",
        "MB/CPU-s",
        rates,
        [OURS],
        megabytes=megabytes,
        epochs=epochs,
        examples={side: found[0]["examples"] for side, found in samples.items()},
        versions={side: found[0]["versions"] for side, found in samples.items()},
    )


def measure_all_text(bench: Workbench) -> Record:
    """Compare two workers with one by wall time; then the first batch of the longest rows, packed, is asked for."""
    case = max(bench.suite.feed, key=lambda case: (case.config.packing == "packed", case.shape.sequence_length))

    def prepared(workers: int) -> JsonObject:
        command, output = prepare_command(bench, workers)
        found = watch(command, bench.folder / "log.txt")
        feed = fresh_process(HERE, "open_feed", config=to_dict(case.config), data=str(output), batches=1)
        return found | {"first_batch_seconds": found["wall_seconds"] + feed["ready_seconds"]}

    sides = {side: partial(prepared, workers) for side, workers in WORKERS.items()}
    samples = alternate(sides, bench.suite.sizes.rounds)
    megabytes = sum(file.stat().st_size for file in text_files(bench.inputs.text)) / 1e6  # as stored
    rates = {side: [megabytes / sample["wall_seconds"] for sample in found] for side, found in samples.items()}
    what = f"prepare, {megabytes:,.1f} MB"
    return compared(what, "MB/s", rates, ["two workers"], megabytes=megabytes, processes=samples)


def watch(command: Sequence[str], log: Path) -> JsonObject:
    """Run a command to its end: wall time, CPU-seconds with all children and, on Linux, peak memory (RSS).

    Pages that processes share count once for each of them. Starting Python and its imports are included.
    """
    cpu_of: dict[int, float] = {}  # process id -> CPU-seconds when last seen
    peaks = {"main_peak_bytes": 0, "peak_bytes": 0}
    begin, cpu = time.monotonic(), cpu_seconds()
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            if seen := processes_below(process.pid):
                cpu_of |= {number: one.cpu_seconds for number, one in seen.items()}
                resident = {number: one.resident_bytes for number, one in seen.items()}
                peaks["main_peak_bytes"] = max(peaks["main_peak_bytes"], resident[process.pid])
                peaks["peak_bytes"] = max(peaks["peak_bytes"], sum(resident.values()))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_EVERY)
    if process.returncode:
        raise SideError(f"{' '.join(command[1:4])} failed: {last_line(log.read_text())}")
    # The system's account lacks workers, which are no children of the command's own process; a look is a little early.
    cpu = max(cpu_seconds() - cpu, sum(cpu_of.values()))
    return {"wall_seconds": time.monotonic() - begin, "cpu_seconds": cpu} | (peaks if cpu_of else {})


class Seen(NamedTuple):
    """A process at one moment."""

    cpu_seconds: float
    resident_bytes: int


def processes_below(root: int) -> dict[int, Seen]:
    """Return a process and all below it, by process id; empty where there is no /proc, or it has ended."""
    parents, processes = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = stat.read_text().rpartition(")")[2].split()  # see proc(5); these begin with its field 3
            number, ticks = int(stat.parent.name), int(fields[11]) + int(fields[12])
            parents[number] = int(fields[1])
            resident = int(fields[21]) * resource.getpagesize()
            processes[number] = Seen(ticks / os.sysconf("SC_CLK_TCK"), resident)
    family = {root} & parents.keys()
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return {number: processes[number] for number in family}
