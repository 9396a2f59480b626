# SPDX-License-Identifier: Apache-2.0
"""The strict floor of every test (eight CPU devices, no silent rank promotion; warnings are errors, see pyproject.toml)
and a small made-up corpus that many tests share."""

import gc
import os
import signal
import tempfile
import weakref

os.environ["JAX_PLATFORMS"] = "cpu"
# A shell starts what runs in its background with SIGINT ignored, and the stages that tests start would ignore it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Compiling dominates the time of small programs: the backend's optimizations are left out here, not in `make demo`.
# A program is compiled in one part: two test processes have both cores busy, and parts cost a tenth more.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Programs that were compiled once in this session are not compiled again, in runs that are resumed above all.
if "PYTEST_XDIST_WORKER" not in os.environ:  # its workers share the folder
    COMPILED = tempfile.TemporaryDirectory(prefix="bert_jax_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Tracing makes so many objects that Python's own threshold of 700 has it look for cycles all the time.
gc.set_threshold(20_000)

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from bucket_emulator import Emulator

from bert_jax.cli import main
from bert_jax.config.model import ModelConfig
from bert_jax.config.objective import OBJECTIVES
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.training import MeshConfig, OptimizerConfig

TOPICS = {
    "sea": ["ship", "wave", "harbour", "sailor", "storm", "anchor", "island", "tide"],
    "garden": ["rose", "spade", "seed", "apple", "hedge", "gardener", "rain", "soil"],
    "city": ["street", "tram", "tower", "market", "bridge", "window", "crowd", "lamp"],
    "mountain": ["peak", "snow", "rope", "valley", "climber", "stone", "eagle", "hut"],
}


def made_up_text(documents: int, seed: int = 0) -> str:
    """Documents of 6 to 12 sentences, each on one topic: one sentence a line, blank lines between documents."""
    rng = np.random.default_rng(seed)
    text = []
    for number in range(documents):
        words = list(TOPICS.values())[number % len(TOPICS)]
        for _ in range(rng.integers(6, 13)):
            a, b, c = rng.choice(words, 3, replace=False)
            text.append(f"the {a} of the {b} is near the {c} .")
        text.append("")
    return "\n".join(text) + "\n"


@dataclass(frozen=True)
class Prepared:
    """Paths of the shared corpus."""

    text: Path
    vocab: Path
    data: Path


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """200 made-up documents, their vocabulary, and data for rows of 16 and of 32 tokens with the examples of every
    objective. Not to be written to."""
    folder = tmp_path_factory.mktemp("prepared")
    text, vocab, data = folder / "text.txt", folder / "vocab", folder / "data"
    text.write_text(made_up_text(200), encoding="utf-8")
    run_stage("vocab", "--input", text, "--output", vocab, "--size", 100)
    lengths = ("--sequence-length", 16, 32)
    # Small shards, so that batches span several.
    options = ("--objective", *OBJECTIVES, *lengths, "--shard-size", 20_000, "--workers", 1)
    run_stage("prepare", "--input", text, "--vocab", vocab, "--output", data, *options)
    return Prepared(text, vocab, data)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory) -> Iterator[Emulator]:
    """Cloud Storage, made up, with the bucket `bkt`; processes that a test starts find it too."""
    emulator = Emulator()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "STORAGE_EMULATOR_HOST", emulator.address
        )  # gcsfs, and google-cloud-storage, which Orbax deletes with
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", emulator.address)  # Orbax's arrays
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "any")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield emulator
    emulator.stop()


class TfDataIterators:
    """The tf.data iterators that a test makes, from the moment `record` is called."""

    def __init__(self) -> None:
        self.autotuned: list[bool | None] = []  # of each: whether its options leave autotuning on (None means yes)
        self._made: list[weakref.ref] = []

    def record(self, patch: pytest.MonkeyPatch) -> None:
        from tensorflow.python.data.ops.iterator_ops import OwnedIterator

        begin = OwnedIterator.__init__

        def recorded(iterator, dataset=None, *arguments, **options):
            self.autotuned.append(dataset.options().autotune.enabled)
            self._made.append(weakref.ref(iterator))
            begin(iterator, dataset, *arguments, **options)

        patch.setattr(OwnedIterator, "__init__", recorded)

    @property
    def open(self) -> int:
        """How many of them still have their threads."""
        return sum(reference() is not None for reference in self._made)


@pytest.fixture
def tf_data_iterators(monkeypatch) -> TfDataIterators:
    pytest.importorskip("tensorflow")
    iterators = TfDataIterators()
    iterators.record(monkeypatch)
    return iterators


def real_data(name: str) -> Path:
    """A file or folder of real data; where it is not there the test is skipped (CONTRIBUTING.md)."""
    folder = os.environ.get("BERT_JAX_TEST_DATA")
    if not folder or not Path(folder, name).exists():
        pytest.skip(f"needs {name} in the folder BERT_JAX_TEST_DATA")
    return Path(folder, name)


def run_stage(*arguments: object) -> None:
    """`bert-jax ARGUMENTS...` in this process; it must succeed."""
    assert main([str(argument) for argument in arguments]) == 0


def refusal_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """`bert-jax ARGUMENTS...` in this process; it must end with status 2, and this is the one line that it says."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bert-jax {arguments[0]}: ")
    return line


def small_config(**changes: object) -> PretrainConfig:
    """One layer of 16 features, a phase of rows of 16 tokens and one of 32: compiles and runs in seconds."""
    settings: dict = {
        "model": ModelConfig(
            vocab_size=104,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        ),
        "phases": (
            PhaseConfig(sequence_length=16, steps=8, batch_size=16, max_predictions_per_seq=3),
            PhaseConfig(sequence_length=32, steps=4, batch_size=8, max_predictions_per_seq=5),
        ),
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
        "mesh": MeshConfig(data=1),
        "log_every": 3,
        "eval_every": 5,
        "eval_batches": 2,
        "save_every": 4,
    }
    return PretrainConfig(**(settings | changes))


# ---- what `make test` leaves to `make test-all`, and `make check` to `make test` ----------------------------------

# Whole stages, compilers and peers that take long, and further members of what other tests hold: file -> parts of the names of
# its tests ("" for all). Each test stands in one line only.
SLOW = {
    "test_api.py": ("test_a_run_from_its_first_step",),
    "test_attention.py": ("test_every_mesh_gives_the_same_bits[pallas",),
    "test_attention_causal.py": (
        "test_every_mesh_gives",
        "test_in_bfloat16",
    ),
    "test_attention_pallas_gpu.py": ("test_output_and_gradients_equal_numpy[512",),
    "test_averaging.py": (
        "test_a_",
        "test_resumed",
        "test_what_is_loaded",
        "test_fine_tuning",
    ),
    "test_bad_steps.py": ("test_skipped_its_update", "test_rolled_back"),
    "test_beam.py": ("test_beams_output_is_the_pools",),
    "test_bench.py": (
        "test_a_case_that_fails",
        "test_a_subject_that_fails",
        "test_the_command_prints",
    ),
    "test_bench_data.py": ("",),
    "test_bench_duel.py": ("test_our_side_runs", "test_a_whole_duel"),
    "test_bench_finetune.py": ("",),
    "test_bench_peer.py": ("test_vectors_of_every_side",),
    "test_bilm.py": (
        "test_a_step_on_a_mesh",
        "test_an_output_matrix_of_its_own",
        "test_bfloat16_is_close",
        "test_it_is_fine_tuned_whole",
        "test_its_layers_are_mixed",
        "test_packed_examples_are",
        "test_states_loss_and_gradients",
        "test_a_changed_token",
        "test_a_texts_vector",
        "test_the_loss_is_the_mean",
        "test_vectors_are_means",
    ),
    "test_bucket_runs.py": (
        "test_a_conversion_there_and_back",
        "test_stages_that_take_a_model",
        "test_a_study_has_all",
        "test_two_processes",
        "test_a_checkpoint_is_kept",
        "test_fine_tuning_prediction",
        "test_requests_that_fail",
        "killed_ten_times",
    ),
    "test_clusters.py": ("test_a_slurm_job",),
    "test_compare.py": ("test_the_bootstrap_has",),
    "test_convert.py": (
        "every_direction[mlm]",
        "every_direction[nsp]",
        "every_direction[untied]",
        "erf]",
        "test_moments_that_are_not",
    ),
    "test_demo.py": ("",),
    "test_distillation.py": ("test_any_cut", "test_it_is_computed_again", "test_a_stopped_run"),
    "test_earlier_files.py": ("test_a_stopped_",),
    "test_electra.py": (
        "and_back[model1]",
        "electra_s[span",
        "electra_s[regression",
        "electra_s[tagging",
    ),
    "test_encoder.py": (
        "test_scan_unroll_and_remat_compute_the_same[unrolled]",
        "test_scan_unroll_and_remat_compute_the_same[full]",
        "test_every_place_drops",
        "test_bfloat16_is_close",
    ),
    "test_export.py": (
        "test_the_loader_runs_stablehlo_with_jax_and_tokenizers_alone[pre",
        "as_the_directory_says_or_as_asked[stablehlo",
        "test_int8_of_a_fine_tuned",
        "tokenizers_alone[span",
        "test_stablehlo_takes_every_head",
        "test_onnx_gives_what_the_referee_does[encoder and pooler",
        "test_onnx_gives_what_the_referee_does[pretraining, erf",
        "test_onnx_gives_what_the_referee_does[untied",
    ),
    "test_feed.py": ("test_training_without_tensorflow",),
    "test_finetuning_run.py": (
        "test_devices_do_not_change",
        "test_a_run_that_learns_nothing",
        "test_regression",
        "test_choice",
        "test_tagging",
        "test_questions[1.1]",
        "test_one_word",
    ),
    "test_finetuning_packed.py": (
        "alone[multi_label",
        "alone[regression",
        "alone[a mix",
        "alone[tagging",
        "biLM]",
        "left to right]",
        "test_micro_batches",
    ),
    "test_finetuning_steps.py": (
        "test_micro_batches_change_nothing",
        "test_a_sweep_shares",
        "[lamb-cosine]",
        "[adamw_bert-constant]",
    ),
    "test_further.py": (
        "test_a_stopped_run_goes_on",
        "[everything]",
        "[encoder alone]",
        "test_a_finished_or_converted",
        "test_another_vocabulary",
        "test_moments_and_the_step",
        "test_shape_is",
        "test_settings_that",
        "test_google_s",
    ),
    "test_fuzz_readers.py": ("",),
    "test_left_to_right.py": (
        "test_a_step_on_a_mesh",
        "test_fine_tuning_keeps",
        "test_a_bidirectional_run",
    ),
    "test_meshes.py": ("",),
    "test_multi_label.py": ("test_classes_are_learned",),
    "test_multihost.py": (
        "test_two_processes_a_stop_another_mesh",
        "test_two_processes_go_on_past_a_bad_step",
        "test_fine_tuning_in_two_processes",
        "one_writes",
        "test_a_line_that_is_refused",
        "test_all_processes_end",
        "test_a_process_that_is_killed",
        "test_three_processes_train_as_one[stopped",
        "named_and_the_others_end_to_be_tried_again",
    ),
    "test_plan.py": (
        "memory_by_class",
        "figures_of_the_program",
        "days_and_rates",
        "text_says_what",
        "plan_is_json",
        "chips_that_are_not_there",
        "flags_of_the_compiler_are",
        "leaves_accelerators",
    ),
    "test_predict.py": (
        "test_words_are_tagged",
        "test_questions_are_answered",
        "test_evaluate_gives",
    ),
    "test_preparation.py": (
        "test_a_killed_run_goes_on_where_it_was[1]",
        "test_asked_to_stop_it_says_how_to_go_on[",
        "finished_shards_stay[2]",
    ),
    "test_pretraining.py": (
        "test_other_objectives_train[mlm_sop",
        "test_other_objectives_train[mlm_pairs-span",
        "rows_and_buckets",
        "test_killed_in_a_save",
        "test_a_write_that_fails",
        "test_the_start_says",
        "mlm_document-span",
    ),
    "test_replaced_tokens.py": (
        "test_any_cut",
        "test_no_gradient",
        "test_the_loss_is_fifty",
        "test_a_run_logs",
        "test_a_run_begins",
        "test_under_another",
        "test_each_half_is_exported",
        "test_it_is_fine_tuned",
        "test_every_stage",
    ),
    "test_reproduce.py": ("test_a_fine_tuned_run_too",),
    "test_step_budget.py": (
        "data4_tensor2",
        "data2_fsdp2",
        "dcn2_data4",
        "tpu_v5e",
        "data8",
        "fsdp8",
    ),
    "test_study.py": ("test_a_study_that_is_killed", "test_a_study_from_end_to_end"),
    "test_sweep.py": ("test_a_sweep_ends",),
    "test_task_distillation.py": (
        "test_a_student_learns",
        "test_a_stopped_run",
        "test_a_run_goes_on",
    ),
    "test_tf1.py": ("test_tensorflow_is_imported_when_needed", "test_no_more_than_a_piece"),
    "test_train_step.py": (
        "[mesh0-1]",
        "[mesh1-1]",
        "[mesh2-1]",
        "[mesh3-1]",
        "[mesh4-4]",
        "[mesh6-2]",
        "test_without_nsp",
        "test_the_first_state_is_that_of_one_device[mesh1]",
    ),
    "test_untrained.py": ("test_a_run_has_no_head",),
}


# What `make check` leaves out: why -> patterns of the names of files.
LONG = {
    "they compile the network": (
        "attention*",
        "custom_gradients",
        "dropout",
        "encoder",
        "heads",
        "losses",
        "task_heads",
    ),
    "they compile steps": ("finite", "hlo", "meshes", "optimizer", "sharding", "step_budget", "train_*"),
    "they train": (
        "finetuning_[lrs]*",
        "pretraining",
        "further",
        "untrained",
        "averaging",
        "replaced_tokens",
        "bilm",
        "api",
        "earlier_files",
        "feed",
        "predict",
        "demo",
        "multihost",
        "left_to_right",
        "*distillation",
        "bad_steps",
        "reproduce",
        "study",
        "sweep",
    ),
    "they run whole jobs on a bucket": ("bucket*",),
    "they use a model": (
        "embedding",
        "evaluation",
        "generate",
        "intrinsic",
        "pretrained",
        "segments",
        "serving",
        "multi_label",
        "probe",
        "senses",
    ),
    "they save and convert": (
        "checkpoint",
        "checksums",
        "convert*",
        "electra",
        "export",
        "extension",
        "numpy_bert",
        "tf1",
    ),
    "they run stages": ("accounting", "cli", "corpus", "doctor", "first_batches", "pages_pretrain", "prep*", "vocab"),
    "they wait for processes": (
        "clusters",
        "compilation_cache",
        "distributed",
        "host",
        "output_lock",
        "stopping",
        "terminal",
    ),
    "they measure or plan": ("beam", "bench*", "check_tokenizer", "fuzz_readers", "plan*"),
}


def pytest_collection_modifyitems(items):
    for item in items:
        name = item.path.stem.removeprefix("test_")
        if any(fnmatch(name, pattern) for patterns in LONG.values() for pattern in patterns):
            item.add_marker(pytest.mark.long)
        parts = SLOW.get(item.path.name, ())
        if "tiny_run" in item.fixturenames or any(part in item.name for part in parts):
            item.add_marker(pytest.mark.slow)
