# SPDX-License-Identifier: Apache-2.0
"""The page of a study: our figures beside the paper's, and whether differences have the same sign."""

from collections import Counter
from collections.abc import Iterator, Sequence

from bert_jax.base.types import JsonObject
from bert_jax.checks.findings import Finding, NOTE, PROBLEM
from bert_jax.pages.metric_words import metric_name
from bert_jax.pages.page import below, Card, Page, Paragraph, Section, Table, Tile
from bert_jax.pages.wording import counted

ABSENT = "–"
SIGNS = {  # as study.json has them: what a tile says below its number
    "right": "decided, as in the paper",
    "wrong": "decided, against the paper",
    "not decided": "the interval holds 0, or there is none",
    "missing": "a run is missing",
}
ABOUT = (
    "A sign is right or wrong where the 95 % interval of our difference leaves out 0. The interval is of other examples and"
    " other seeds of fine-tuning. Each row has one pre-trained model: what other seeds of pre-training would do is not in it."
    " Of the perplexity the difference is in nats a token, and the interval of other held-out batches."
)


def study_page(record: JsonObject) -> Page:
    """The page of study.json."""
    failed = record["failed"]
    tiles, of_how_many = _tiles(record["comparisons"])
    notes = [Paragraph(note, "footnote") for note in (ABOUT, *record["notes"])]
    return Page(
        title=f"{record['title']}: study {record['study']}",
        eyebrow=f"A study run with bert_jax: {record['source']}",
        name=record["title"],
        status=f"{counted(len(failed), 'run')} failed" if failed else "all runs are finished",
        state="problem" if failed else "",
        facts=[
            ("Study", record["study"]),
            ("Budget", f"{record['budget']}: {record['budget_help']}"),
            ("Seeds of fine-tuning", str(record["seeds"])),
        ],
        findings=list(_findings(record)),
        tiles=tiles,
        tiles_note=of_how_many,
        sections=[
            Section("figures", "Figures", [Card([_figures(record)])]),
            Section("differences", "Differences", [Card([_differences(record), *notes])]),
        ],
        footer="Everything here stands in study.json, for programs; bert-jax report makes a page of each run.",
    )


def _tiles(comparisons: Sequence[JsonObject]) -> tuple[list[Tile], str]:
    """How many differences have the paper's sign, or are decided where the paper has none; and of how many."""
    signs = Counter(one["sign"] for one in comparisons)
    if signed := signs.total() - signs["no sign in the paper"]:
        tiles = [Tile(f"Signs {name}", str(signs[name]), note=note) for name, note in SIGNS.items()]
        return tiles, f"Of {counted(signed, 'difference')} with a sign in the paper."
    intervals = [one["interval"] for one in comparisons if one["interval"] is not None]
    decided = sum(not low <= 0 <= high for low, high in intervals)
    tiles = [
        Tile("Decided", str(decided), note="the interval leaves out 0"),
        Tile("Not decided", str(signs.total() - decided), note=SIGNS["not decided"]),
    ]
    return tiles, f"Of {counted(signs.total(), 'difference')}, none of them in a paper."


def _findings(record: JsonObject) -> Iterator[Finding]:
    for name, why in record["failed"].items():
        yield Finding(PROBLEM, "Failed run", f"{name}: {why}", remedy="the same command tries it again")
    for task in record["absent"]:
        remedy = f"add --tasks {task}=FOLDER to the same command"
        yield Finding(NOTE, "Task left out", f"the data of {task} is not given", remedy=remedy)


def _figures(record: JsonObject) -> Table:
    def measure(column: str) -> str:
        metrics = (row["cells"][column].get("metric") for row in record["rows"].values())
        return metric_name(next(filter(None, metrics), ""))

    head = ["", *(below(title, measure(column)) for column, title in record["columns"].items())]
    rows = [
        [
            below(row["title"], name),
            *(_cell(row["cells"][column], record["seeds"]) for column in record["columns"]),
            ABSENT if (flops := row.get("flops")) is None else f"{flops:.3g}",
        ]
        for name, row in record["rows"].items()
    ]
    return Table([*head, below("Pre-training", "FLOPs")], rows)


def _cell(cell: JsonObject, seeds: int) -> str:
    """Our mean and deviation, and the paper's figure below."""
    ours = ABSENT
    if cell.get("mean") is not None:
        ours = f"{cell['mean']:z.2f}" + ("" if cell["deviation"] is None else f" ± {cell['deviation']:.2f}")
    elif cell.get("runs"):
        ours = "not defined"
    if cell.get("collapsed"):
        ours += f" ({cell['collapsed']} of {cell['runs']} collapsed)"
    if cell.get("metric") not in (None, "perplexity") and cell["runs"] < seeds:
        ours += f" ({counted(seeds - cell['runs'], 'seed')} missing)"
    return below(ours, "" if cell["published"] is None else f"paper {cell['published']:.4g}")


def _differences(record: JsonObject) -> Table:
    rows, marked = [], {}
    for number, one in enumerate(record["comparisons"]):
        interval = "" if one["interval"] is None else " to ".join(map(_signed, one["interval"]))
        pair = f"{one['a']} − {one['b']}"
        shown = _signed(one["published"]), _signed(one["difference"]), interval
        rows.append([below(pair, record["columns"][one["column"]]), *shown, below(one["sign"], one["words"])])
        if one["sign"] == "wrong":
            marked[number] = "collapsed"
    return Table(["A − B", "Paper", "Ours", "95 % interval", "Sign"], rows, "runs", marked)


def _signed(value: float | None) -> str:
    return ABSENT if value is None else f"{value:+z.2f}".replace("-", "−")
