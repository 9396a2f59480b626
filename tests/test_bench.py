# SPDX-License-Identifier: Apache-2.0
"""`bert-jax bench`: what it records of a tiny suite, what happens when something fails, and what bench.md shows.

No speed is asserted: only how figures hang together.
"""

import json
import statistics
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import refusal_of, small_config

from bert_jax.bench import runner
from bert_jax.bench.report import as_markdown, failures
from bert_jax.bench.runner import make_suite, run_bench
from bert_jax.bench.subjects import SUBJECTS
from bert_jax.bench.suite import AttentionSize, BenchSizes, Case, make_case, on_one_device, Suite, suite_for
from bert_jax.bench.tables import markdown, tables_of
from bert_jax.bench.workbench import BenchInputs
from bert_jax.cli import main
from bert_jax.config.training import MeshConfig
from bert_jax.model.attention import IMPLEMENTATIONS

MODEL = {
    "vocab_size": 36,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
# Stands in for a Python with torch and transformers: answers as sides/pytorch.py does, a step always takes 3 seconds.
PEER = """#!{python}
import json, os, sys
import numpy as np
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "hello":
        answer = {{"versions": {{"torch": "fake"}}, "device": "cpu"}}
    elif request["do"] == "open_collator":
        rows = np.load(request["rows_file"])
        answer = {{"versions": {{"rows": len(rows), "tokens": int(rows.max())}}}}
    elif request["do"] == "collate":
        answer = {{"cpu_seconds": 2.0, "wall_seconds": 2.0, "tokens": 256}}
    elif request["do"] == "build":
        fields = np.load(request["batch"])
        answer = {{"attention": "sdpa", "dtype": "float32", "parameters": 1, "rows": len(fields["labels"])}}
    else:
        answer = {{"seconds": 3.0, "loss": 1.0}}
    print(json.dumps(answer), flush=True)
"""


def tiny_suite() -> Suite:
    """Every subject, a second or two each."""
    padded = on_one_device(make_case("padded", "tiny", 8, 16, model=MODEL))
    size = AttentionSize(2, 32, 2, 8)
    return Suite(
        shortest=0.0,
        product_dtype="float32",
        product_sizes=(32,),
        copy_bytes=2**12,
        steps=(padded,),
        loop_cases=("padded",),
        loop_steps=3,
        dropout=None,
        attention=(size,),
        kernels=(size,),
        feed=(make_case("packed", "tiny", 4, 32, packed=True, model=MODEL),),
        checkpoint=padded,
        largest=None,
        train=padded,
        train_steps=25,
        peer=(padded,),
        sizes=BenchSizes(rounds=3, feed_batches=3, collator_batches=2),
    )


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory) -> tuple[dict, Path]:
    """The report of all subjects on the tiny suite, and its folder."""
    folder = tmp_path_factory.mktemp("bench")
    peer = folder / "python"
    peer.write_text(PEER.format(python=sys.executable), encoding="utf-8")
    peer.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        from bert_jax.bench.subjects import kernels

        # Kernels through the interpreter are the tests of attention.
        few = {name: IMPLEMENTATIONS[name] for name in ("reference", "xla", "cudnn")}
        patch.setattr(kernels, "IMPLEMENTATIONS", few)
        report = run_bench(
            tiny_suite(), list(SUBJECTS), folder / "out", BenchInputs(peer_python=peer), command="bert-jax bench --all"
        )
    return report, folder / "out"


def records_of(report: dict, subject: str, kind: str) -> list[dict]:
    return [record for record in report["subjects"][subject]["records"] if record.get("kind") == kind]


def test_all_subjects_are_measured(tiny_run):
    report, _ = tiny_run
    assert failures(report) == []
    assert list(report["subjects"]) == list(SUBJECTS) == report["asked"]
    assert all(entry["records"] and entry["seconds"] > 0 for entry in report["subjects"].values())


def test_the_file_holds_the_report_and_the_conditions(tiny_run):
    report, folder = tiny_run
    assert json.loads((folder / "bench.json").read_text(encoding="utf-8")) == report
    found = report["conditions"]
    assert found["platform"] == "cpu"
    assert found["device_count"] == 8
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["versions"].keys() >= {"bert_jax", "jax", "jaxlib"}
    assert found["environment"]["JAX_PLATFORMS"] == "cpu"


def test_rates_follow_from_samples_and_work(tiny_run):
    """Valid tokens, not slots, over the median step; utilisation over the product of the same round."""
    (step,) = records_of(tiny_run[0], "step", "step")
    samples = {side: found["samples"] for side, found in step["seconds"].items()}
    assert {len(values) for values in samples.values()} == {3}
    median = statistics.median(samples["step"])
    assert step["work"]["valid_tokens"] < step["work"]["slots"] == 8 * 16
    assert step["valid_tokens_per_second"] == pytest.approx(step["work"]["valid_tokens"] / median)
    assert step["flops_per_second"] == pytest.approx(step["flops"] / median)
    shares = [
        step["flops"] / seconds / (2 * 32**3 / product)
        for seconds, product in zip(samples["step"], samples["product"], strict=True)
    ]
    assert step["utilisation"] == pytest.approx(statistics.median(shares))
    loop = step["loop"]
    pairs = zip(*(loop["seconds"][side]["samples"] for side in ("loop", "back_to_back")), strict=True)
    assert loop["slower_share"] == pytest.approx(statistics.median(a / b for a, b in pairs) - 1)
    assert len(loop["idle_share"]["samples"]) == 3
    assert all(0 <= share < 1 for share in loop["idle_share"]["samples"])
    assert step["attention"] != ""
    assert step["dtype"] == "float32"
    assert step["compile_seconds"] > 0


def test_attention_names_what_does_not_run_here(tiny_run):
    for record in records_of(tiny_run[0], "attention", "attention"):
        assert set(record["implementations"]) == {"reference", "xla"}
        assert set(record["refused"]) == {"pallas_tpu", "pallas_gpu", "cudnn"}
        assert len(record["seconds"]) == 4  # each forward, and with its gradient


def test_kernels_are_compared_or_named(tiny_run):
    report, _ = tiny_run
    assert {record["name"].partition(",")[0] for record in records_of(report, "kernels", "kernel")} == {"xla"}
    assert all(record["agrees"] for record in records_of(report, "kernels", "kernel"))
    assert {name for one in records_of(report, "kernels", "refused") for name in one["refused"]} == {"cudnn"}


def test_checkpoints_hold_parameters_and_both_moments(tiny_run):
    """Twelve bytes a parameter and two counters."""
    (saved,) = records_of(tiny_run[0], "checkpoint", "checkpoint")
    assert saved["bytes"] % 12 == 8 or saved["bytes"] % 12 == 0
    assert saved["bytes"] > 12 * 36 * 16
    assert {"asynchronous", "synchronous"} == saved["seconds"].keys()


def test_training_keeps_both_curves(tiny_run):
    (run,) = records_of(tiny_run[0], "train", "train")
    assert {dtype: len(losses) for dtype, losses in run["loss"].items()} == {"float32": 25, "bfloat16": 25}
    gaps = [abs(a - b) for a, b in zip(*run["loss"].values(), strict=True)]
    assert run["largest_difference"] == max(gaps) > 0, "bfloat16 is not float32"
    # 2e-4 nats are seen, at the rates of a warm-up; another seed or another batch would differ by 0.02.
    assert max(gaps) < 2e-3


def test_the_peer_runs_in_turn_with_ours(tiny_run):
    report, _ = tiny_run
    (contest,) = records_of(report, "peer", "peer")
    assert contest["seconds"]["peer"]["samples"] == [3.0] * 3
    assert contest["peer"]["rows"] == 8
    assert contest["ratio"] == pytest.approx(
        statistics.median(3 / ours for ours in contest["seconds"]["ours"]["samples"])
    )
    tokens = contest["work"]["valid_tokens"]
    assert contest["valid_tokens_per_second"]["peer"] == pytest.approx(tokens / 3)


def test_the_feed_and_the_collator_run_in_turn_on_the_same_text(tiny_run):
    """Every sample is kept, and a ratio is of tokens that are not padding."""
    (record,) = records_of(tiny_run[0], "feed", "compared")
    collator = [side for side in record["rates"] if "collator" in side]
    assert len(collator) == 2
    assert record["versions"]["peer"]["rows"] == 2 * record["rows"]
    for side in collator:
        assert record["rates"][side]["samples"] == [128 / 1e6] * 3
    plain = record["rates"]["plain"]["samples"]
    assert plain == [record["work"]["tokens"] / one["cpu_seconds"] / 1e6 for one in record["samples"]["plain"]]
    assert record["ratios"][collator[0]]["plain"] == pytest.approx(statistics.median(plain) / (128 / 1e6))
    assert 0 < record["work"]["tokens"] <= record["work"]["slots"] == 3 * record["rows"] * record["sequence_length"]


def test_subjects_that_lack_their_input_are_named(tiny_run):
    report, folder = tiny_run
    absent = {name: entry["records"][0].get("absent", "") for name, entry in report["subjects"].items()}
    assert {name for name, reason in absent.items() if reason} == {"prepare", "tokenize", "finetune", "duel", "export"}
    assert absent["export"].endswith("give --model")
    assert absent["finetune"].endswith("give --data and --vocab")
    assert absent["prepare"] in (folder / "bench.md").read_text(encoding="utf-8")


# ---- bench.md -------------------------------------------------------------------------------------------------------


def test_the_report_shows_every_table_and_the_conditions(tiny_run):
    report, folder = tiny_run
    text = (folder / "bench.md").read_text(encoding="utf-8")
    assert text == as_markdown(report)
    for entry in report["subjects"].values():
        assert all(table in text for table in tables_of(entry))
    for value in (report["conditions"]["cpu"], report["conditions"]["versions"]["jaxlib"], "bert-jax bench --all"):
        assert value in text
    for figure in ("Best FLOP utilisation", "Faster than PyTorch", "Device idle", "bfloat16 beside float32"):
        assert f"- {figure}: " in text
    assert text.count("| curves of losses") == 1
    assert "Under way" not in text


def test_the_report_of_a_run_under_way_says_what_is_to_come(tiny_run):
    report, _ = tiny_run
    subjects = {name: report["subjects"][name] for name in ("ceiling", "step")}
    assert "Under way: kernels" in as_markdown({**report, "subjects": subjects})


def test_tables_are_printed_as_markdown(tiny_run):
    table, copies = tables_of(tiny_run[0]["subjects"]["ceiling"])
    head, rule, *rows = table.splitlines()
    assert head.startswith("| product")
    assert copies.startswith("| copy")
    assert set(rule) <= set("|-: ")
    assert len(rows) == 1
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1
    assert "vendor" not in head, "a column that says nothing is left out"
    assert markdown([{"a": "x|y"}]).splitlines()[2] == "| x\\|y |"


# ---- what fails -----------------------------------------------------------------------------------------------------


def subject(monkeypatch, name: str, measure) -> None:
    """Put a made-up subject in the place of a real one."""
    module = types.ModuleType(f"bert_jax.bench.subjects.{name}")
    module.measure = measure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_subject_that_fails_does_not_stop_the_others(monkeypatch, tmp_path):
    def fails(bench):
        yield {"name": "first", "kind": "copy", "bytes_per_second": {"median": 1.0, "lowest": 1.0, "highest": 1.0}}
        raise RuntimeError("no such device\nand more")

    subject(monkeypatch, "ceiling", fails)
    report = run_bench(tiny_suite(), ["feed", "ceiling"], tmp_path)
    assert failures(report) == [("ceiling", "RuntimeError: no such device")]
    assert records_of(report, "feed", "compared")
    assert records_of(report, "ceiling", "copy"), "what was measured before stays"
    text = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "**ceiling could not be measured.** RuntimeError: no such device" in text


def test_a_case_that_fails_does_not_stop_the_others(tmp_path):
    suite = tiny_suite()
    (good,) = suite.feed
    broken = types.SimpleNamespace(name="broken")
    report = run_bench(replace(suite, feed=(broken, good)), ["feed"], tmp_path)
    ((what, error),) = failures(report)
    assert what == "feed, broken"
    assert "AttributeError" in error
    assert [record["name"] for record in records_of(report, "feed", "compared")] == ["packed"]


def test_what_was_measured_is_on_disk_when_the_run_is_killed(monkeypatch, tmp_path):
    def killed(bench):
        yield {"name": "first", "kind": "none"}
        raise KeyboardInterrupt

    subject(monkeypatch, "ceiling", killed)
    with pytest.raises(KeyboardInterrupt):
        run_bench(tiny_suite(), ["ceiling", "feed"], tmp_path)
    written = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert written["subjects"]["ceiling"]["records"] == [{"name": "first", "kind": "none"}]
    assert "Under way: feed" in (tmp_path / "bench.md").read_text(encoding="utf-8")


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_tables_and_tells_by_its_status_what_failed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(runner, "suite_for", lambda platform, devices: tiny_suite())
    assert main(["bench", "--only", "feed", "peer", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| packed" in printed
    assert "PyTorch transformers: absent" in printed
    assert (tmp_path / "bench.json").is_file()

    def fails(bench):
        raise RuntimeError("broken")
        yield

    subject(monkeypatch, "feed", fails)
    assert main(["bench", "--only", "feed"]) == 1
    assert "feed could not be measured: RuntimeError: broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "peer", "--peer-python", "/no/such/python"], "--peer-python /no/such/python: no such file"),
        (["--only", "prepare", "--google", "/no/such"], "--google /no/such: no such file"),
        (["--only", "prepare", "--data", "/no/such"], "--data is for finetune, not measured here"),
        (["--only", "feed", "--text", "text.txt"], "add --vocab"),
        (["bench.rounds=0"], "bench.rounds=0 must be more than 0"),
        (["--only", "export", "--model", "/no/such"], "--model /no/such: no such file: name one that has config.json"),
        (["bench.export_rows=big"], "bench.export_rows=big is not ROWSxTOKENS: write 4x128"),
        (["bench.finetune_models=big"], "bench.finetune_models=big is not LAYERSxHIDDEN: write 4x128"),
        (["bench.finetune_models=1x8,2x8,1x8"], "bench.finetune_models=1x8,2x8,1x8 names a size twice"),
        (["bench.export_rows=1x32,1x32"], "bench.export_rows=1x32,1x32 names a size twice"),
        (["finetune.bucket=1"], "unknown setting 'bucket'"),
        (["no_such_config"], "there is no configuration 'no_such_config'"),
        (["model.layers=3"], "unknown setting 'model.layers'"),
        (["base", "phases.0.batch_size=none"], "is not of type"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, message):
    assert message in refusal_of(capsys, "bench", *arguments)


def test_help_needs_no_jax(capsys):
    """It lists every subject."""
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in SUBJECTS)


def test_implementations_that_were_measured_are_shown_beside_one_that_failed():
    seconds = {"reference forward": {"median": 1.0, "lowest": 1.0, "highest": 1.0}}
    record = {"name": "8 x 128", "kind": "attention", "implementations": ["reference", "xla"], "refused": {}}
    record |= {"dtype": "float32", "seconds": seconds, "error": "xla forward: no room"}
    (table,) = tables_of({"records": [record]})
    assert "1 s ±0 %" in table
    assert table.count("failed") == 3


# ---- the sizes ------------------------------------------------------------------------------------------------------


def test_settings_change_all_cases():
    changes = [
        "attention=xla",
        "model.hidden_dropout_prob=0",
        "bench.rounds=7",
        "finetune.packing=buckets",
        "finetune.buckets=1",
    ]
    suite = make_suite("cpu", 1, None, changes)
    assert (suite.sizes.rounds, suite.finetune.buckets) == (7, 1)
    cases: list[Case] = [*suite.steps, *suite.peer, suite.checkpoint]
    assert {case.config.attention for case in cases} == {"xla"}
    assert {case.config.model.hidden_dropout_prob for case in cases} == {0.0}


def test_a_configuration_takes_the_place_of_the_models():
    config = small_config(packing="buckets")
    suite = make_suite(
        "cpu", 1, ("small", config), ["phases.0.batch_size=4", "phases.1.batch_size=2", "bench.rounds=3"]
    )
    assert [case.name for case in suite.steps] == ["small, 4 x 16", "small, 2 x 32"]
    assert [case.shape.rows for case in suite.steps] == [4, 2]
    assert suite.duel is not None
    assert [phase.batch_size for phase in suite.duel[1].phases] == [4, 2]
    assert suite.sizes.rounds == 3
    assert {case.config.packing for case in suite.steps} == {"padded"}
    assert {size.head_size for size in suite.attention} == {8}
    assert {case.config.mesh for case in suite.peer} == {MeshConfig(data=1)}


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_the_sizes_of_a_platform_hang_together(platform):
    suite = suite_for(platform, 4)
    assert suite.sizes.rounds >= 5
    assert {case.name for case in suite.steps} >= set(suite.loop_cases)
    if platform != "cpu":
        assert {case.shape.rows * case.shape.sequence_length for case in suite.steps} == {4 * 65_536}
        assert all(case.config.mesh.data == 1 for case in suite.peer)
