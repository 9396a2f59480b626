# SPDX-License-Identifier: Apache-2.0
"""The figures of a report as tables, for the page and for the terminal."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bert_jax.pages.wording import count, decimal, percent, SPACE

Record = Mapping[str, Any]
Rows = list[list[str]]


@dataclass(frozen=True)
class FigureTable:
    """Rows under a head; a table without rows is not shown."""

    head: tuple[str, ...]
    rows: Rows
    worded: bool = False  # text rather than figures

    def without_empty_columns(self) -> "FigureTable":
        """Only the columns that say something."""
        used = [place for place in range(len(self.head)) if any(row[place] for row in self.rows)]
        rows = [[row[place] for place in used] for row in self.rows]
        return FigureTable(tuple(self.head[place] for place in used), rows, self.worded)

    def as_text(self) -> str:
        """As Markdown, columns aligned."""
        lines = [list(self.head), *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]

        def written(cells: Iterable[str]) -> str:
            aligned = (
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            return f"| {' | '.join(aligned)} |"

        rule = [f"{'-' * (width - 1)}:" if place else "-" * width for place, width in enumerate(widths)]
        return "\n".join(written(line).replace(SPACE, " ") for line in (lines[0], rule, *lines[1:]))


def tables_of(subject: str, entry: Record) -> list[FigureTable]:
    """The tables of a subject's records; records that failed are in none."""
    records = [record for record in entry["records"] if "kind" in record and "error" not in record]
    return [table.without_empty_columns() for make in _TABLES[subject] if (table := make(records)).rows]


# ---- words ----------------------------------------------------------------------------------------------------------


def seconds(value: float) -> str:
    """A short time in the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g}{SPACE}{unit}"
    return f"{value / 1e-9:.3g}{SPACE}ns"


def flop_rate(value: float | None) -> str:
    """FLOP/s in the unit that suits it."""
    if value is None:
        return ""
    size, letter = next(pair for pair in ((1e12, "T"), (1e9, "G"), (1.0, "")) if value >= pair[0])
    return f"{value / size:,.4g}{SPACE}{letter}FLOP/s"


def gibibytes(value: float | None) -> str:
    """Bytes in GiB."""
    return "" if value is None else f"{value / 2**30:,.2f}{SPACE}GiB"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:,.2f}x"


def shape(record: Record) -> str:
    """Rows and their length."""
    packed = " packed" if record["packing"] == "packed" else ""
    return f"{count(record['rows'])} x {record['sequence_length']}{packed}"


def spread(one: Record) -> str:
    """How far samples lie from their median, at most."""
    widest = max(one["highest"] - one["median"], one["median"] - one["lowest"])
    return f"±{percent(widest / one['median'], 0)}"


def rate(value: float) -> str:
    """A rate: decimals only where they matter."""
    return decimal(value, 0 if value >= 100 else 2)


def _of(records: list[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


# ---- a table each ---------------------------------------------------------------------------------------------------


def _products(records: list[Record]) -> FigureTable:
    rows = []
    for record in _of(records, "product"):
        found = record["flops_per_second"]
        peak = percent(found["median"] / record["vendor_peak"]) if record["vendor_peak"] else ""
        rows.append([record["name"], flop_rate(found["median"]), spread(found), peak])
    for record in _of(records, "copy"):
        found = record["bytes_per_second"]
        rows.append([record["name"], f"{found['median'] / 1e9:,.4g}{SPACE}GB/s", spread(found), ""])
    return FigureTable(("Ceiling", "Median", "Spread", "Of vendor's peak"), rows)


def _kernels(records: list[Record]) -> FigureTable:
    found = _of(records, "kernel")
    rows = [
        [
            record["name"],
            record["mode"],
            record["dtype"],
            *(f"{value:.1e}" for value in record["errors"].values()),
            f"{record['tolerance']:.0e}",
            "yes",  # one that does not is a failure, which stands elsewhere
        ]
        for record in found
    ]
    errors = tuple(found[0]["errors"]) if found else ()
    return FigureTable(("Kernel", "Run", "Type", *errors, "Allowed", "Agrees"), rows)


def _steps(records: list[Record]) -> FigureTable:
    rows = [
        [
            record["name"],
            shape(record),
            record["dtype"],
            seconds(record["seconds"]["step"]["median"]),
            rate(record["sequences_per_second"]),
            rate(record["valid_tokens_per_second"]),
            flop_rate(record["flops_per_second"]),
            percent(record["utilisation"]),
            percent(record["vendor_utilisation"]) if record["vendor_utilisation"] else "",
            percent(record["update_share"]),
            seconds(record["compile_seconds"]),
        ]
        for record in _of(records, "step")
    ]
    head = ("Step", "Rows", "Type", "Median", "Sequences/s", "Valid tokens/s", "Model FLOP/s", "Of measured ceiling",
            "Of vendor's peak", "Optimizer + clip", "Compile")  # fmt: skip
    return FigureTable(head, rows)


def _loops(records: list[Record]) -> FigureTable:
    rows = []
    for record in _of(records, "step"):
        if loop := record.get("loop"):
            medians = [one["median"] / loop["steps"] for one in loop["seconds"].values()]
            shares = (percent(share, 2) for share in (loop["idle_share"]["median"], loop["slower_share"]))
            rows.append([record["name"], *map(seconds, medians), *shares])
    return FigureTable(("Training loop", "A step in the loop", "Back to back", "Device idle", "Slower"), rows)


def _dropout(records: list[Record]) -> FigureTable:
    rows = [
        [
            record["name"],
            shape(record),
            *(seconds(one["median"]) for one in record["seconds"].values()),
            percent(record["cost_of_attention_dropout"]),
            percent(record["cost_of_dropout"]),
        ]
        for record in _of(records, "dropout")
    ]
    head = ("Dropout", "Rows", "As configured", "None in attention", "None", "Cost in attention", "Cost of all")
    return FigureTable(head, rows)


def _attention(records: list[Record]) -> FigureTable:
    rows = []
    for record in _of(records, "attention"):
        for name in record["implementations"]:
            found = [record["seconds"].get(f"{name} {what}") for what in ("forward", "forward + backward")]
            medians = [seconds(one["median"]) if one else "failed" for one in found]
            rows.append([record["name"], name, record["dtype"], *medians])
    return FigureTable(("Attention", "Implementation", "Type", "Forward", "Forward + backward"), rows)


def _refusals(records: list[Record]) -> FigureTable:
    reasons: dict[str, str] = {}
    for record in records:
        reasons |= record.get("refused", {})
    return FigureTable(("Not run here", "Why"), [[name, reason] for name, reason in reasons.items()], worded=True)


def _feed(records: list[Record]) -> FigureTable:
    rows = [
        [
            record["name"],
            count(record["rows"]),
            percent(record["valid_share"]),
            f"{record['valid_tokens_per_second']['median'] / 1e6:,.3g} M",
            spread(record["valid_tokens_per_second"]),
        ]
        for record in _of(records, "feed")
    ]
    return FigureTable(("Feed", "Rows", "Valid tokens in a row", "Valid tokens/s", "Spread"), rows)


def _saves(records: list[Record]) -> FigureTable:
    rows = [
        [
            record["name"],
            gibibytes(record["bytes"]),
            *(seconds(record["seconds"][kind]["median"]) for kind in ("asynchronous", "synchronous")),
            percent(record["blocked_share"]),
        ]
        for record in _of(records, "checkpoint")
    ]
    return FigureTable(("Checkpoint", "State", "Asynchronous save blocks", "Synchronous", "Share"), rows)


def _memory(records: list[Record]) -> FigureTable:
    rows = [
        [
            record["name"],
            shape(record),
            gibibytes(record["argument_bytes"]),
            gibibytes(record["temporary_bytes"]),
            gibibytes(record["total_bytes"]),
            gibibytes(record["process_peak_bytes"]) or "not told",
        ]
        for record in _of(records, "memory")
    ]
    head = ("Memory of a device", "Rows", "State and batch", "Temporary", "Planned in all", "Process' peak so far")
    return FigureTable(head, rows)


def _largest(records: list[Record]) -> FigureTable:
    rows = [
        [record["name"], f"{count(record['largest_rows'])} x {record['sequence_length']}",
         ", ".join(f"{one['rows']} {'fit' if one['fits'] else 'did not fit'}" for one in record["tries"])]
        for record in _of(records, "largest batch")
    ]  # fmt: skip
    return FigureTable(("Largest batch", "Rows", "Tried"), rows)


def _training(records: list[Record]) -> FigureTable:
    rows = [
        [
            record["name"],
            count(record["steps"]),
            decimal(record["unigram_entropy"]),
            *(decimal(value) for value in record["final_loss"].values()),
            decimal(record["largest_difference"]),
            decimal(record["largest_smoothed_difference"], 4),
        ]
        for record in _of(records, "train")
    ]
    head = ("Training", "Steps", "Unigram entropy", "Final loss, float32", "Final loss, bfloat16", "Largest difference",
            "of running means")  # fmt: skip
    return FigureTable(head, rows)


def _peers(records: list[Record]) -> FigureTable:
    rows = [
        [
            record["name"],
            shape(record),
            f"{record['dtype']} / {record['peer']['dtype']}",
            *(seconds(record["seconds"][side]["median"]) for side in ("ours", "peer")),
            *(rate(record["valid_tokens_per_second"][side]) for side in ("ours", "peer")),
            times(record["ratio"]),
        ]
        for record in _of(records, "peer")
    ]
    head = ("Peer", "Rows", "Types", "Our step", "Its step", "Our valid tokens/s", "Its", "Ours is faster by")
    return FigureTable(head, rows)


_TABLES: Mapping[str, tuple[Callable[[list[Record]], FigureTable], ...]] = {
    "ceiling": (_products,),
    "kernels": (_kernels, _refusals),
    "step": (_steps, _loops, _dropout),
    "attention": (_attention, _refusals),
    "feed": (_feed,),
    "checkpoint": (_saves,),
    "memory": (_memory, _largest),
    "train": (_training,),
    "peer": (_peers,),
}
