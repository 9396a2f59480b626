# SPDX-License-Identifier: Apache-2.0
"""The figures of a report as tables of Markdown, for bench.md and for the terminal.

Columns have the names of bench.json; a name below another follows a colon. How a value is written follows from the words of
its column: shares are percentages, seconds have the unit that suits them, and medians have their spread beside them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from bert_jax.base.types import JsonObject
from bert_jax.bench.measure import summary
from bert_jax.pages.wording import count, decimal, percent, SPACE

Row = dict[str, str]
CURVE_ROWS = 10  # steps of a curve of losses that are shown
SHAPE = ("rows", "sequence_length", "packing")
# The fields of a kind of record that its table shows. Kinds with several rows a record are in `parts_of`.
FIELDS: Mapping[str, Sequence[str]] = {
    "product": ("flops_per_second", "vendor_share"),
    "copy": ("bytes_per_second",),
    "kernel": ("mode", "dtype", "errors", "tolerance"),
    "step": (
        *SHAPE,
        "dtype",
        "seconds",
        "sequences_per_second",
        "valid_tokens_per_second",
        "flops_per_second",
        "utilisation",
        "vendor_utilisation",
        "update_share",
        "compile_seconds",
    ),
    "dropout": (*SHAPE, "seconds", "cost_of_attention_dropout", "cost_of_dropout"),
    "checkpoint": ("bytes", "seconds", "blocked_share"),
    "memory": (*SHAPE, "argument_bytes", "temporary_bytes", "total_bytes", "process_peak_bytes"),
    "largest batch": ("largest_rows", "sequence_length", "tried"),
    "train": ("steps", "unigram_entropy", "final_loss", "largest_difference", "largest_smoothed_difference"),
    "peer": (*SHAPE, "dtype", "peer", "seconds", "valid_tokens_per_second", "ratio"),
}


def tables_of(entry: JsonObject) -> list[str]:
    """Return the tables of a subject's records, one of each kind.

    Records that failed are in none, but that of attention, where some implementations may have failed and others not.
    """
    tables: dict[str, list[Row]] = {}
    reasons: dict[str, str] = {}
    for record in entry["records"]:
        if "kind" in record and ("error" not in record or record["kind"] == "attention"):
            for title, fields in parts_of(record):
                tables.setdefault(title, []).append({title: record["name"], **dict(cells(fields))})
            reasons |= record.get("refused", {})
    refused = [{"not run here": name, "why": reason} for name, reason in reasons.items()]
    return [markdown(rows) for rows in (*tables.values(), refused) if rows]


def parts_of(record: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Yield the title of a table and the fields of a row in it, for each row of a record."""
    kind = record["kind"]
    if kind in FIELDS:
        yield kind, {name: record.get(name) for name in FIELDS[kind]}
    if "loop" in record:
        loop = record["loop"]
        seconds_of_one = {side: one["median"] / loop["steps"] for side, one in loop["seconds"].items()}
        yield "training loop", {"seconds_of_a_step": seconds_of_one, **loop, "seconds": None}
    if kind == "attention":
        passes = ("forward", "forward + backward")
        for name in record["implementations"]:
            found = {each: record["seconds"].get(f"{name} {each}", "failed") for each in passes}
            yield kind, {"implementation": name, "dtype": record["dtype"], "seconds": found}
    if kind == "train":
        yield from (("curves of losses", row) for row in curve(record))
    if kind == "compared":
        for side, found in record["rates"].items():
            times_as_fast = record["ratios"].get(side)
            share = None if times_as_fast else record.get("valid_share")
            row = {"side": side, record["unit"]: found, "valid_share": share, "times_as_fast": times_as_fast}
            told = {name: record[name].get(side) for name in ("seconds", "agreement") if name in record}
            yield f"work, {record['unit']}", row | told
    if "different" in record:
        yield "ids", {name: record[name] for name in ("sentences", "different")}
    for side, samples in record.get("processes", {}).items():
        medians = {figure: summary([one[figure] for one in samples])["median"] for figure in samples[0]}
        yield "processes", {"side": side, **medians, "MB_per_CPU-s": record["megabytes"] / medians["cpu_seconds"]}
    if kind == "duel":
        for side, one in record["sides"].items():
            ratio = record.get("ratio", "never") if side == record["opponent"] else None
            shown = {name: one.get(name) for name in ("seconds_to_the_loss", "recipe")}
            yield (
                kind,
                {
                    "side": side,
                    "steps": one["steps"],
                    "seconds_for_the_text": one["preparation_seconds"],
                    "seconds_of_training": one["seconds"],
                    "held-out_loss": one["loss"],
                    **shown,
                    "times_as_fast": ratio,
                },
            )
    if kind == "finetune":
        for side, one in record["sides"].items():
            own = {} if "examples_to_pay_back" in one else {"compilation_seconds": record["compilation_seconds"]}
            yield kind, {"side": side} | {name: value for name, value in one.items() if name != "samples"} | own


def curve(record: JsonObject) -> Iterator[JsonObject]:
    """Yield the losses of both runs, and their difference, at some steps."""
    every = max(1, record["steps"] // CURVE_ROWS)
    for step in range(every, record["steps"] + 1, every):
        losses = {dtype: values[step - 1] for dtype, values in record["loss"].items()}
        first, second = losses.values()
        yield {"step": step, "loss": losses, "difference": abs(first - second)}


def cells(fields: JsonObject, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the head and the cell of each field; of a field that holds others, those."""
    for name, value in fields.items():
        head = above + name.replace("_", " ")
        if isinstance(value, dict):
            if "median" in value:
                yield head, f"{written(head, value['median'])} {spread(value)}"
            else:
                yield from cells(value, f"{head}: ")
        elif value is not None:
            yield head, written(head, value)


def markdown(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table with aligned columns: the first to the left, the others to the right."""
    heads = list(dict.fromkeys(head for row in rows for head in row))
    lines = [heads, *([row.get(head, "").replace("|", "\\|") for head in heads] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]

    def line(row: Iterable[str]) -> str:
        first, *others = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |".replace(SPACE, " ")

    rule = ["-" * width if place == 0 else f"{'-' * (width - 1)}:" for place, width in enumerate(widths)]
    return "\n".join(line(row) for row in (lines[0], rule, *lines[1:]))


# ---- how a value is written ------------------------------------------------------------------------------------------


def seconds(value: float) -> str:
    """Write a short time in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g}{SPACE}{unit}"
    return f"{value / 1e-9:.3g}{SPACE}ns"


def flop_rate(value: float) -> str:
    """Write FLOP/s in the unit that suits them."""
    size, letter = next(pair for pair in ((1e12, "T"), (1e9, "G"), (1.0, "")) if value >= pair[0])
    return f"{value / size:,.4g}{SPACE}{letter}FLOP/s"


def times(value: float) -> str:
    """Write a ratio."""
    return f"{value:,.2f}x"


def spread(one: JsonObject) -> str:
    """Write how far samples lie from their median, at most."""
    widest = max(one["highest"] - one["median"], one["median"] - one["lowest"])
    return f"±{percent(widest / one['median'], 0)}" if one["median"] else ""


# By a word of the column's head; the first that fits.
WRITERS: Mapping[str, Callable[[float], str]] = {
    **dict.fromkeys(("share", "utilisation", "cost of"), percent),
    **dict.fromkeys(("ratio", "times"), times),
    **dict.fromkeys(("errors", "tolerance"), "{:.1e}".format),
    "flops": flop_rate,
    "bytes per second": lambda value: f"{value / 1e9:,.4g}{SPACE}GB/s",
    "bytes": lambda value: f"{value / 2**30:,.2f}{SPACE}GiB",
    "per second": lambda value: decimal(value, 0 if value >= 100 else 2),
    "seconds": seconds,
    "rows": count,
}


def written(head: str, value: object) -> str:
    """Write a value as the words of its column's head ask for."""
    if not isinstance(value, int | float):
        return str(value)
    write = next((write for word, write in WRITERS.items() if word in head), None)
    return write(value) if write else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
