# SPDX-License-Identifier: Apache-2.0
"""The rooms of docs/architecture.md: read from the folders of bert_jax/ and from what their files import."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bert_jax"

# The rooms, from the ground up. A room imports from floors below its own only; files of a room import each other.
FLOORS = (
    ("base",),
    ("config", "text", "tokenization"),
    ("feed", "tasks", "mesh"),
    ("runs", "model"),
    ("checks",),
    ("preparation", "train", "pages"),
    ("conversion", "plan"),
    ("use", "finetuning"),
    ("export",),
    ("bench", "rerun", "study"),
    ("", "cli"),  # the doors: `import bert_jax`, and the command line, which imports a stage when it is asked for
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Rooms that are of use without JAX, and what nothing in them reaches, however far.
WITHOUT_JAX = ("config", "text", "tokenization", "feed", "tasks", "preparation")
JAX = {"jax", "flax", "optax", "orbax"}

ONLY_IMPORTER = {
    "orbax": {"runs.checkpoint"},
    "tensorflow": {"feed.tf_feed", "conversion.tf1", "bench.sides.here"},
    "tensorflow_datasets": {"text.tfds_source"},
    "apache_beam": {"preparation.beam"},
    "datasketch": {"preparation.near_duplicates"},
    "safetensors": {"conversion.safetensors_files"},
    "tensorboardX": {"runs.tensorboard"},
    **{tracker: {"runs.trackers"} for tracker in ("wandb", "mlflow", "trackio")},
    "sentencepiece": {"tokenization.sentencepiece"},
    "onnx": {"export.onnx_graph", "export.runtime"},
    "onnxruntime": {"export.runtime"},
    "etils": {"base.buckets"},
    "fsspec": {"base.buckets"},
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


IMPORTS = {module: imports_of(path) for module, path in MODULES.items()}
LIBRARIES = {module: {name.split(".")[0] for name in imports} for module, imports in IMPORTS.items()}


def own_imports(module: str) -> set[str]:
    """Modules of ours that a module imports, below bert_jax; a package is left out where something in it is imported."""
    below = {name.removeprefix("bert_jax").lstrip(".") for name in IMPORTS[module] if name.split(".")[0] == "bert_jax"}
    found = {name for name in below if name in MODULES}
    return {name for name in found if not any(other.startswith(f"{name}.") or name == "" for other in found - {name})}


def room(module: str) -> str:
    return module.split(".")[0]


def reached(start: str) -> set[str]:
    """The modules of ours that a module imports, directly or by way of others."""
    found, pending = set(), {start}
    while pending:
        module = pending.pop()
        found.add(module)
        pending |= own_imports(module) - found
    return found - {start}


def test_every_folder_is_a_room_and_no_file_is_loose_but_the_doors():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    loose = {module_name(path) for path in PACKAGE.glob("*.py")}
    assert sorted(folders | loose) == sorted(FLOOR)
    assert loose == set(FLOORS[-1])


def test_a_wheel_has_every_folder():
    """Fails where a room is missing from pyproject.toml: an editable install and these tests run all the same, and what is
    installed from a wheel, or into an image, lacks a stage."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {str(file.parent.relative_to(ROOT)).replace("/", ".") for file in PACKAGE.rglob("__init__.py")}
    others = {f"bert_jax.{folder}" for folder in ("pipelines", "configs", "tools")}
    assert sorted(listed) == sorted(folders | others)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module):
    for imported in own_imports(module):
        below = FLOOR[room(imported)] < FLOOR[room(module)]
        assert below or room(imported) == room(module) != "", f"{module} imports {imported}, which is no floor below"


def test_no_cycles():
    pending = {module: own_imports(module) - {module} for module in MODULES}
    while free := {module for module, needed in pending.items() if not needed & pending.keys()}:
        pending = {module: needed for module, needed in pending.items() if module not in free}
    assert not pending, f"import cycle among {sorted(pending)}"


@pytest.mark.parametrize("module", sorted(module for module in MODULES if room(module) in WITHOUT_JAX))
def test_text_tasks_and_feed_never_reach_jax(module):
    for name in {module, *reached(module)}:
        assert not LIBRARIES[name] & JAX, f"{module} reaches {name}"


def test_the_train_step_knows_no_data():
    rooms = {room(name) for name in reached("train.step") - {"feed.batch"}}
    assert rooms <= {"base", "config", "mesh", "model", "train"}


def test_scorers_are_of_use_by_themselves():
    for module in MODULES:
        if module.startswith("tasks.scoring"):
            assert {name for name in own_imports(module) if not name.startswith("tasks.scoring")} <= {
                "base.errors",
                "base.files",
                "base.lines",
                "base.types",
                "text.streams",
            }


@pytest.mark.parametrize("library", sorted(ONLY_IMPORTER))
def test_one_importer(library):
    assert {name for name in MODULES if library in LIBRARIES[name]} == ONLY_IMPORTER[library]


def test_library_never_imports_what_stands_above_it():
    for module, imports in IMPORTS.items():
        above = ("bert_jax.pipelines", "bert_jax.configs", "bert_jax.tools")
        assert not {name for name in imports if name.startswith(above)}, module


def test_stages_and_their_files_agree():
    from bert_jax.cli import STAGES

    files = {path.stem.replace("_", "-") for path in (ROOT / "pipelines").glob("[!_]*.py")}
    assert set(STAGES) == files


def test_the_glossary_names_modules_that_are_there():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    named = re.findall(r"`(bert_jax/[\w/]+\.py)`", text)
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).is_file()] == []
