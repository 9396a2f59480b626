# SPDX-License-Identifier: Apache-2.0
"""The page of a sweep: the held-out loss of every combination of settings, rung by rung."""

from dataclasses import replace
from pathlib import Path

from bert_jax.base.types import JsonObject
from bert_jax.checks.findings import Finding, PROBLEM
from bert_jax.pages.chart import around, Chart, Curve, logarithmic
from bert_jax.pages.page import Card, command, Grid, Page, Panel, Paragraph, Section, Table, Tile
from bert_jax.pages.wording import counted, decimal

NUMBERS = "Numbers are places in the last rung."
ABOUT = (
    "Every run of a rung takes the same FLOPs and has a whole schedule of its own length. The better half goes on, anew and"
    " twice as long. Differences that are smaller than those between seeds decide nothing, and a rung of short runs may prefer"
    " another recipe than a long one: the last rung's are the ones to compare."
)


def sweep_page(record: JsonObject) -> Page:
    """The page of sweep.json."""
    rungs, best, recipe = record["rungs"], record["rungs"][-1]["runs"][0], Path(record["recipe"]).stem
    done, planned = len(rungs), record["planned"]
    return Page(
        title=f"Sweep of {recipe}",
        eyebrow="Recipes compared by bert_jax, by successive halving",
        name=f"Sweep of {recipe}",
        status="finished" if done == planned else f"{done} of {counted(planned, 'rung')}",
        facts=[
            ("Compared", "; ".join(f"{key}: {', '.join(values)}" for key, values in record["varied"].items())),
            ("For all", " ".join(record["fixed"]) or "as the recipe"),
            ("Seeds", str(record["seeds"])),
        ],
        findings=[
            Finding(PROBLEM, "Failed run", f"{name}: {why}", remedy="the same command tries it again")
            for name, why in record["failed"].items()
        ],
        tiles=[
            Tile("Best held-out loss", decimal(best["mean"]), "nats", note=best["name"]),
            Tile("Combinations", str(len(rungs[0]["runs"]))),
            Tile(
                "Compute",
                f"{record['compute']:.3g}",
                "run" if record["compute"] == 1 else "runs",
                note=f"of {recipe}, all rungs together",
            ),
        ],
        sections=[
            Section(
                "losses",
                "Loss by compute",
                [Grid([Panel("Held-out loss", "nats a predicted token", _chart(rungs), note=NUMBERS)])],
            ),
            Section("rungs", "Rungs", [Card([_table(rung)], f"Rung {rung['number'] + 1}") for rung in reversed(rungs)]),
            Section("next", "The best", [Card([Paragraph(command(record["command"])), Paragraph(ABOUT, "footnote")])]),
        ],
        footer="Everything here stands in sweep.json, for programs; bert-jax report makes a page of each run's folder.",
    )


def _chart(rungs: list[JsonObject]) -> Chart:
    """The loss of each combination over the FLOPs of its runs."""
    points: dict[str, list[tuple[float, float]]] = {}
    for rung in rungs:
        for run in rung["runs"]:
            if run["mean"] is not None:
                points.setdefault(run["name"], []).append((rung["flops"], run["mean"]))
    places = {run["name"]: place for place, run in enumerate(rungs[-1]["runs"], start=1)}
    curves = [
        Curve(own, "training" if places.get(name) == 1 else "validation", str(places.get(name, "")), marked=True)
        for name, own in points.items()
    ]
    flat = [place for own in points.values() for place in own]
    x = logarithmic([place for place, _ in flat], lambda value: f"{value:.0e}")
    x = replace(x, label="FLOPs of a run")
    return Chart("held-out loss of every combination by FLOPs", x, around([loss for _, loss in flat]), curves=curves)


def _table(rung: JsonObject) -> Table:
    keys = [setting.partition("=")[0] for setting in rung["runs"][0]["settings"]]
    several = len(rung["runs"][0]["losses"]) > 1
    head = ["", *keys, "Steps", "Held-out loss", *(["Seeds"] if several else []), ""]
    rows = []
    for place, run in enumerate(rung["runs"], start=1):
        seeds = [", ".join(decimal(loss) for loss in run["losses"])] if several else []
        values = [setting.partition("=")[2] for setting in run["settings"]]
        rows.append(
            [str(place), *values, f"{run['steps']:,}", decimal(run["mean"]), *seeds, "goes on" if run["kept"] else ""]
        )
    return Table(head, rows, "runs")
