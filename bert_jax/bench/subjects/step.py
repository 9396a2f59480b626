# SPDX-License-Identifier: Apache-2.0
"""The train step: throughput, share of the ceiling, the optimizer's share, what the loop adds, what dropout costs."""

from collections.abc import Iterator

import jax

from bert_jax.bench.loop import DeviceWatch, run_loop
from bert_jax.bench.measure import alternate, paired_ratio, Side, summaries, summary, timed
from bert_jax.bench.subjects.ceiling import matrix_product, product_flops
from bert_jax.bench.suite import Case
from bert_jax.bench.workbench import arrangement_of, CompiledCase, Record, Runner, Workbench
from bert_jax.mesh.peak import device_peak

# Dropout of the hidden states and of attention's probabilities.
DROPOUTS = {
    "as configured": {},
    "none in attention": {"attention_probs_dropout_prob": 0.0},
    "none": {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0},
}


def measure(bench: Workbench) -> Iterator[Record]:
    """Each case of the suite, then the cost of dropout."""
    yield from bench.each(bench.suite.steps, lambda case: measure_step(bench, case))
    if bench.suite.dropout is not None:
        yield from bench.each([bench.suite.dropout], lambda case: measure_dropout(bench, case))


def measure_step(bench: Workbench, case: Case) -> Record:
    """The step, the optimizer alone and the ceiling's matrix product in turn; then the loop where it is asked for."""
    prepared = bench.prepare_fitting(case)
    runner, shortest = Runner(prepared), bench.suite.shortest
    dtype = prepared.training.compute.dtype.__name__
    size = bench.suite.product_sizes[0]
    sides: dict[str, Side] = {
        "step": timed(runner.step, shortest),
        "update": timed(runner.update, shortest),
        "product": timed(matrix_product(size, dtype), shortest),
    }
    samples = alternate(sides, bench.suite.sizes.rounds)
    record = {
        **prepared.description(),
        "kind": "step",
        "rows_asked": case.shape.rows,
        "seconds": summaries(samples),
        **throughput(prepared, samples["step"]),
        "update_share": paired_ratio(samples["update"], samples["step"]),
        **utilisation(bench, prepared, samples, size),
    }
    if case.name in bench.suite.loop_cases:
        record["loop"] = measure_loop(bench, prepared, runner)
    return record


def throughput(prepared: CompiledCase, step_seconds: list[float]) -> Record:
    """Rates by the median step."""
    seconds, work = summary(step_seconds)["median"], prepared.work
    return {
        "rows_per_second": work.rows / seconds,
        "sequences_per_second": work.sequences / seconds,
        "valid_tokens_per_second": work.valid_tokens / seconds,
        "flops_per_second": work.flops(prepared.case.config.description) / seconds,
    }


def utilisation(bench: Workbench, prepared: CompiledCase, samples: dict[str, list[float]], size: int) -> Record:
    """Model FLOP/s of the step over those of the matrix product beside it, and over the vendor's peak."""
    # The cores of a CPU are one machine however many devices it is shown as.
    devices = 1 if bench.on_cpu else prepared.training.mesh.size
    flops = prepared.work.flops(prepared.case.config.description)
    share = paired_ratio(samples["product"], samples["step"]) * flops / (product_flops(size) * devices)
    peak, source = (None, None) if bench.on_cpu else device_peak(bench.device)
    rate = flops / summary(samples["step"])["median"]
    return {
        "ceiling": product_flops(size) * devices / summary(samples["product"])["median"],
        "utilisation": share,
        "vendor_peak": peak,
        "vendor_peak_source": source,
        "vendor_utilisation": rate / (peak * devices) if peak else None,
    }


def measure_loop(bench: Workbench, prepared: CompiledCase, runner: Runner) -> Record:
    """Steps through the training loop, data made and read as in a run, beside as many dispatched back to back.

    How long the device waited for the loop is read off the clock: on a CPU, where the loop takes cores from the step, and
    two steps differ by more than it, the ratio of the two alone would not show it.
    """
    steps = bench.suite.loop_steps
    stream, seed = arrangement_of(prepared.case, steps), prepared.case.config.seed
    idle: list[float] = []

    def through_loop() -> jax.Array:
        watch = DeviceWatch(prepared.step)
        runner.state, _ = run_loop(prepared.training, watch, runner.state, lambda step: stream.batch(seed, step), steps)
        idle.append(watch.idle_share())
        return runner.state.step

    def back_to_back() -> jax.Array:
        for _ in range(steps):
            runner.step()
        return runner.state.step

    samples = alternate({"loop": timed(through_loop), "back_to_back": timed(back_to_back)}, bench.suite.sizes.rounds)
    idle = idle[-bench.suite.sizes.rounds :]  # those before warmed up
    slower = paired_ratio(samples["loop"], samples["back_to_back"]) - 1
    return {"steps": steps, "seconds": summaries(samples), "idle_share": summary(idle), "slower_share": slower}


def measure_dropout(bench: Workbench, case: Case) -> Record:
    """A step as configured, without dropout in attention, and without any, in turn."""
    rows = bench.prepare_fitting(case).case.shape.rows
    case, sides = case.with_rows(rows), {}
    for name, changes in DROPOUTS.items():
        prepared = bench.prepare(case.with_model(case.name, **changes))
        sides[name] = timed(Runner(prepared).step, bench.suite.shortest)
    samples = alternate(sides, bench.suite.sizes.rounds)
    return {
        **bench.prepare(case).description(),
        "kind": "dropout",
        "seconds": summaries(samples),
        "cost_of_attention_dropout": paired_ratio(samples["as configured"], samples["none in attention"]) - 1,
        "cost_of_dropout": paired_ratio(samples["as configured"], samples["none"]) - 1,
    }
