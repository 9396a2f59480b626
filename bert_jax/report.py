# SPDX-License-Identifier: Apache-2.0
"""One page about a run: reads a run directory, draws its curves, writes `report.html`.

Three parts: loading (files -> `Run`), drawing (plain lists -> SVG) and telling (`Run` -> what the template
prints). The page stands alone: no script, and nothing is loaded from elsewhere. Colours are CSS variables of
the page, so one drawing serves light and dark.
"""

import dataclasses
import functools
import io
import json
import math
import os
import re
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, UTC
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from bert_jax.config import flatten, MODEL_SIZES, ModelConfig, PretrainConfig, to_dict
from bert_jax.errors import UserError
from bert_jax.run_directory import open_run

Record = Mapping[str, Any]  # one JSON object of a run's files
Points = Sequence[tuple[float, float]]  # (optimizer step, value)

GUESSING_LOSS = math.log(2)  # nats; of a fair coin for NSP


# ---- loading -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What the files of a run directory say. A file that is not there is None."""

    directory: Path
    config: PretrainConfig
    data: Record | None
    environment: Record | None
    evaluation: Record | None
    train: list[Record]  # lines of metrics.jsonl by step
    evals: list[Record]
    vocabulary: list[str]
    seconds: float  # in training steps
    unreadable: list[int] = field(default_factory=list)  # line numbers of metrics.jsonl, from 1

    @property
    def last_step(self) -> int:
        """Optimizer steps known to be completed."""
        return max((record["step"] for record in [*self.train, *self.evals]), default=0)

    @property
    def finished(self) -> bool:
        """The last step of the last phase is done."""
        return self.last_step >= self.config.total_steps


def load_run(directory: Path) -> Run:
    """Read a run directory.

    Raises:
      UserError: not a run directory, or one of its JSON files cannot be read.
    """
    files = open_run(directory)
    records, unreadable = read_metrics(files.metrics_file)
    vocabulary = directory / "vocab.txt"
    return Run(
        directory=directory,
        config=files.config(),
        data=read_json(files.data_file, "bert-jax prepare writes it; copy it from the data directory"),
        environment=read_json(files.environment_file, "remove it: it is written when the run goes on"),
        evaluation=read_json(files.evaluation_file, "make it again with bert-jax evaluate"),
        train=[record for record in records if record["kind"] == "train"],
        evals=[record for record in records if record["kind"] == "eval"],
        vocabulary=vocabulary.read_text(encoding="utf-8").split("\n") if vocabulary.is_file() else [],
        seconds=math.fsum(number(record, "seconds") or 0 for record in records),
        unreadable=unreadable,
    )


def read_json(path: Path, remedy: str) -> Record | None:
    """The object in a JSON file; None where there is no file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: is not a JSON object: {remedy}")
    return value


def read_metrics(path: Path) -> tuple[list[Record], list[int]]:
    """The records of a metrics.jsonl as they were written, and the numbers of the lines that cannot be read.

    A kill may tear the last line.
    """
    records: list[Record] = []
    unreadable: list[int] = []
    if not path.is_file():
        return records, unreadable
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line_number, line in enumerate(lines, start=1):
            record = _parse_record(line)
            if record is not None:
                records.append(record)
            elif line.strip():
                unreadable.append(line_number)
    return records, unreadable


def _parse_record(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    known = isinstance(record, dict) and record.get("kind") in ("train", "eval")
    return record if known and type(record.get("step")) is int else None


def number(record: Record | None, key: str) -> float | None:
    """The number under `key`, None where there is none."""
    value = (record or {}).get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def series(records: Sequence[Record], key: str) -> list[tuple[float, float]]:
    """(step, value) of every record that has a number under `key`."""
    pairs = [(record["step"], number(record, key)) for record in records]
    return [(step, value) for step, value in pairs if value is not None]


# ---- numbers in words --------------------------------------------------------------------------------------

SPACE = "\N{NO-BREAK SPACE}"


def count(value: float | None) -> str:
    """A whole number with thousand separators."""
    return "not recorded" if value is None else f"{value:,.0f}"


def millions(value: float) -> str:
    """A large number in three or four digits: 109.5 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.1f}{SPACE}{letter}"
    return count(value)


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return "not recorded" if share is None else f"{100 * share:.{digits}f}{SPACE}%"


def decimal(value: float | None, digits: int = 3, unit: str = "") -> str:
    """A number with a fixed count of decimals, and its unit."""
    return "not recorded" if value is None else f"{value:,.{digits}f}{SPACE + unit if unit else ''}"


def perplexity(value: float | None) -> str:
    """A perplexity: decimals only where they matter."""
    return decimal(value, 1 if value is None or value < 100 else 0)


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 1:
        return f"{int(days)}{SPACE}d {int(hours % 24)}{SPACE}h"
    if hours >= 1:
        return f"{int(hours)}{SPACE}h {int(minutes % 60)}{SPACE}min"
    if minutes >= 1:
        return f"{int(minutes)}{SPACE}min {int(seconds % 60)}{SPACE}s"
    return f"{seconds:.1f}{SPACE}s"


def moment(text: Any) -> str:
    """An ISO time, to the minute, in UTC."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if time.tzinfo else f"{time:%Y-%m-%d %H:%M}"


def plain(value: Any) -> str:
    """A setting as it is written on the command line, whole numbers with thousand separators."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)


def exponential(value: float | None) -> float | None:
    """e to the `value`, infinite where that is too large for a float."""
    if value is None:
        return None
    return math.exp(value) if value < 700 or math.isnan(value) else math.inf


def parameter_count(model: ModelConfig) -> int:
    """Parameters of the encoder with its pooler, without MLM and NSP head: 109,482,240 for BERT-base."""
    hidden, inner = model.hidden_size, model.intermediate_size
    layer_norm = 2 * hidden
    rows = model.vocab_size + model.max_position_embeddings + model.type_vocab_size
    attention = 4 * (hidden * hidden + hidden) + layer_norm
    feed_forward = 2 * hidden * inner + inner + hidden + layer_norm
    pooler = hidden * hidden + hidden
    return rows * hidden + layer_norm + model.num_hidden_layers * (attention + feed_forward) + pooler


# ---- charts: plain lists -> SVG ----------------------------------------------------------------------------

WIDTH, HEIGHT = 480, 236  # user units of the drawing; the page scales it
TEXT_SIZE = 11
MOST_POINTS = 300  # of a curve; longer ones are averaged
LABEL_GAP = 15  # user units between two labels, enough for the larger text of a narrow screen

# What matplotlib draws with, and the page's CSS variable it becomes.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
TRAINING, HELD_OUT, REFERENCE = "#040404", "#050505", "#060606"
CSS_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    TRAINING: "--training",
    HELD_OUT: "--held-out",
    REFERENCE: "--reference",
}


@dataclass(frozen=True)
class Steps:
    """The horizontal axis: optimizer steps from 0 to `last`, and where later phases begin."""

    last: int
    phases: tuple[tuple[int, str], ...] = ()  # (first step of the phase, its label)


def mlm_loss_chart(training: Points, held_out: Points, unigram_entropy: float | None, steps: Steps) -> str:
    """MLM loss in nats; the unigram entropy of the corpus is what word frequencies alone reach."""
    figure, axes = _blank(steps)
    curves = [("training", training, TRAINING), ("held-out", held_out, HELD_OUT)]
    _whole_ticks(axes, [value for _, value in [*training, *held_out]] + [unigram_entropy])
    _draw_labelled(axes, curves, unigram_entropy, f"unigram entropy {decimal(unigram_entropy, 2)}")
    return _svg(figure, "mlm-loss", "MLM loss against optimizer steps")


def perplexity_chart(training: Points, held_out: Points, unigram_entropy: float | None, steps: Steps) -> str:
    """Perplexity, e to the MLM loss, on a logarithmic axis. The points hold the loss."""
    figure, axes = _blank(steps)
    reference = exponential(unigram_entropy)
    values = [exponential(loss) for _, loss in [*training, *held_out]]
    _logarithmic(axes, [value for value in [*values, reference] if value is not None])
    curves = [("training", training, TRAINING), ("held-out", held_out, HELD_OUT)]
    _draw_labelled(axes, curves, reference, f"unigram model {perplexity(reference)}", transform=_exp)
    return _svg(figure, "perplexity", "Perplexity against optimizer steps, logarithmic axis")


def mlm_accuracy_chart(
    training: Points, held_out: Points, commonest: tuple[str, float] | None, steps: Steps
) -> str:
    """Share of picked tokens predicted right; `commonest` is a token and its share of the text."""
    figure, axes = _blank(steps, percentages=True)
    curves = [("training", training, TRAINING), ("held-out", held_out, HELD_OUT)]
    token, share = commonest or ("", None)
    _from_zero(axes, [value for _, value in [*training, *held_out]] + [share or 0])
    _draw_labelled(axes, curves, share, f"always “{token}” {percent(share)}")
    return _svg(figure, "mlm-accuracy", "MLM accuracy against optimizer steps")


def nsp_accuracy_chart(training: Points, held_out: Points, steps: Steps) -> str:
    """Share of pairs whose IsNext / NotNext is predicted right."""
    figure, axes = _blank(steps, percentages=True)
    values = [value for _, value in [*training, *held_out] if math.isfinite(value)]
    axes.set_ylim(min([0.45, *(value - 0.02 for value in values)]), 1.0)
    curves = [("training", training, TRAINING), ("held-out", held_out, HELD_OUT)]
    _draw_labelled(axes, curves, 0.5, f"guessing {percent(0.5, 0)}")
    return _svg(figure, "nsp-accuracy", "NSP accuracy against optimizer steps")


def nsp_loss_chart(training: Points, held_out: Points, steps: Steps) -> str:
    """NSP loss in nats."""
    figure, axes = _blank(steps)
    curves = [("training", training, TRAINING), ("held-out", held_out, HELD_OUT)]
    _from_zero(axes, [value for _, value in [*training, *held_out]] + [GUESSING_LOSS])
    _draw_labelled(axes, curves, GUESSING_LOSS, f"guessing ln 2 = {decimal(GUESSING_LOSS)}")
    return _svg(figure, "nsp-loss", "NSP loss against optimizer steps")


def learning_rate_chart(rates: Points, exponent: int, steps: Steps) -> str:
    """Learning rate, in units of ten to the `exponent`."""
    figure, axes = _blank(steps, right=34)
    points = [(step, rate / 10.0**exponent) for step, rate in rates]
    _from_zero(axes, [value for _, value in points])
    _draw(axes, points, TRAINING)
    return _svg(figure, "learning-rate", "Learning rate against optimizer steps")


def gradient_norm_chart(norms: Points, clip_norm: float | None, steps: Steps) -> str:
    """Global norm of the gradient before clipping, on a logarithmic axis."""
    figure, axes = _blank(steps, right=34)
    _logarithmic(axes, [value for _, value in norms] + ([clip_norm / 1.2] if clip_norm else []))
    _draw(axes, norms, TRAINING)
    if clip_norm:
        _reference_line(axes, clip_norm, f"clipped above {clip_norm:g}", [norms])
    return _svg(figure, "gradient-norm", "Gradient norm against optimizer steps, logarithmic axis")


def throughput_chart(tokens_per_second: Points, steps: Steps) -> str:
    """Tokens a second."""
    figure, axes = _blank(steps, right=34)
    _from_zero(axes, [value for _, value in tokens_per_second])
    _draw(axes, tokens_per_second, TRAINING)
    return _svg(figure, "throughput", "Tokens a second against optimizer steps")


def utilisation_chart(shares: Points, steps: Steps) -> str:
    """Model FLOPs as a share of what the devices can do at most."""
    figure, axes = _blank(steps, percentages=True, right=34)
    _from_zero(axes, [value for _, value in shares])
    _draw(axes, shares, TRAINING)
    return _svg(figure, "utilisation", "FLOP utilisation against optimizer steps")


def flops_chart(flops_per_second: Points, steps: Steps) -> str:
    """Model TFLOP a second, where no peak is known to compare with."""
    figure, axes = _blank(steps, right=34)
    points = [(step, value / 1e12) for step, value in flops_per_second]
    _from_zero(axes, [value for _, value in points])
    _draw(axes, points, TRAINING)
    return _svg(figure, "flops", "Model TFLOP a second against optimizer steps")


def _blank(steps: Steps, percentages: bool = False, right: float = 68) -> tuple[Any, Any]:
    """A figure with the steps below, light lines across, and marks where phases begin."""
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
    left, bottom, top = 58, 44, 22
    box = (left / WIDTH, bottom / HEIGHT, (WIDTH - left - right) / WIDTH, (HEIGHT - bottom - top) / HEIGHT)
    axes = figure.add_axes(box)
    axes.set_xlim(0, max(steps.last, 1))
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(REFERENCE)
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=TEXT_SIZE, length=0, pad=6)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent_tick if percentages else _tick))
    axes.set_xlabel("optimizer steps", color=MUTED, fontsize=TEXT_SIZE, labelpad=5)
    _mark_phases(axes, steps)
    return figure, axes


def _tick(value: float, _: int) -> str:
    return f"{value:,.10g}"


def _percent_tick(value: float, _: int) -> str:
    return f"{100 * value:.4g}{SPACE}%"


def _mark_phases(axes: Any, steps: Steps) -> None:
    for begin, label in steps.phases:
        late = begin > steps.last / 2
        axes.axvline(begin, color=REFERENCE, linewidth=1, dashes=(1, 2))
        axes.text(
            begin, 1.03, label, transform=axes.get_xaxis_transform(), color=MUTED, fontsize=TEXT_SIZE,
            horizontalalignment="right" if late else "left", parse_math=False,
        )  # fmt: skip


def _draw_labelled(
    axes: Any,
    curves: Sequence[tuple[str, Points, str]],
    reference: float | None,
    label: str,
    transform: Callable[[Any], Any] = lambda values: values,
) -> None:
    """Curves with their names at their right ends, and a dashed line at `reference`."""
    drawn = [(name, points, colour) for name, points, colour in curves if points]
    for _, points, colour in drawn:
        _draw(axes, points, colour, transform)
    if reference is not None and math.isfinite(reference):
        values = [[(step, float(transform(value))) for step, value in points] for _, points, _ in drawn]
        _reference_line(axes, reference, label, values)
    _label_ends(axes, [(name, points[-1][1], colour) for name, points, colour in drawn], transform)


def _draw(
    axes: Any, points: Points, colour: str, transform: Callable[[Any], Any] = lambda values: values
) -> None:
    """A curve; of more than MOST_POINTS points, their averages and a pale band from lowest to highest."""
    if not points:
        return
    step, mean, low, high = thin(points)
    marker = "o" if len(points) <= 40 else None
    axes.plot(step, transform(mean), color=colour, linewidth=1.8, marker=marker, markersize=3.2)
    if len(points) > MOST_POINTS:
        axes.fill_between(step, transform(low), transform(high), color=colour, alpha=0.22, linewidth=0)


def thin(points: Points, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, means, lowest and highest values of at most `most` stretches of neighbouring points.

    A stretch with a value that is not finite is not a number: a gap in the curve.
    """
    table = np.asarray(points, dtype=np.float64)  # [points, 2]
    table[~np.isfinite(table[:, 1]), 1] = np.nan
    parts = np.array_split(table, min(most, len(table)))
    step = [part[:, 0].mean() for part in parts]
    values = [(part[:, 1].mean(), part[:, 1].min(), part[:, 1].max()) for part in parts]
    mean, low, high = np.asarray(values).T
    return np.asarray(step), mean, low, high


def _exp(values: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.exp(values)


def _whole_ticks(axes: Any, values: Sequence[float | None]) -> None:
    """A vertical axis around the values that begins and ends on a tick."""
    finite = [value for value in values if value is not None and math.isfinite(value)] or [0.0]
    ticks = axes.yaxis.get_major_locator().tick_values(
        min(finite), max(finite) if max(finite) > min(finite) else min(finite) + 1
    )
    axes.set_yticks(ticks)
    axes.set_ylim(ticks[0], ticks[-1])


def _from_zero(axes: Any, values: Sequence[float]) -> None:
    highest = max((value for value in values if math.isfinite(value)), default=0)
    axes.set_ylim(0, 1.08 * highest if highest > 0 else 1)


def _logarithmic(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis between round numbers (1, 2, 5, 10 ...) around the values."""
    positive = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    low, high = _round_number(min(positive), down=True), _round_number(max(positive), down=False)
    axes.set_yscale("log")
    axes.set_ylim(low, high if high > low else 2 * low)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low <= 1000 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.minorticks_off()


def _round_number(value: float, down: bool) -> float:
    """The nearest of 1, 2, 5 times a power of ten below or above."""
    scale = 10.0 ** math.floor(math.log10(value))
    choices = [factor * scale for factor in (1, 2, 5, 10)]
    if down:
        return max(choice for choice in choices if choice <= value * 1.000001)
    return min(choice for choice in choices if choice >= value * 0.999999)


def _reference_line(axes: Any, value: float, label: str, curves: Sequence[Points]) -> None:
    """A dashed line across, its label at the right end on the side where no curve ends."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, value), max(high, value))
    axes.axhline(value, color=REFERENCE, linewidth=1.2, dashes=(4, 3))
    height = axes.transData.transform((0, value))[1]
    ends = [axes.transData.transform((0, points[-1][1]))[1] - height for points in curves if points]
    below = any(0 <= end < LABEL_GAP for end in ends) and height - axes.bbox.y0 > LABEL_GAP
    axes.annotate(
        label, (1, value), xycoords=axes.get_yaxis_transform(), xytext=(0, -4 if below else 4),
        textcoords="offset points", verticalalignment="top" if below else "bottom",
        horizontalalignment="right", color=MUTED, fontsize=TEXT_SIZE, parse_math=False,
    )  # fmt: skip


def _label_ends(axes: Any, ends: Sequence[tuple[str, float, str]], transform: Callable[[Any], Any]) -> None:
    """The name of each curve (name, newest value, colour) right of it, moved apart where they would meet."""
    placed = [(float(transform(value)), name, colour) for name, value, colour in ends]
    placed = sorted(end for end in placed if math.isfinite(end[0]))
    heights = [axes.transData.transform((0, value))[1] for value, _, _ in placed]
    for (value, name, colour), height, wanted in zip(placed, heights, spread(heights), strict=True):
        axes.annotate(
            name, (1, value), xycoords=axes.get_yaxis_transform(), xytext=(7, wanted - height),
            textcoords="offset points", color=colour, fontsize=TEXT_SIZE, verticalalignment="center",
            annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float = LABEL_GAP) -> list[float]:
    """Ascending heights moved apart until neighbours are `gap` from each other."""
    moved = list(heights)
    for upper in range(1, len(moved)):
        lack = gap - (moved[upper] - moved[upper - 1])
        if lack > 0:
            moved[upper - 1] -= lack / 2
            moved[upper] += lack / 2
    return moved


def _svg(figure: Any, name: str, description: str) -> str:
    """The figure as SVG to stand inside a page. Nothing of matplotlib's global state changes."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<svg[^>]*>", "<svg>", drawing, count=1)
    drawing = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>|(?<=>)\s+(?=<)",
        "",
        drawing,
        flags=re.DOTALL,
    )
    wanted = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", drawing))
    drawing = re.sub(r"<[^>]*>", lambda tag: _page_tag(tag[0], wanted), drawing)
    opening = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{markupsafe.escape(description)}">'
    return drawing.replace("<svg>", opening, 1)


def _page_tag(tag: str, wanted: set[str]) -> str:
    """One tag of matplotlib's SVG for the page: its colours and font, short numbers, only ids referred to."""
    for colour, variable in CSS_VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    tag = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in wanted else "", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    tag = re.sub(r"font-family:[^;\"]*;? ?", "", tag)
    return re.sub(r"\s+", " ", tag.replace("xlink:href", "href"))


# ---- telling: Run -> what the template prints --------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One chart with its heading. Without a drawing, `missing` says why."""

    title: str
    unit: str
    svg: markupsafe.Markup | None
    readings: tuple[tuple[str, str, str], ...] = ()  # (name, newest value, CSS class)
    note: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Notice:
    """Something to know before reading on: `kind` is warning or note."""

    kind: str
    text: str
    command: str = ""


def write_report(run_directory: Path) -> Path:
    """Write `report.html` into a run directory, in place of an earlier one; returns its path.

    Raises:
      UserError: not a run directory, or one of its JSON files cannot be read.
    """
    page = render(load_run(run_directory))
    path = run_directory / "report.html"
    unfinished = path.with_name(f".report.html.{os.getpid()}")
    try:
        unfinished.write_text(page, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def render(run: Run) -> str:
    """The page as text."""
    return _template().render(
        headline=headline(run),
        notices=notices(run),
        tiles=tiles(run),
        mlm_panels=mlm_panels(run),
        nsp_panels=nsp_panels(run),
        optimizer_panels=optimizer_panels(run),
        speed_panels=speed_panels(run),
        averaged=len(run.train) > MOST_POINTS,
        most_points=MOST_POINTS,
        picked=picked_tokens(run),
        samples=[sample_card(sample) for sample in (run.evaluation or {}).get("samples", [])],
        split=(run.evaluation or {}).get("split", "validation"),
        evaluation=evaluation_table(run),
        data=data_tables(run),
        passes=passes(run),
        shares=shares(run),
        settings=settings(run.config),
        machine=machine(run),
        evaluate=evaluate_command(run),
    )


@functools.cache
def _template() -> Any:
    text = resources.files("bert_jax").joinpath("report.html.jinja").read_text(encoding="utf-8")
    undefined = jinja2.StrictUndefined
    environment = jinja2.Environment(
        autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def evaluate_command(run: Run) -> str:
    """The command that writes evaluation.json."""
    return f"bert-jax evaluate {shlex.quote(str(run.directory))} --data DIR"


def pretrain_command(run: Run) -> str:
    """The command that takes the run up again."""
    directory = shlex.quote(str(run.directory))
    return (
        f"bert-jax pretrain {shlex.quote(str(run.directory / 'config.json'))} --data DIR --output {directory}"
    )


def headline(run: Run) -> dict[str, Any]:
    """Name, status, and the facts of one line each."""
    return {
        "name": run.directory.resolve().name,
        "finished": run.finished,
        "status": status_words(run),
        "progress": min(run.last_step / run.config.total_steps, 1.0),
        "facts": [
            ("Model", model_words(run.config.model)),
            ("Data", data_words(run.data)),
            ("Device", device_words(run)),
            ("Time", time_words(run)),
        ],
    }


def status_words(run: Run) -> str:
    """How far the run is. A run that is still at work reads as stopped: its files do not tell."""
    step, total = count(run.last_step), count(run.config.total_steps)
    if run.finished:
        return f"finished, {total} steps"
    return f"stopped at step {step} of {total}" if run.last_step else "no step logged yet"


def model_words(model: ModelConfig) -> str:
    """Size and shape of a model."""
    names = [
        name for name, shape in MODEL_SIZES.items() if all(getattr(model, key) == shape[key] for key in shape)
    ]
    name = f"BERT-{names[0]}, " if names and names[0].isalpha() else ""
    shape = f"{model.num_hidden_layers} layers × {model.hidden_size:,} features"
    return f"{name}{shape}, {model.num_attention_heads} heads, {millions(parameter_count(model))} parameters"


def data_words(data: Record | None) -> str:
    """Size of the training text."""
    if data is None:
        return "not recorded: data.json is missing"
    files = len(data.get("inputs", []))
    tokens = number(train_split(data), "tokens")
    return f"{count(tokens)} tokens for training, from {count(files)} file{'' if files == 1 else 's'}"


def device_words(run: Run) -> str:
    """Devices and the version of JAX."""
    if run.environment is None:
        return "not recorded: environment.json is missing"
    devices, version = (run.environment.get(key, "not recorded") for key in ("devices", "jax"))
    return f"{devices}, {run.config.compute_dtype}, JAX {version}"


def time_words(run: Run) -> str:
    """Time in training steps, and when the run started."""
    started = moment((run.environment or {}).get("started", "at a time not recorded"))
    spent = f"{duration(run.seconds)} in training steps, " if run.seconds else ""
    return f"{spent}last started {started}"


def train_split(data: Record | None) -> Record:
    """The training split of data.json; empty where it is not there."""
    return (data or {}).get("splits", {}).get("train", {})


def unigram_entropy(run: Run) -> float | None:
    """Entropy of the training text's word frequencies, in nats a token."""
    return number(train_split(run.data), "unigram_entropy")


def commonest_token(run: Run) -> tuple[str, float] | None:
    """The commonest token of the training text and its share of the text."""
    place, share = (
        number(train_split(run.data), "commonest_token"),
        number(train_split(run.data), "commonest_token_share"),
    )
    if place is None or share is None:
        return None
    known = 0 <= place < len(run.vocabulary)
    return (run.vocabulary[int(place)] if known else f"id {place}"), share


# ---- notices


def notices(run: Run) -> list[Notice]:
    """Everything that is missing, torn or suspicious, and the command that mends it."""
    data_warnings = [Notice("warning", f"Data: {text}") for text in (run.data or {}).get("warnings", [])]
    return [*data_warnings, *_loss_notices(run), *_progress_notices(run), *_file_notices(run)]


def _loss_notices(run: Run) -> list[Notice]:
    bad = [step for step, loss in series(run.train, "loss") if not math.isfinite(loss)]
    if bad:
        text = f"The training loss is not a number at step {count(bad[0])}: do not trust what follows it."
        return [Notice("warning", text)]
    record, _ = newest_scores(run)
    loss, entropy = number(record, "mlm_loss"), unigram_entropy(run)
    if run.finished and loss is not None and entropy is not None and loss > entropy - 0.1:
        text = (
            f"MLM loss ends at {decimal(loss)} nats, no lower than what word frequencies alone give"
            f" ({decimal(entropy)}): the model has not learned from context. What usually helps: more steps,"
            " another peak learning rate (optimizer.learning_rate) or more text."
        )
        return [Notice("warning", text)]
    return []


def _progress_notices(run: Run) -> list[Notice]:
    found = []
    if not run.train and not run.evals:
        text = f"No step is logged yet: metrics.jsonl gets a line every {count(run.config.log_every)} steps."
        found.append(Notice("note", f"{text} The same command starts or goes on:", pretrain_command(run)))
    elif not run.finished:
        text = (
            "The last step is not reached. If the run is not at work, this goes on from its last checkpoint:"
        )
        found.append(Notice("note", text, pretrain_command(run)))
    if run.unreadable:
        places = ", ".join(map(str, run.unreadable[:5])) + (" ..." if len(run.unreadable) > 5 else "")
        lines = (
            f"line {places} is"
            if len(run.unreadable) == 1
            else f"{count(len(run.unreadable))} lines ({places}) are"
        )
        found.append(
            Notice("note", f"metrics.jsonl: {lines} torn, as a kill leaves behind, and left out here.")
        )
    return found


def _file_notices(run: Run) -> list[Notice]:
    found = []
    if run.evaluation is None:
        text = "No evaluation yet, so there are no intervals and no sample predictions. This makes them:"
        found.append(Notice("note", text, evaluate_command(run)))
    elif (step := number(run.evaluation, "step")) is not None and step < run.last_step:
        text = f"The evaluation is of step {count(step)}, the run is at step {count(run.last_step)}. Again:"
        found.append(Notice("note", text, evaluate_command(run)))
    if run.data is None:
        text = (
            "data.json is missing, so nothing is known of the data. Copy it from the data directory, made by"
        )
        found.append(Notice("note", text, "bert-jax prepare --input PATH --vocab VOCAB --output DIR"))
    if run.environment is None:
        text = (
            "environment.json is missing: device and peak are not known. It is written when the run goes on:"
        )
        found.append(Notice("note", text, pretrain_command(run)))
    return found


# ---- key figures


def newest_scores(run: Run) -> tuple[Record, str]:
    """The best founded scores there are, and where they come from."""
    if run.evaluation is not None:
        return (
            run.evaluation,
            f"{run.evaluation.get('split', 'held-out')}, step {count(number(run.evaluation, 'step'))}",
        )
    if run.evals:
        return run.evals[-1], f"held-out, step {count(run.evals[-1]['step'])}"
    if run.train:
        return run.train[-1], f"training text, step {count(run.train[-1]['step'])}"
    return {}, "no value yet"


def tiles(run: Run) -> list[dict[str, str]]:
    """The key figures: label, value, unit and a line below."""
    record, where = newest_scores(run)
    found = [_loss_tile(record, where), _perplexity_tile(run, record), _mlm_accuracy_tile(run, record)]
    if run.config.objective.nsp:
        found.append(_nsp_tile(record))
    return [*found, _entropy_tile(run, record), _throughput_tile(run)]


def _tile(label: str, value: str, unit: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "unit": unit, "note": note}


def _value(value: float | None, text: Callable[[float], str]) -> str:
    """A value for a tile, a dash where there is none."""
    return "–" if value is None else text(value)


def _interval(record: Record, key: str) -> str:
    low, high = record.get(key) or (None, None)
    if low is None or high is None:
        return "no interval before an evaluation"
    return f"95{SPACE}% interval {100 * low:.1f} to {100 * high:.1f}"


def _loss_tile(record: Record, where: str) -> dict[str, str]:
    return _tile("MLM loss", _value(number(record, "mlm_loss"), decimal), "nats", where)


def _perplexity_tile(run: Run, record: Record) -> dict[str, str]:
    value = number(record, "mlm_perplexity")
    value = exponential(number(record, "mlm_loss")) if value is None else value
    baseline = exponential(number(record, "unigram_loss") or unigram_entropy(run))
    note = f"word frequencies alone: {perplexity(baseline)}" if baseline else ""
    return _tile("Perplexity", _value(value, perplexity), "", note)


def _mlm_accuracy_tile(run: Run, record: Record) -> dict[str, str]:
    accuracy = number(record, "mlm_accuracy")
    token, share = commonest_token(run) or ("", None)
    token, share = record.get("commonest_token", token), record.get("commonest_token_accuracy", share)
    note = _interval(record, "mlm_accuracy_95")
    if accuracy is not None and share:
        note += f"; {accuracy / share:.1f} times as often right as always “{token}”"
    return _tile("MLM accuracy", _value(accuracy, lambda value: f"{100 * value:.1f}"), "%", note)


def _nsp_tile(record: Record) -> dict[str, str]:
    value = _value(number(record, "nsp_accuracy"), lambda value: f"{100 * value:.1f}")
    return _tile("NSP accuracy", value, "%", f"{_interval(record, 'nsp_accuracy_95')}; guessing: 50{SPACE}%")


def _entropy_tile(run: Run, record: Record) -> dict[str, str]:
    loss, entropy = number(record, "mlm_loss"), number(record, "unigram_entropy") or unigram_entropy(run)
    gain = None if loss is None or entropy is None else entropy - loss
    side = "above" if gain is not None and gain < 0 else "below"
    note = f"entropy of word frequencies: {decimal(entropy, unit='nats')}"
    text = _value(gain, lambda value: decimal(abs(value), 2))
    return _tile(f"{side.capitalize()} unigram entropy", text, "nats", note)


def _throughput_tile(run: Run) -> dict[str, str]:
    rates = [rate for _, rate in series(run.train, "tokens_per_second")]
    notes = [f"median of {count(len(rates))} interval{'' if len(rates) == 1 else 's'}"] if rates else []
    flops = [rate for _, rate in series(run.train, "model_flops_per_second")]
    if flops:
        peak = peak_flops(run)
        median = statistics.median(flops)
        notes.append(
            f"{percent(median / peak)} of peak" if peak else f"{median / 1e12:.3g} TFLOP/s, no peak known"
        )
    return _tile(
        "Throughput", _value(statistics.median(rates) if rates else None, count), "tokens/s", "; ".join(notes)
    )


def peak_flops(run: Run) -> float | None:
    """What all devices of the run can do at most, in FLOP a second; None where it is not known."""
    peak, devices = number(run.environment, "peak_flops_per_device"), number(run.environment, "device_count")
    return peak * devices if peak and devices else None


# ---- charts of a run


def steps_axis(run: Run) -> Steps:
    """The steps done, and where phases 1 and later began; phases count from 0 as in the configuration."""
    begin, marks = 0, []
    for place, phase in enumerate(run.config.phases):
        if 0 < begin < run.last_step:
            marks.append((begin, f"phase {place}: {phase.sequence_length} tokens"))
        begin += phase.steps
    return Steps(run.last_step, tuple(marks))


def _panel(
    run: Run, title: str, unit: str, draw: Callable[[], str], curves: Mapping[str, Any], note: str = ""
) -> Panel:
    """A panel of `curves`: name -> (points, how its newest value is written)."""
    readings = tuple(
        (name, text(points[-1][1]), "held-out" if name == "held-out" else "training")
        for name, (points, text) in curves.items()
        if points
    )
    if not readings:
        missing = "No such value in metrics.jsonl." if run.train or run.evals else "No step is logged yet."
        return Panel(title, unit, None, missing=missing)
    return Panel(title, unit, markupsafe.Markup(draw()), readings, note)


def _pair(run: Run, key: str, text: Callable[[float], str]) -> tuple[Points, Points, dict[str, Any]]:
    training, held_out = series(run.train, key), series(run.evals, key)
    return training, held_out, {"training": (training, text), "held-out": (held_out, text)}


def mlm_panels(run: Run) -> list[Panel]:
    """MLM loss, accuracy and perplexity."""
    steps, entropy, commonest = steps_axis(run), unigram_entropy(run), commonest_token(run)
    training, held_out, losses = _pair(run, "mlm_loss", decimal)
    right, held_out_right, accuracies = _pair(run, "mlm_accuracy", percent)
    perplexities = {
        name: (points, lambda loss: perplexity(exponential(loss))) for name, (points, _) in losses.items()
    }
    return [
        _panel(
            run, "MLM loss", "nats", lambda: mlm_loss_chart(training, held_out, entropy, steps), losses,
            below_entropy(training, entropy),
        ),
        _panel(
            run, "MLM accuracy", "of picked tokens",
            lambda: mlm_accuracy_chart(right, held_out_right, commonest, steps), accuracies,
        ),
        _panel(
            run, "Perplexity", "e to the loss, logarithmic axis",
            lambda: perplexity_chart(training, held_out, entropy, steps), perplexities,
        ),
    ]  # fmt: skip


def below_entropy(losses: Points, entropy: float | None) -> str:
    """Since which step the loss has stayed below the unigram entropy."""
    if entropy is None or not losses:
        return ""
    since = None
    for step, loss in reversed(losses):
        if not loss < entropy:
            break
        since = step
    if since is None:
        return "Not below the unigram entropy, what word frequencies alone give."
    return f"Below the unigram entropy, what word frequencies alone give, since step {count(since)}."


def nsp_panels(run: Run) -> list[Panel]:
    """NSP accuracy and loss; none where the run does not predict the next sentence."""
    if not run.config.objective.nsp:
        return []
    steps = steps_axis(run)
    right, held_out_right, accuracies = _pair(run, "nsp_accuracy", percent)
    training, held_out, losses = _pair(run, "nsp_loss", decimal)
    return [
        _panel(
            run,
            "NSP accuracy",
            "of pairs",
            lambda: nsp_accuracy_chart(right, held_out_right, steps),
            accuracies,
        ),
        _panel(run, "NSP loss", "nats", lambda: nsp_loss_chart(training, held_out, steps), losses),
    ]


def optimizer_panels(run: Run) -> list[Panel]:
    """Learning rate and gradient norm."""
    steps, optimizer = steps_axis(run), run.config.optimizer
    rates, norms = series(run.train, "learning_rate"), series(run.train, "grad_norm")
    exponent = math.floor(math.log10(max([rate for _, rate in rates if rate > 0], default=1.0)))
    schedule = f"Peak {plain(optimizer.learning_rate)}, warm-up of {count(optimizer.warmup_steps)} steps."
    return [
        _panel(
            run, "Learning rate", f"× 10{superscript(exponent)}",
            lambda: learning_rate_chart(rates, exponent, steps),
            {"newest": (rates, lambda rate: f"{rate:.2g}")}, schedule,
        ),
        _panel(
            run, "Gradient norm", "before clipping, logarithmic axis",
            lambda: gradient_norm_chart(norms, optimizer.clip_norm, steps),
            {"newest": (norms, lambda norm: decimal(norm, 2))},
            "" if optimizer.clip_norm else "Not clipped: optimizer.clip_norm=0.",
        ),
    ]  # fmt: skip


def superscript(value: int) -> str:
    """A whole number in raised digits."""
    return str(value).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def speed_panels(run: Run) -> list[Panel]:
    """Throughput, and FLOP utilisation where a peak is known."""
    steps, peak = steps_axis(run), peak_flops(run)
    tokens, flops = series(run.train, "tokens_per_second"), series(run.train, "model_flops_per_second")
    throughput = _panel(
        run,
        "Throughput",
        "tokens/s, without padding",
        lambda: throughput_chart(tokens, steps),
        {"newest": (tokens, count)},
    )
    if peak is None:
        newest = {"newest": (flops, lambda rate: f"{rate / 1e12:.3g} TFLOP/s")}
        note = "No peak known for this device, so no utilisation."
        return [
            throughput,
            _panel(run, "Model FLOPs", "TFLOP/s", lambda: flops_chart(flops, steps), newest, note),
        ]
    utilised = [(step, rate / peak) for step, rate in flops]
    newest = {"newest": (utilised, percent)}
    note = peak_words(run, peak)
    return [
        throughput,
        _panel(run, "FLOP utilisation", "of peak", lambda: utilisation_chart(utilised, steps), newest, note),
    ]


def peak_words(run: Run, peak: float) -> str:
    """The peak that utilisation is measured against."""
    environment = run.environment or {}
    devices, source = (
        number(environment, "device_count"),
        environment.get("peak_source", "source not recorded"),
    )
    each = (
        f", {count(devices)} devices of {environment['peak_flops_per_device'] / 1e12:,.4g}"
        if devices != 1
        else ""
    )
    return f"Peak {peak / 1e12:,.4g} TFLOP/s{each} ({source})."


# ---- samples


def sample_card(sample: Record) -> dict[str, Any]:
    """A sample text in pieces, with the predictions of each masked slot and of the pair."""
    answers, predictions = sample.get("answers", []), sample.get("predictions", [])
    slots = [
        _slot(place, answer, ranked)
        for place, (answer, ranked) in enumerate(zip(answers, predictions, strict=False), 1)
    ]
    return {
        "pieces": _sample_pieces(sample.get("text", ""), slots),
        "slots": slots,
        "pair": sample.get("next_sentence"),
    }


def _slot(place: int, answer: str, ranked: Sequence[Sequence[Any]]) -> dict[str, Any]:
    rows = [{"token": token, "share": share, "right": token == answer} for token, share in ranked]
    rank = next((rank for rank, row in enumerate(rows, 1) if row["right"]), None)
    return {"place": place, "answer": answer, "rows": rows, "rank": rank}


def _sample_pieces(text: str, slots: Sequence[Any]) -> list[dict[str, Any]]:
    """The text cut at [MASK] and [SEP]: pieces with `text`, `slot` or `separator`."""
    pieces: list[dict[str, Any]] = []
    masks = 0
    for piece in re.split(r"(\[MASK\]|\[SEP\])", text):
        if piece == "[MASK]" and masks < len(slots):
            pieces.append({"slot": slots[masks]})
            masks += 1
        elif piece == "[SEP]":
            pieces.append({"separator": True})
        elif piece:
            pieces.append({"text": piece})
    return pieces


# ---- tables


def evaluation_table(run: Run) -> dict[str, Any] | None:
    """Rows of (measure, value, 95 % interval, for comparison); None where nothing is evaluated."""
    scores = run.evaluation
    if scores is None:
        return None
    rows = _mlm_rows(scores)
    if number(scores, "nsp_accuracy") is not None:
        rows += _nsp_rows(scores)
    length, masked = (count(number(scores, key)) for key in ("sequence_length", "masked_tokens"))
    caption = f"{newest_scores(run)[1]}, sequences of {length} tokens, {masked} masked tokens"
    return {"rows": rows, "caption": caption}


def _range(scores: Record, key: str) -> str:
    low, high = scores.get(key) or (None, None)
    return "" if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f}{SPACE}%"


def _mlm_rows(scores: Record) -> list[tuple[str, str, str, str]]:
    loss, unigram, entropy = (number(scores, key) for key in ("mlm_loss", "unigram_loss", "unigram_entropy"))
    frequencies = (
        f"unigram model, same tokens {decimal(unigram)}; entropy of the training text {decimal(entropy)}"
    )
    token, guess = (
        scores.get("commonest_token", "commonest token"),
        number(scores, "commonest_token_accuracy"),
    )
    accuracy, interval = number(scores, "mlm_accuracy"), _range(scores, "mlm_accuracy_95")
    histogram = scores.get("mask_histogram") or {}
    picked = sum(histogram.values())
    parts = (
        [f"{name} {percent(histogram.get(key, 0) / picked)}" for name, key in MASK_PARTS] if picked else []
    )
    words = perplexity(exponential(unigram))
    return [
        ("MLM loss", decimal(loss, 4, "nats"), "", frequencies),
        ("MLM perplexity", decimal(number(scores, "mlm_perplexity"), 2), "", f"unigram model {words}"),
        ("MLM accuracy", percent(accuracy, 2), interval, f"always “{token}” {percent(guess, 2)}"),
        ("Picked tokens", percent(number(scores, "picked_share"), 2), "", ", ".join(parts)),
    ]


def _nsp_rows(scores: Record) -> list[tuple[str, str, str, str]]:
    share = number(scores, "is_next_share")
    commoner = f"always the commoner label {percent(max(share, 1 - share), 2)}" if share is not None else ""
    labels = f"IsNext {percent(share)}, NotNext {percent(1 - share)}" if share is not None else ""
    return [
        (
            "NSP loss",
            decimal(number(scores, "nsp_loss"), 4, "nats"),
            "",
            f"guessing {decimal(GUESSING_LOSS, 4)}",
        ),
        (
            "NSP accuracy",
            percent(number(scores, "nsp_accuracy"), 2),
            _range(scores, "nsp_accuracy_95"),
            commoner,
        ),
        ("Sentence pairs", count(number(scores, "pairs")), "", labels),
    ]


MASK_PARTS = (("[MASK]", "mask"), ("random", "random"), ("kept", "kept"))


def data_tables(run: Run) -> dict[str, Any] | None:
    """What data.json says: rows of (measure, value in each split), input files, how it was prepared."""
    if run.data is None:
        return None
    names = {"train": "Training", "validation": "Held-out"}
    splits = {names.get(name, name): split for name, split in run.data.get("splits", {}).items()}
    rows = _split_rows(run, list(splits.values()))
    for length in run.data.get("sequence_lengths", []):
        rows += _length_rows(list(splits.values()), str(length))
    inputs = run.data.get("inputs", [])
    return {
        "head": ["", *splits],
        "rows": rows,
        "inputs": [(entry.get("file", ""), count(number(entry, "bytes"))) for entry in inputs],
        "bytes": count(sum(number(entry, "bytes") or 0 for entry in inputs)),
        "prepared": _prepared(run.data),
    }


def _split_rows(run: Run, splits: Sequence[Record]) -> list[tuple[str, ...]]:
    names = ("documents", "sentences", "tokens")
    return [
        *((name.capitalize(), *(count(number(split, name)) for split in splits)) for name in names),
        ("Unknown tokens", *(_unknown(split) for split in splits)),
        ("Unigram entropy", *(decimal(number(split, "unigram_entropy"), 3, "nats") for split in splits)),
        ("Commonest token", *(_commonest(run, split) for split in splits)),
    ]


def _unknown(split: Record) -> str:
    unknown, tokens = number(split, "unknown_tokens"), number(split, "tokens")
    share = f" ({percent(unknown / tokens, 2)})" if unknown is not None and tokens else ""
    return count(unknown) + share


def _commonest(run: Run, split: Record) -> str:
    place = split.get("commonest_token")
    known = isinstance(place, int) and 0 <= place < len(run.vocabulary)
    token = f"“{run.vocabulary[place]}”" if known and place is not None else f"id {place}"
    return f"{token} ({percent(number(split, 'commonest_token_share'), 2)})"


def _length_rows(splits: Sequence[Record], length: str) -> list[tuple[str, ...]]:
    def each(key: str, text: Callable[[float | None], str]) -> list[str]:
        return [text(number(split.get(key, {}), length)) for split in splits]

    def labels(share: float | None) -> str:
        return "not recorded" if share is None else f"{100 * share:.1f} / {percent(1 - share)}"

    return [
        (f"Examples of {length} tokens", *each("examples", count)),
        (f"IsNext / NotNext, {length} tokens", *each("is_next_share", labels)),
        (f"Not padding, {length} tokens", *each("valid_token_share", percent)),
    ]


def _prepared(data: Record) -> str:
    return (
        f"Vocabulary of {count(number(data, 'vocab_size'))} entries,"
        f" tokenizer {str(data.get('tokenizer', 'not recorded'))[:12]};"
        f" {percent(number(data, 'held_out'))} held out; random next sentence with probability"
        f" {data.get('random_next_prob', 'not recorded')}; shorter examples with probability"
        f" {data.get('short_seq_prob', 'not recorded')}; seed {data.get('seed', 'not recorded')}."
    )


def passes(run: Run) -> list[tuple[str, ...]]:
    """Rows of (phase, epochs, steps, tokens in a row, batch, rows seen, examples), and their sum."""
    examples_of, left, rows, total = train_split(run.data).get("examples", {}), run.last_step, [], 0.0
    for place, phase in enumerate(run.config.phases):
        done = min(left, phase.steps)
        left -= done
        examples = number(examples_of, str(phase.sequence_length))
        epochs = done * phase.batch_size / examples if examples else None
        total += math.nan if epochs is None else epochs
        steps = f"{count(done)} of {count(phase.steps)}"
        sizes = (phase.sequence_length, phase.batch_size, done * phase.batch_size, examples)
        rows.append((f"Phase{SPACE}{place}", decimal(epochs, 2), steps, *map(count, sizes)))
    if len(rows) > 1:
        steps = f"{count(run.last_step)} of {count(run.config.total_steps)}"
        rows.append(("All", decimal(None if math.isnan(total) else total, 2), steps, "", "", "", ""))
    return rows


def shares(run: Run) -> list[dict[str, Any]]:
    """Measured shares beside the configured ones, over all logged steps."""
    objective, random_next = run.config.objective, number(run.data, "random_next_prob")
    wanted: list[tuple[str, str, float | None]] = [
        ("Picked and predicted, of all tokens", "picked_share", objective.mlm_probability),
        ("Picked: replaced by [MASK]", "mask_share", objective.mask_share),
        ("Picked: replaced by a random token", "random_share", objective.random_share),
        ("Picked: kept as it is", "kept_share", 1 - objective.mask_share - objective.random_share),
        (
            "Pairs: IsNext, the rest NotNext",
            "is_next_share",
            None if random_next is None else 1 - random_next,
        ),
    ]
    rows = []
    for label, key, configured in wanted:
        measured = mean_share(run.train, key)
        if measured is not None:
            words = {"measured_text": percent(measured, 2), "configured_text": percent(configured)}
            rows.append({"label": label, "measured": measured, "configured": configured, **words})
    return rows


def mean_share(records: Sequence[Record], key: str) -> float | None:
    """Mean of a share over the records, weighted by their valid tokens."""
    pairs = [(number(record, key), number(record, "valid_tokens") or 0) for record in records]
    known = [(share, weight) for share, weight in pairs if share is not None and math.isfinite(share)]
    total = sum(weight for _, weight in known)
    return math.fsum(share * weight for share, weight in known) / total if total else None


def picked_tokens(run: Run) -> dict[str, str]:
    """How much of the text enters the MLM loss, in the words of the note beside the curves."""
    configured = percent(run.config.objective.mlm_probability, 0)
    tokens = math.fsum(number(record, "valid_tokens") or 0 for record in run.train)
    measured = mean_share(run.train, "picked_share")
    if measured is None:
        return {"configured": configured, "measured": ""}
    predictions = f"{millions(measured * tokens)} predictions from {millions(tokens)} tokens"
    return {"configured": configured, "measured": f"{predictions} ({percent(measured, 2)})"}


# ---- configuration and environment


def settings(config: PretrainConfig) -> dict[str, Any]:
    """Every setting by section, marked where it is not the default."""
    defaults = dict(flatten(to_dict(PretrainConfig())))
    sections: dict[str, list[dict[str, Any]]] = {}
    for key, value in flatten(to_dict(config)):
        section, _, name = key.rpartition(".")
        changed = key not in defaults or defaults[key] != value
        row = {
            "name": name,
            "value": plain(value),
            "changed": changed,
            "default": plain(defaults[key]) if key in defaults else "no such phase",
            "help": setting_help(key),
        }
        sections.setdefault(section or "run", []).append(row)
    rows = [row for section in sections.values() for row in section]
    return {"sections": sections, "count": len(rows), "changed": sum(row["changed"] for row in rows)}


def setting_help(key: str) -> str:
    """What a dotted setting means, as its field says."""
    kind: Any = PretrainConfig
    help = ""
    for part in key.split("."):
        if part.isdigit():
            continue
        place = next(field for field in dataclasses.fields(kind) if field.name == part)
        help = place.metadata.get("help", "")
        kind = type(place.default[0] if isinstance(place.default, tuple) else place.default)
    return help


def machine(run: Run) -> list[tuple[str, str]]:
    """Rows of environment.json."""
    names = {
        "bert_jax": "bert_jax",
        "jax": "JAX",
        "started": "Last started",
        "peak_flops_per_device": "Peak of a device",
        "peak_source": "Source of the peak",
    }
    rows = []
    for key, value in (run.environment or {}).items():
        text = moment(value) if key == "started" else plain(value)
        if key == "peak_flops_per_device":
            text = f"{value / 1e12:,.4g} TFLOP/s" if value else "not known"
        rows.append((names.get(key, key.replace("_", " ").capitalize()), text))
    return rows
