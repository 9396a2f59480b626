# SPDX-License-Identifier: Apache-2.0
"""The layers of docs/architecture.md, read from the imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bert_jax"

# The layer of a module, by the longest prefix of its name below bert_jax.
LAYERS = {
    "": 0,  # bert_jax/__init__.py: a version, and doors to what is above, opened when they are called
    **dict.fromkeys(["config", "finetune_config", "model_description", "settings", "batch", "sharding"], 0),
    **dict.fromkeys(
        ["errors", "files", "text_files", "terminal", "cores", "host_memory", "output_lock", "stopping"], 0
    ),
    **dict.fromkeys(
        [
            "attention",
            "dropout",
            "residuals",
            "chips",
            "hlo",
            "distributed",
            "compilation_cache",
            "optimizer",
            "losses",
            "metrics",
            "accounting",
            "checkpoint",
            "checkpoint_integrity",
            "checksums",
        ],
        1,
    ),
    **dict.fromkeys(["tokenization", "data", "run_directory", "tensorboard", "first_batches", "scoring", "tasks"], 1),
    **dict.fromkeys(["encoder", "task_heads", "heads"], 2),
    **dict.fromkeys(["train_state", "train_step"], 3),
    **dict.fromkeys(
        [
            "train_loop",
            "evaluation",
            "inference",
            "pretraining",
            "report",
            "passport",
            "doctor",
            "plan",
            "bench",
            "session",
            "conversion",
            "pretrained",
            "embedding",
            "finetuning",
            "intrinsic",
            "pseudo_likelihood",
        ],
        4,
    ),
    "cli": 5,
}
ONLY_IMPORTER = {
    "orbax": {"checkpoint"},
    "tensorflow": {"data.tf_feed", "conversion.tf1"},
    "tensorflow_datasets": {"data.tfds_source"},
    "apache_beam": {"data.beam"},
    "safetensors": {"conversion.safetensors_files"},
    "tensorboardX": {"tensorboard"},
    "sentencepiece": {"tokenization.sentencepiece"},
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports_of(path: Path) -> set[str]:
    """Everything imported anywhere in a file, by full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def own_imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, below bert_jax."""
    names = {name.removeprefix("bert_jax").lstrip(".") for name in imports_of(path) if name.split(".")[0] == "bert_jax"}
    return {name for name in names if name in MODULES}


def layer_of(module: str) -> int:
    return LAYERS[module.split(".")[0]]


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {""}))
def test_imports_never_point_up(module):
    for imported in own_imports(MODULES[module]):
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}, which is above it"


def test_layer_zero_imports_nothing_but_layer_zero():
    for module in ("config", "finetune_config", "settings", "batch", "sharding", "errors", "files", "text_files"):
        assert {layer_of(imported) for imported in own_imports(MODULES[module])} <= {0}


def test_no_cycles():
    pending = {module: own_imports(path) - {module, ""} for module, path in MODULES.items()}
    # A package's __init__ may gather its own modules.
    while free := {module for module, needed in pending.items() if not needed & pending.keys()}:
        pending = {module: needed for module, needed in pending.items() if module not in free}
    assert not pending, f"import cycle among {sorted(pending)}"


def test_data_never_imports_the_model_or_jax():
    for module, path in MODULES.items():
        if module.startswith("data"):
            roots = {name.split(".")[0] for name in imports_of(path)}
            assert not roots & {"jax", "flax", "optax"}, module
            assert own_imports(path) <= {
                name for name in MODULES if layer_of(name) == 0 or name.startswith(("data", "tokenization"))
            }, module


def test_tasks_and_scorers_are_of_use_without_jax():
    for module, path in MODULES.items():
        if module.startswith(("tasks", "scoring")):
            assert not {name.split(".")[0] for name in imports_of(path)} & {"jax", "flax", "optax"}, module
    for module in (name for name in MODULES if name.startswith("scoring")):
        roots = {name.split(".")[0] for name in own_imports(MODULES[module])}
        assert roots <= {"scoring", "errors", "files", "text_files", ""}, module


@pytest.mark.parametrize("library", sorted(ONLY_IMPORTER))
def test_one_importer(library):
    importers = {name for name, path in MODULES.items() if any(i.split(".")[0] == library for i in imports_of(path))}
    assert importers == ONLY_IMPORTER[library]


def test_library_never_imports_what_stands_above_it():
    for module, path in MODULES.items():
        above = {name for name in imports_of(path) if name.startswith(("bert_jax.pipelines", "bert_jax.configs"))}
        assert not above, module


def test_stages_and_their_files_agree():
    from bert_jax.cli import STAGES

    files = {path.stem.replace("_", "-") for path in (ROOT / "pipelines").glob("[!_]*.py")}
    assert set(STAGES) == files
