# SPDX-License-Identifier: Apache-2.0
"""Measure preparation, tokenisation and the feed beside their peers: a Markdown table, and JSON with every sample.

    python -m bert_jax.tools.bench_data --text PATH... --vocab vocab.txt --output bench.json \\
        [--google CHECKOUT_OF_google-research/bert] [--peer-python PYTHON_WITH_torch_AND_transformers]

What is compared, each side in a process of its own, the sides in turn, `--repetitions` times; figures are medians:

- `bert-jax prepare` and epochs of our feed, beside google-research/bert's create_pretraining_data.py, whose dupe_factor
  is the number of epochs: it stores each example once for each epoch, with other masks. (It needs TensorFlow here.)
- `encode_flat` beside `tokenizers` on one thread, from an empty cache.
- batches of the feed on one core beside transformers' collator under PyTorch's DataLoader.
- `bert-jax prepare` on all of the text, once with one worker and once with two: wall time and memory (read from /proc).

CPU-seconds are user and system time, children included; importing and loading are not counted. A peer that is not given
is left out and named. The machine should be idle: a busy neighbour slows even CPU-seconds.
"""

import argparse
import contextlib
import inspect
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.tools import bench_data_sides as sides  # type: ignore[import-not-found,unused-ignore]
from tqdm import tqdm

from bert_jax.errors import UserError
from bert_jax.text.documents import read_documents
from bert_jax.text.sources import parse_sources

GOOGLE = "google-research/bert"
TOKENIZERS = "tokenizers"
COLLATOR = "transformers collator"
ROWS = 256  # of a batch
MAX_PREDICTIONS = {128: 20, 512: 77}  # by sequence length
EPOCHS = {1: "10x", 5: "25x"}  # of the peer's dupe_factor, and what we want to reach
WARM_UP_MEGABYTES = 0.05
ALL_TEXT = "prepare, all text"
LOOK_EVERY = 0.25  # seconds between two looks at the memory of a process and its children
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # for what is compared by CPU-seconds


@dataclass(frozen=True)
class ComparedSides:
    """A line of the table. The ratio is ours to the peer's, more than 1 where we are better."""

    what: str
    unit: str
    ours: float
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    wanted: str = ""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a function of a file such as `bench_data_sides`, its settings, the Python it runs under."""

    work: Callable[..., sides.Figures]
    settings: Mapping[str, Any]
    python: str = sys.executable
    name: str = ""  # where two sides do the same work with other settings
    environment: Mapping[str, str] = field(default_factory=ONE_THREAD.copy)

    @property
    def title(self) -> str:
        """What its figures are filed under."""
        return self.name or self.work.__name__


@dataclass
class Measurements:
    """Runs sides, and keeps all that they found."""

    repetitions: int
    samples: dict[str, dict[str, list[sides.Figures]]] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def alternate(self, title: str, parties: Sequence[Side]) -> dict[str, list[sides.Figures]]:
        """Run the sides in turn. Returns the figures of each repetition under "SIDE: FIGURE"."""
        found = self.samples[title] = {}
        for _ in tqdm(range(self.repetitions), desc=title, disable=None):
            for side in parties:
                figures = run_side(side)
                self.versions[side.title] = figures.pop("versions")
                for name, one in figures.items():
                    found.setdefault(f"{side.title}: {name}", []).append(one)
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON."""
    options = parser().parse_args(argv)
    try:
        check(options)
        with tempfile.TemporaryDirectory(prefix="bench-data-") as folder:
            rows, measurements = measure(options, Path(folder))
    except UserError as error:
        print(f"bench_data: {error}", file=sys.stderr)
        return 2
    report = {
        "conditions": conditions(options) | {"versions": measurements.versions},
        "left_out": left_out(options),
        "table": [asdict(row) for row in rows],
        "samples": measurements.samples,
    }
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("\n".join([table(rows), "", *(f"Left out: {name}" for name in left_out(options))]))
    return 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--text", nargs="+", required=True, metavar="PATH", help="text, as for bert-jax prepare --input")
    add("--vocab", type=absolute, required=True, help="vocab.txt of an uncased WordPiece vocabulary")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON to write")
    add("--google", type=absolute, metavar="DIR", help="a checkout of google-research/bert")
    add("--peer-python", type=absolute, metavar="FILE", help="a Python that has torch and transformers")
    add("--repetitions", type=int, default=5, help="of each measurement (default: %(default)s)")
    sizes = "MB of the text that {} (default: %(default)s)"
    prepared = sizes.format("is prepared beside Google's")
    add("--preparation-megabytes", type=float, default=12, metavar="MB", help=prepared)
    add("--tokenizer-megabytes", type=float, default=8, metavar="MB", help=sizes.format("is tokenised"))
    add("--batches", type=int, default=200, help="that each of our feeds makes (default: %(default)s)")
    add("--collator-batches", type=int, default=10, help="that the collator makes (default: %(default)s)")
    return parser


def absolute(path: str) -> Path:
    """A path for processes that run in other folders; links stay, a virtual environment's Python is one."""
    return Path(path).absolute()


def check(options: argparse.Namespace) -> None:
    """Refuse before the first measurement what would fail in the middle of them."""
    needed = [options.vocab]
    needed += [options.google / "create_pretraining_data.py"] if options.google else []
    needed += [options.peer_python] if options.peer_python else []
    for path in needed:
        if not path.exists():
            raise UserError(f"{path} is missing: check the options")
    if options.repetitions < 1:
        raise UserError(f"--repetitions {options.repetitions} is not possible: use 5 or more")


def left_out(options: argparse.Namespace) -> list[str]:
    """Names of the peers that were not given."""
    given = {f"{GOOGLE} (give --google)": options.google, f"{COLLATOR} (give --peer-python)": options.peer_python}
    return [name for name, value in given.items() if not value]


def measure(options: argparse.Namespace, folder: Path) -> tuple[list[ComparedSides], Measurements]:
    """All measurements, one after the other. The feed's data is what the whole text was prepared into."""
    measurements = Measurements(options.repetitions)
    rows = [*preparation(options, measurements, folder), *tokenisation(options, measurements, folder)]
    rows += whole_text(options, measurements, folder)
    for length in MAX_PREDICTIONS:
        rows += feed(options, measurements, folder, length)
    return [*rows, text_to_feed(measurements)], measurements


# ---- the comparisons ---------------------------------------------------------------------------------------


def preparation(options: argparse.Namespace, measurements: Measurements, folder: Path) -> Iterator[ComparedSides]:
    """`bert-jax prepare` and epochs of batches, beside create_pretraining_data.py."""
    text, warm_up = folder / "preparation.txt", folder / "warm-up.txt"
    megabytes = write_sentences(options.text, options.preparation_megabytes, text)
    write_sentences(options.text, WARM_UP_MEGABYTES, warm_up, longest=10)
    length = min(MAX_PREDICTIONS)
    common: dict[str, Any] = {"text": str(text), "warm_up": str(warm_up), "vocab": str(options.vocab)}
    common |= {"sequence_length": length, "max_predictions": MAX_PREDICTIONS[length]}
    for epochs, wanted in EPOCHS.items():
        settings = common | {"epochs": epochs}
        parties = [Side(sides.our_preparation, settings | {"rows": ROWS})]
        if options.google:
            parties.append(Side(sides.google_research, settings | {"repository": str(options.google)}))
        title = f"text to {epochs} epoch{'s' * (epochs > 1)} of masked rows"
        found = measurements.alternate(title, parties)
        speeds = {name: megabytes / median(one, "cpu_seconds") for name, one in found.items()}
        peer = f"{GOOGLE}, dupe_factor {epochs}"
        yield compare(
            title, "MB per CPU-second", speeds, "our_preparation: main", "google_research: main", peer, wanted
        )


def tokenisation(options: argparse.Namespace, measurements: Measurements, folder: Path) -> Iterator[ComparedSides]:
    """`encode_flat` beside `tokenizers`, on sentences."""
    text = folder / "tokenisation.txt"
    megabytes = write_sentences(options.text, options.tokenizer_megabytes, text)
    settings = {"text": str(text), "vocab": str(options.vocab)}
    parties = [Side(sides.our_tokenizer, settings), Side(sides.hugging_face_tokenizer, settings)]
    found = measurements.alternate("tokenisation", parties)
    speeds = {name: megabytes / median(one, "cpu_seconds") for name, one in found.items()}
    ids = run_side(Side(sides.tokenizer_differences, settings))
    measurements.samples["tokenisation"]["tokenizer_differences"] = [ids]
    title = f"tokenisation ({ids['different']:,} of {ids['sentences']:,} sentences get other ids), "
    for cache, ours, call, wanted in (
        ("from an empty cache", "main", "encode_batch", "1.5x"),
        ("from an empty cache", "main", "encode_batch_fast", ""),
        ("the same text again", "warm", "encode_batch", ""),
    ):
        peer = (f"hugging_face_tokenizer: {call}", f"{TOKENIZERS} {call}", wanted)
        yield compare(title + cache, "MB per CPU-second", speeds, f"our_tokenizer: {ours}", *peer)


def whole_text(options: argparse.Namespace, measurements: Measurements, folder: Path) -> Iterator[ComparedSides]:
    """`bert-jax prepare` on all text with one worker and with two. Leaves the second's output in `folder`/data."""
    found = {}
    for workers, output in ((1, "data-of-one"), (2, "data")):
        command = [sys.executable, "-m", "bert_jax.cli", "prepare", "--workers", str(workers)]
        command += ["--input", *options.text, "--vocab", str(options.vocab), "--output", str(folder / output)]
        command += ["--sequence-length", *map(str, MAX_PREDICTIONS)]
        found[workers] = watch(command, folder / "log.txt")
    measurements.samples[ALL_TEXT] = {f"workers: {workers}": [one] for workers, one in found.items()}
    megabytes = text_bytes(options.text) / 1e6
    what = f"prepare, {megabytes:,.1f} MB"
    one, two = (found[workers]["wall_seconds"] for workers in (1, 2))
    yield ComparedSides(f"{what}, one worker", "MB per CPU-second", megabytes / found[1]["cpu_seconds"])
    yield ComparedSides(f"{what}, two workers", "s wall time", two, "one worker", one, one / two, "1.7x")
    for workers, figures in found.items():
        if "peak_bytes" in figures:
            name = f"{what}, {workers} worker{'s' * (workers > 1)}, memory of all processes"
            yield ComparedSides(
                name, "MB at the peak", figures["peak_bytes"] / 1e6, wanted=f"below {1_000 + 300 * workers:,}"
            )


def feed(options: argparse.Namespace, measurements: Measurements, folder: Path, length: int) -> Iterator[ComparedSides]:
    """Batches of masked rows beside the collator. Only tokens that are not padding count; its rows have no padding."""
    data = {"data": str(folder / "data"), "sequence_length": length, "rows": ROWS}
    data |= {"max_predictions": MAX_PREDICTIONS[length]}
    parties = [Side(sides.our_feed, data | {"batches": options.batches})]
    if options.peer_python:
        file = str(folder / f"rows-{length}.npy")
        run_side(Side(sides.write_rows, data | {"batches": options.collator_batches, "path": file}))
        settings = {"vocab": str(options.vocab), "rows_file": file, "rows": ROWS}
        parties.append(Side(sides.hugging_face_collator, settings, str(options.peer_python)))
    found = measurements.alternate(f"feed [{ROWS}, {length}]", parties)
    speeds = {name: one[0]["tokens"] / median(one, "cpu_seconds") / 1e6 for name, one in found.items()}
    unit = "M valid tokens per CPU-second"
    for name in [name for name in found if name.startswith("our_feed")]:
        share = found[name][0]["tokens"] / found[name][0]["slots"]
        what = f"feed [{ROWS}, {length}], {name.removeprefix('our_feed: ')}, {share:.1%} valid"
        wanted = "40x; 15 M" if (length, "packed" in name) == (512, True) else "40x"
        yield compare(what, unit, speeds, name, "hugging_face_collator: lists", f"{COLLATOR}, columns of lists", wanted)
        if name.endswith("packed, plain") and options.peer_python:
            peer = f"{COLLATOR}, bare tensors without attention mask"
            yield compare(what, unit, speeds, name, "hugging_face_collator: tensors", peer, "")


def text_to_feed(measurements: Measurements) -> ComparedSides:
    """From all of the text to the first batch of the longest rows, packed."""
    found = measurements.samples[f"feed [{ROWS}, {max(MAX_PREDICTIONS)}]"]
    ready = median(found["our_feed: packed, plain"], "ready_seconds")
    seconds = measurements.samples[ALL_TEXT]["workers: 2"][0]["wall_seconds"] + ready
    return ComparedSides(
        "all text to the first packed batch, two workers", "s wall time", seconds, wanted="a few minutes"
    )


def compare(
    what: str, unit: str, speeds: Mapping[str, float], ours: str, theirs: str, peer: str, wanted: str
) -> ComparedSides:
    """A row of two speeds; ours alone where the peer was left out."""
    if theirs not in speeds:
        return ComparedSides(what, unit, speeds[ours], wanted=wanted)
    return ComparedSides(what, unit, speeds[ours], peer, speeds[theirs], speeds[ours] / speeds[theirs], wanted)


def median(samples: Sequence[sides.Figures], name: str) -> float:
    """Of one figure of all repetitions."""
    return statistics.median(sample[name] for sample in samples)


# ---- text and processes ------------------------------------------------------------------------------------


def write_sentences(inputs: Sequence[str], megabytes: float, path: Path, longest: int | None = None) -> float:
    """Write documents, or the `longest` first sentences of each, a sentence a line, up to `megabytes`; what it came to."""
    written = 0
    files = (file for source in parse_sources(inputs) for file in source.files)
    documents = (document for file in files for document in read_documents(file))
    with path.open("wb") as output:
        while written < megabytes * 1e6 and (document := next(documents, None)) is not None:
            written += output.write("".join(f"{sentence}\n" for sentence in [*document[:longest], ""]).encode())
    return written / 1e6


def text_bytes(inputs: Sequence[str]) -> int:
    """Bytes of all files, as stored."""
    return sum(file.stat().st_size for source in parse_sources(inputs) for file in source.files)


def run_side(side: Side) -> sides.Figures:
    """Run one side in a process of its own, in an empty folder; what it printed last."""
    command = [side.python, inspect.getfile(side.work), side.work.__name__, json.dumps(dict(side.settings))]
    environment = os.environ | dict(side.environment)
    with tempfile.TemporaryDirectory(prefix="bench-side-") as folder:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{side.title} failed under {side.python}: {last_line(done.stderr)}")
    return json.loads(done.stdout.splitlines()[-1])


def watch(command: Sequence[str], log: Path) -> sides.Figures:
    """Run a command to its end: wall time, CPU-seconds with all children and, on Linux, peak memory (RSS).

    Pages that processes share count once for each of them. Starting Python and its imports are included.
    """
    cpu_of: dict[int, float] = {}  # process id -> CPU-seconds when last seen
    peaks = {"main_peak_bytes": 0, "peak_bytes": 0}
    begin, cpu = time.monotonic(), sides.cpu_seconds()
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
        raise UserError(f"{' '.join(command[1:4])} failed: {last_line(log.read_text())}")
    # The system's account lacks workers, which are no children of the command's own process; a look is a little early.
    cpu = max(sides.cpu_seconds() - cpu, sum(cpu_of.values()))
    return {"wall_seconds": time.monotonic() - begin, "cpu_seconds": cpu} | (peaks if cpu_of else {})


class Seen(NamedTuple):
    """A process at one moment."""

    cpu_seconds: float
    resident_bytes: int


def processes_below(root: int) -> dict[int, Seen]:
    """A process and all below it, by process id; empty where there is no /proc, or it has ended."""
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


def last_line(text: str) -> str:
    """What a program said last."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]


# ---- report ------------------------------------------------------------------------------------------------


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return machine() | {
        "text_bytes": text_bytes(options.text),
        "repetitions": options.repetitions,
        "preparation_megabytes": options.preparation_megabytes,
        "tokenizer_megabytes": options.tokenizer_megabytes,
        "batches": options.batches,
        "collator_batches": options.collator_batches,
        "rows": ROWS,
        "max_predictions": MAX_PREDICTIONS,
    }


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpu_info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*:\s*(.+)$", cpu_info.read_text(), re.MULTILINE) if cpu_info.exists() else []
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def table(rows: Sequence[ComparedSides]) -> str:
    """The rows in Markdown."""
    lines = ["| what | unit | ours | peer | | ratio | wanted |", "|---|---|--:|---|--:|--:|---|"]
    for row in rows:
        numbers = ["" if number is None else three_digits(number) for number in (row.ours, row.theirs, row.ratio)]
        ours, theirs, ratio = numbers
        cells = (row.what, row.unit, ours, row.peer, theirs, ratio and f"{ratio}x", row.wanted)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def three_digits(number: float) -> str:
    """A number with three digits that count, or all before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}"


if __name__ == "__main__":
    sys.exit(main())
