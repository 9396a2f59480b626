# SPDX-License-Identifier: Apache-2.0
"""The figures of a report as tables of Markdown, for bench.md and for the terminal.

A table is a list of rows, dictionaries from a column's head to its cell. A column in which no row says anything is not
shown.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from bert_jax.pages.wording import count, decimal, percent, SPACE
from bert_jax.types import JsonObject

Row = dict[str, str]
CURVE_ROWS = 10  # steps of a curve of losses that are shown


def tables_of(subject: str, entry: JsonObject) -> list[str]:
    """Return the tables of a subject's records; records that failed are in none."""
    records = [record for record in entry["records"] if "kind" in record and "error" not in record]
    tables = ([row for record in records if record["kind"] == kind for row in make(record)]
              for kind, make in TABLES.get(subject, ()))  # fmt: skip
    refused: dict[str, str] = {}
    for record in records:
        refused |= record.get("refused", {})
    refusals = [{"Not run here": name, "Why": reason} for name, reason in refused.items()]
    return [markdown(rows) for rows in (*tables, refusals) if rows]


def markdown(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table with aligned columns: the first to the left, the others to the right."""
    heads = list(dict.fromkeys(head for row in rows for head in row if row[head]))
    lines = [heads, *([row.get(head, "").replace("|", "\\|") for head in heads] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]

    def written(cells: Iterable[str]) -> str:
        first, *others = (cell.ljust(width) if place == 0 else cell.rjust(width)
                          for place, (cell, width) in enumerate(zip(cells, widths, strict=True)))  # fmt: skip
        return f"| {' | '.join([first, *others])} |".replace(SPACE, " ")

    rule = ["-" * width if place == 0 else f"{'-' * (width - 1)}:" for place, width in enumerate(widths)]
    return "\n".join(written(line) for line in (lines[0], rule, *lines[1:]))


# ---- words ----------------------------------------------------------------------------------------------------------


def seconds(value: float) -> str:
    """Write a short time in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g}{SPACE}{unit}"
    return f"{value / 1e-9:.3g}{SPACE}ns"


def flop_rate(value: float | None) -> str:
    """Write FLOP/s in the unit that suits them."""
    if value is None:
        return ""
    size, letter = next(pair for pair in ((1e12, "T"), (1e9, "G"), (1.0, "")) if value >= pair[0])
    return f"{value / size:,.4g}{SPACE}{letter}FLOP/s"


def gibibytes(value: float | None) -> str:
    """Write bytes in GiB."""
    return "" if value is None else f"{value / 2**30:,.2f}{SPACE}GiB"


def times(value: float | None) -> str:
    """Write a ratio."""
    return "" if value is None else f"{value:,.2f}x"


def shape(record: JsonObject) -> str:
    """Write rows and their length."""
    packed = " packed" if record["packing"] == "packed" else ""
    return f"{count(record['rows'])} x {record['sequence_length']}{packed}"


def spread(one: JsonObject) -> str:
    """Write how far samples lie from their median, at most."""
    widest = max(one["highest"] - one["median"], one["median"] - one["lowest"])
    return f"±{percent(widest / one['median'], 0)}"


def rate(value: float) -> str:
    """Write a rate with decimals only where they matter."""
    return decimal(value, 0 if value >= 100 else 2)


def timing(one: JsonObject | None) -> str:
    """Write the median of samples in seconds, and their spread."""
    return f"{seconds(one['median'])} {spread(one)}" if one else "failed"


# ---- the rows of a record, by its kind ------------------------------------------------------------------------------


def _product(record: JsonObject) -> Iterator[Row]:
    found, peak = record["flops_per_second"], record["vendor_peak"]
    yield {
        "Ceiling": record["name"],
        "Median": flop_rate(found["median"]),
        "Spread": spread(found),
        "Of vendor's peak": percent(found["median"] / peak) if peak else "",
    }


def _copy(record: JsonObject) -> Iterator[Row]:
    found = record["bytes_per_second"]
    median = f"{found['median'] / 1e9:,.4g}{SPACE}GB/s"
    yield {"Memory": record["name"], "Median": median, "Spread": spread(found)}


def _kernel(record: JsonObject) -> Iterator[Row]:
    yield {
        "Kernel": record["name"],
        "Run": record["mode"],
        "Type": record["dtype"],
        **{name: f"{value:.1e}" for name, value in record["errors"].items()},
        "Allowed": f"{record['tolerance']:.0e}",
        "Agrees": "yes",  # one that does not is a failure, which stands elsewhere
    }


def _step(record: JsonObject) -> Iterator[Row]:
    yield {
        "Step": record["name"],
        "Rows": shape(record),
        "Type": record["dtype"],
        "Median": timing(record["seconds"]["step"]),
        "Sequences/s": rate(record["sequences_per_second"]),
        "Valid tokens/s": rate(record["valid_tokens_per_second"]),
        "Model FLOP/s": flop_rate(record["flops_per_second"]),
        "Of measured ceiling": percent(record["utilisation"]),
        "Of vendor's peak": percent(record["vendor_utilisation"]) if record["vendor_utilisation"] else "",
        "Optimizer + clip": percent(record["update_share"]),
        "Compile": seconds(record["compile_seconds"]),
    }


def _loop(record: JsonObject) -> Iterator[Row]:
    if loop := record.get("loop"):
        medians = {side: seconds(one["median"] / loop["steps"]) for side, one in loop["seconds"].items()}
        yield {
            "Training loop": record["name"],
            "A step in the loop": medians["loop"],
            "Back to back": medians["back_to_back"],
            "Device idle": percent(loop["idle_share"]["median"], 2),
            "Slower": percent(loop["slower_share"], 2),
        }


def _dropout(record: JsonObject) -> Iterator[Row]:
    yield {
        "Dropout": record["name"],
        "Rows": shape(record),
        **{name.capitalize(): timing(one) for name, one in record["seconds"].items()},
        "Cost in attention": percent(record["cost_of_attention_dropout"]),
        "Cost of all": percent(record["cost_of_dropout"]),
    }


def _attention(record: JsonObject) -> Iterator[Row]:
    for name in record["implementations"]:
        yield {
            "Attention": record["name"],
            "Implementation": name,
            "Type": record["dtype"],
            "Forward": timing(record["seconds"].get(f"{name} forward")),
            "Forward + backward": timing(record["seconds"].get(f"{name} forward + backward")),
        }


def _compared(record: JsonObject) -> Iterator[Row]:
    for side, found in record["rates"].items():
        ratios = record["ratios"].get(side, {})
        share = percent(record["valid_share"]) if "valid_share" in record and not ratios else ""
        yield {
            "Work": record["name"],
            "Side": side,
            record["unit"]: f"{found['median']:#.3g}",
            "Spread": spread(found),
            "Valid tokens in a row": share,
            **{f"{own}, times as fast": times(ratio) for own, ratio in ratios.items()},
        }


def _differences(record: JsonObject) -> Iterator[Row]:
    yield {"Ids": record["name"], "Sentences": count(record["sentences"]), "With other ids": count(record["different"])}


def _processes(record: JsonObject) -> Iterator[Row]:
    for side, samples in record["processes"].items():

        def median(figure: str, samples: Sequence[JsonObject] = samples) -> float:
            return sorted(sample[figure] for sample in samples)[len(samples) // 2]

        megabytes = record["megabytes"]
        yield {
            "All text": f"{record['name']}, {side}",
            "Wall time": seconds(median("wall_seconds")),
            "MB/CPU-s": rate(megabytes / median("cpu_seconds")),
            "Peak memory of all processes": gibibytes(median("peak_bytes")) if "peak_bytes" in samples[0] else "",
            "To the first packed batch": seconds(median("first_batch_seconds")),
        }


def _checkpoint(record: JsonObject) -> Iterator[Row]:
    yield {
        "Checkpoint": record["name"],
        "State": gibibytes(record["bytes"]),
        "Asynchronous save blocks": timing(record["seconds"]["asynchronous"]),
        "Synchronous": timing(record["seconds"]["synchronous"]),
        "Share": percent(record["blocked_share"]),
    }


def _memory(record: JsonObject) -> Iterator[Row]:
    yield {
        "Memory of a device": record["name"],
        "Rows": shape(record),
        "State and batch": gibibytes(record["argument_bytes"]),
        "Temporary": gibibytes(record["temporary_bytes"]),
        "Planned in all": gibibytes(record["total_bytes"]),
        "Process' peak so far": gibibytes(record["process_peak_bytes"]) or "not told",
    }


def _largest(record: JsonObject) -> Iterator[Row]:
    tried = ", ".join(f"{one['rows']} {'fit' if one['fits'] else 'did not fit'}" for one in record["tries"])
    rows = f"{count(record['largest_rows'])} x {record['sequence_length']}"
    yield {"Largest batch": record["name"], "Rows": rows, "Tried": tried}


def _training(record: JsonObject) -> Iterator[Row]:
    yield {
        "Training": record["name"],
        "Steps": count(record["steps"]),
        "Unigram entropy": decimal(record["unigram_entropy"]),
        **{f"Final loss, {dtype}": decimal(value) for dtype, value in record["final_loss"].items()},
        "Largest difference": decimal(record["largest_difference"]),
        "of running means": decimal(record["largest_smoothed_difference"], 4),
    }


def _curves(record: JsonObject) -> Iterator[Row]:
    every = max(1, record["steps"] // CURVE_ROWS)
    first, second = record["loss"].values()
    for step in range(every, record["steps"] + 1, every):
        losses = {f"Loss, {dtype}": decimal(values[step - 1]) for dtype, values in record["loss"].items()}
        difference = decimal(abs(first[step - 1] - second[step - 1]), 4)
        yield {"Step of the curves": count(step), **losses, "Difference": difference}


def _peer(record: JsonObject) -> Iterator[Row]:
    tokens = record["valid_tokens_per_second"]
    yield {
        "Peer": record["name"],
        "Rows": shape(record),
        "Types": f"{record['dtype']} / {record['peer']['dtype']}",
        "Our step": timing(record["seconds"]["ours"]),
        "Its step": timing(record["seconds"]["peer"]),
        "Our valid tokens/s": rate(tokens["ours"]),
        "Its": rate(tokens["peer"]),
        "Ours is faster by": times(record["ratio"]),
    }


def _finetune(record: JsonObject) -> Iterator[Row]:
    for side, one in record["sides"].items():
        row = {"Model": record["name"], "Side": side}
        for what in ("training", "prediction"):
            speed = one[what]["examples_per_second"]
            row[f"{what.capitalize()}, examples/s"] = f"{rate(speed['median'])} {spread(speed)}"
            row[f"Ours is as fast ({what})"] = times(one[what].get("ratio"))
            row[f"Not padding ({what})"] = percent(one[what]["valid_share"]["median"], 0)
        row["Compilation"] = "" if "paid_back_after" in one else seconds(record["compilation_seconds"]["median"])
        paid = one.get("paid_back_after", "")
        row["Paid back after, examples"] = "never" if paid is None else paid and count(paid)
        yield row


TABLES: Mapping[str, Sequence[tuple[str, Callable[[JsonObject], Iterator[Row]]]]] = {
    "ceiling": (("product", _product), ("copy", _copy)),
    "kernels": (("kernel", _kernel),),
    "step": (("step", _step), ("step", _loop), ("dropout", _dropout)),
    "attention": (("attention", _attention),),
    "prepare": (("compared", _compared), ("workers", _compared), ("workers", _processes)),
    "tokenize": (("compared", _compared), ("compared", _differences)),
    "feed": (("compared", _compared),),
    "checkpoint": (("checkpoint", _checkpoint),),
    "memory": (("memory", _memory), ("largest batch", _largest)),
    "train": (("train", _training), ("train", _curves)),
    "peer": (("peer", _peer),),
    "finetune": (("finetune", _finetune),),
}
