# SPDX-License-Identifier: Apache-2.0
"""Device memory of a step: what the compiler planned, what the device says, and the largest batch that fits."""

from collections.abc import Iterator

import jax

from bert_jax.bench.measure import is_out_of_memory, timed
from bert_jax.bench.suite import Case
from bert_jax.bench.workbench import CompiledCase, prepare, Record, Runner, Workbench

MOST_TRIES = 5  # batches that are compiled and run to find the largest


def measure(bench: Workbench) -> Iterator[Record]:
    """Each case of steps; then the largest batch of one of them."""
    yield from bench.each(bench.suite.steps, lambda case: measure_memory(bench, case))
    if bench.suite.largest is not None:
        yield from bench.each([bench.suite.largest], lambda case: find_largest(bench, case))


def measure_memory(bench: Workbench, case: Case) -> Record:
    """Bytes on one device."""
    prepared = bench.prepare_fitting(case)
    jax.block_until_ready(Runner(prepared).step())
    return {**prepared.description(), "kind": "memory", **planned_bytes(prepared), **device_bytes(bench.device)}


def planned_bytes(prepared: CompiledCase) -> Record:
    """Return the bytes that the compiler planned for one device; the donated state is both argument and output."""
    plan = prepared.step.program.memory_analysis()
    assert plan is not None
    return {
        "argument_bytes": plan.argument_size_in_bytes,
        "temporary_bytes": plan.temp_size_in_bytes,
        "total_bytes": plan.argument_size_in_bytes
        + plan.temp_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes,
    }


def device_bytes(device: jax.Device) -> Record:
    """Return the bytes that the device's allocator tells; the peak is that of the whole process so far."""
    statistics = device.memory_stats() or {}
    return {
        "process_peak_bytes": statistics.get("peak_bytes_in_use"),
        "device_limit_bytes": statistics.get("bytes_limit"),
    }


def find_largest(bench: Workbench, case: Case) -> Record:
    """The largest batch that runs, in eighths of a power of two: the compiler's plan says where to begin."""
    smaller = bench.prepare_fitting(case)
    limit = device_bytes(bench.device)["device_limit_bytes"]
    tries: list[Record] = []
    if limit is None:
        raise ValueError("this device does not say how much memory it has")
    rows = estimate_rows(smaller, limit)
    while len(tries) < MOST_TRIES and rows > smaller.case.shape.rows:
        tries.append(try_rows(case.with_rows(rows)))
        if tries[-1]["fits"]:
            break
        rows = round_down(rows * 7 // 8, smaller.training.mesh.size)
    fitting = [one["rows"] for one in tries if one["fits"]]
    return {
        **smaller.description(),
        "kind": "largest batch",
        "largest_rows": max([smaller.case.shape.rows, *fitting]),
        "tries": tries,
        "tried": ", ".join(f"{one['rows']} {'fit' if one['fits'] else 'did not fit'}" for one in tries),
    }


def estimate_rows(prepared: CompiledCase, limit: int) -> int:
    """Rows whose temporary memory should just fit beside the state, in proportion to a smaller batch's."""
    plan, rows = planned_bytes(prepared), prepared.case.shape.rows
    room = limit - plan["argument_bytes"]
    return round_down(int(rows * room / max(plan["temporary_bytes"], 1)), prepared.training.mesh.size)


def round_down(rows: int, multiple: int) -> int:
    """Round down to eighths of a power of two, and to a multiple of the devices."""
    step = max(1, 1 << max(rows.bit_length() - 4, 0))
    return max(multiple, rows // step * step // multiple * multiple)


def try_rows(case: Case) -> Record:
    """Compile and run a step: {rows, fits, seconds of a step}."""
    try:
        runner = Runner(prepare(case))
        return {"rows": case.shape.rows, "fits": True, "seconds": timed(runner.step)()}
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"rows": case.shape.rows, "fits": False, "seconds": None}
