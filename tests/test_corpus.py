# SPDX-License-Identifier: Apache-2.0
"""Text out of docstrings: what is kept, what is left out and counted, and a finished corpus used again."""

import json
from pathlib import Path

import pytest
from conftest import refusal_of

from bert_jax.cli import main
from bert_jax.text import corpus
from bert_jax.text.documents import read_documents

COLOURS = ["red", "green", "blue", "white", "black", "brown", "grey", "pink"]


def write_package(folder: Path, name: str, modules: dict[str, str | bytes]) -> None:
    """A package of modules; a module's text is its docstring, unless it is bytes: then the whole file."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("")
    for module, text in modules.items():
        source = text if isinstance(text, bytes) else f'"""{text}"""\n'.encode()
        (folder / name / f"{module}.py").write_bytes(source)


def story(animal: str) -> str:
    """A docstring of three sentences that share few words with another animal's."""
    return (
        f"The {animal} runs over the hill.\n\nA {animal} is not known to be in the water.\n\n"
        f"It is the {animal} that we see."
    )


def make(folder: Path, output: Path, **settings: object) -> dict:
    return corpus.write_corpus(output, folders=[folder], **settings)  # type: ignore[arg-type]


def sentences(output: Path) -> list[list[str]]:
    """The documents, in the order of the files."""
    return [document for file in sorted(output.glob("*.txt")) for document in read_documents(file)]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the installed packages of the interpreter."""
    folder = tmp_path / "site-packages"
    write_package(folder, "zoo", {animal: story(animal) for animal in ("fox", "hare", "wolf")})
    information = folder / "zoo-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo\nVersion: 1.0\n")
    (information / "RECORD").write_text("zoo/__init__.py,,\n")
    monkeypatch.setattr(corpus, "package_folders", lambda: [folder])
    return folder


# Which modules


def test_tests_vendored_copies_and_generated_modules_are_skipped(tmp_path: Path) -> None:
    write_package(tmp_path, "zoo", {"fox": "", "test_fox": "", "fox_test": "", "fox_pb2": "", "not-a-name": ""})
    for name in ("zoo/tests", "zoo/_vendor/other", "zoo-1.0.dist-info", "bert_jax"):
        write_package(tmp_path, name, {"hare": ""})
    assert [module.name for module in corpus.find_modules([tmp_path])] == ["zoo", "zoo.fox"]


def test_order_mixes_packages_and_depends_on_the_seed(tmp_path: Path) -> None:
    modules = [corpus.Module(f"{package}.{number}", tmp_path) for package in "ab" for number in range(20)]
    first = [module.name for module in corpus.mixed_order(modules, 0)]
    assert first == [module.name for module in corpus.mixed_order(modules[::-1], 0)]
    assert first != [module.name for module in corpus.mixed_order(modules, 1)]
    assert 3 < sum(name.startswith("a") for name in first[:20]) < 17


# The corpus


def test_one_document_a_module_one_sentence_a_line(tmp_path: Path) -> None:
    write_package(tmp_path / "in", "zoo", {"fox": story("fox"), "hare": story("hare"), "short": "A word."})
    manifest = make(tmp_path / "in", tmp_path / "out")
    documents = sentences(tmp_path / "out")
    assert sorted(document[0] for document in documents) == [
        "The fox runs over the hill.",
        "The hare runs over the hill.",
    ]
    assert {len(document) for document in documents} == {3}
    assert (manifest["documents"], manifest["sentences"]) == (2, 6)
    assert manifest["bytes"] == sum(file.stat().st_size for file in (tmp_path / "out").glob("*.txt"))
    assert manifest["modules"] == {"found": 4, "read": 4, "without_docstring": 1, "unreadable": 0}
    assert manifest["left_out"]["short_documents"] == 1
    assert json.loads((tmp_path / "out/corpus.json").read_text()) == manifest


def test_duplicates_are_left_out_and_counted(tmp_path: Path) -> None:
    """Text that two modules share would be found in training and held-out documents alike."""
    long = "The long tale of the animals of the forest is told once in this paragraph and {} again."
    she = "She was up on the hill."
    write_package(
        tmp_path / "in",
        "zoo",
        {
            "fox": story("fox"),
            "copy": story("FOX2"),  # case and digits do not make it new
            "hare": f"{story('hare')}\n\n{long.format('never')}\n\nHe was not at the sea. {she}",
            "wolf": f"{story('wolf')}\n\n{long.format('not')}\n\nIt was in the old wood. {she}",
        },
    )
    left_out = make(tmp_path / "in", tmp_path / "out")["left_out"]
    assert left_out["duplicate_documents"] == 1
    assert left_out["duplicate_paragraphs"] == 3
    assert left_out["near_duplicate_paragraphs"] == 1
    assert left_out["duplicate_sentences"] == 1
    text = "".join(file.read_text() for file in (tmp_path / "out").glob("*.txt")).lower()
    assert [text.count(words) for words in ("fox", "tale", "she was up on the hill.")] == [3, 1, 1]


def test_files_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    broken = {"bytes": b'"""\xff is no UTF-8."""', "syntax": b'"""Text."""\nprint 1', "nul": b'"""Text."""\0'}
    write_package(tmp_path / "in", "zoo", {"fox": story("fox"), **broken})
    manifest = make(tmp_path / "in", tmp_path / "out")
    assert manifest["modules"]["unreadable"] == 3
    assert sorted(manifest["unreadable"]) == ["zoo.bytes", "zoo.nul", "zoo.syntax"]
    assert manifest["documents"] == 1


def test_text_does_not_depend_on_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "MODULES_PER_TASK", 1)
    monkeypatch.setattr(corpus, "FILE_BYTES", 200)
    write_package(tmp_path / "in", "zoo", {f"m{colour}": story(f"{colour} fox") for colour in COLOURS})
    one = make(tmp_path / "in", tmp_path / "one", workers=1)
    two = make(tmp_path / "in", tmp_path / "two", workers=2)
    assert one == two
    assert len(one["files"]) > 2
    assert sentences(tmp_path / "one") == sentences(tmp_path / "two")


def test_megabytes_stops_after_the_document_that_reaches_it(tmp_path: Path) -> None:
    write_package(tmp_path / "in", "zoo", {colour: story(f"{colour} fox") for colour in COLOURS})
    everything = make(tmp_path / "in", tmp_path / "all")
    part = make(tmp_path / "in", tmp_path / "part", megabytes=150e-6)
    assert part["documents"] == 2
    assert part["bytes"] >= 150
    assert sentences(tmp_path / "part") == sentences(tmp_path / "all")[:2]
    assert part["modules"]["read"] < everything["modules"]["read"] == 9


# The stage


def test_finished_corpus_is_used_again(installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["corpus", "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 0
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    assert "corpus.json" in before
    (tmp_path / "out" / "corpus-unfinished").touch()  # killed at the very end
    capsys.readouterr()
    assert main(command) == 0
    again = capsys.readouterr()
    assert again.out.startswith(f"{tmp_path / 'out'} is complete: ")
    assert "3 documents" in again.out
    assert (again.out.count("\n"), again.err) == (1, "")
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == before


def test_other_packages_are_said_and_the_corpus_is_kept(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["corpus", "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 0
    metadata = installed / "zoo-1.0.dist-info/METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "2.0"))
    capsys.readouterr()
    assert main(command) == 0
    assert "(zoo 1.0 -> 2.0) and is kept" in capsys.readouterr().out


def test_unfinished_corpus_is_made_again(installed: Path, tmp_path: Path) -> None:
    """Without corpus.json the text files are a part; an earlier one must not stay among the new."""
    output = tmp_path / "out"
    output.mkdir()
    for name in ("corpus-00000.txt", "corpus-00007.txt", "corpus-00001.txt.partial", "corpus-unfinished"):
        (output / name).write_text("An old line.\n")
    assert main(["corpus", "--output", str(output), "--workers", "1"]) == 0
    assert sorted(file.name for file in output.iterdir()) == ["corpus-00000.txt", "corpus.json"]
    assert "old" not in (output / "corpus-00000.txt").read_text()


@pytest.mark.parametrize("name", ["corpus-00000.txt", "corpus-2019.txt", "notes.txt"])
def test_files_of_others_are_not_touched(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Not even where they have the name of ours: nothing says that they are of an unfinished corpus."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("Mine.\n")
    error = refusal_of(capsys, "corpus", "--output", tmp_path / "out", "--workers", "1")
    assert f"holds {name}, not a corpus: choose another --output, new or empty" in error
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [(name, "Mine.\n")]


def test_more_megabytes_than_there_are_is_said(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corpus", "--output", str(tmp_path / "out"), "--workers", "1", "--megabytes", "3"]) == 0
    assert "--megabytes 3 asked for more than the installed packages hold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "1"], "made with --seed 0, asked for is --seed 1: remove"),
        (["--megabytes", "2"], "made with no --megabytes, asked for is --megabytes 2: remove"),
        (["--megabytes", "0"], "--megabytes 0 must be more than 0"),
        (["--megabytes", "nan"], "--megabytes nan must be more than 0"),
        (["--workers", "0"], "--workers 0 must be at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    options: list[str],
    message: str,
    installed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["corpus", "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 0
    assert message in refusal_of(capsys, *command, *options)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda output: (output / "corpus-00000.txt").unlink(), "corpus-00000.txt is missing"),
        (lambda output: (output / "corpus-00000.txt").write_text("A"), "corpus-00000.txt has 1 bytes"),
        (lambda output: (output / "corpus.json").write_text("[]"), "it is a list, not an object"),
        (
            lambda output: (output / "corpus.json").write_text('{"format": 9, "settings": {}, "files": []}'),
            "has format 9, this program reads 1",
        ),
    ],
    ids=["missing", "short", "manifest", "format"],
)
def test_damaged_corpus_is_refused(
    damage, message: str, installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["corpus", "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 0
    damage(tmp_path / "out")
    error = refusal_of(capsys, *command)
    assert message in error
    assert "choose another --output" in error


def test_no_text_at_all_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_package(tmp_path / "in", "zoo", {"fox": "A word."})
    monkeypatch.setattr(corpus, "package_folders", lambda: [tmp_path / "in"])
    assert main(["corpus", "--output", str(tmp_path / "out"), "--workers", "1"]) == 2
    assert "no English documentation in the 2 modules below" in capsys.readouterr().err
    assert not (tmp_path / "out/corpus.json").exists()
