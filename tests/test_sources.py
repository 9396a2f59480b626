# SPDX-License-Identifier: Apache-2.0
"""What --input names, and how it falls into parts."""

import hashlib
import os
import pickle
from collections import Counter
from pathlib import Path

import pytest

from bert_jax.base.errors import UserError
from bert_jax.text.documents import ReadingCounts, ReadingOptions
from bert_jax.text.sources import parse_sources, Part, plan_parts, read_part, total_bytes


def write(path: Path, content: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def texts(part: Part, sources: list, counts: ReadingCounts | None = None) -> list[str]:
    documents = read_part(part, sources, ReadingOptions(), counts or ReadingCounts())
    return ["\n".join(document.lines) for document in documents]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """b/wiki_01, b/wiki_00, a.txt, b/c/x.txt, and files that are no input."""
    names = ("b/wiki_01", "b/wiki_00", "a.txt", "b/c/x.txt", "b/.hidden", ".git/config")
    for name in names:
        write(tmp_path / "in" / name, name)
    return tmp_path / "in"


# ---- what --input names ------------------------------------------------------------------------------------


def test_folders_stand_for_their_files(folder):
    """In sorted order, without hidden ones."""
    (source,) = parse_sources([str(folder)])
    assert source.files == tuple(folder / name for name in ("a.txt", "b/c/x.txt", "b/wiki_00", "b/wiki_01"))
    assert [source.name_of(file) for file in source.files] == ["a.txt", "b/c/x.txt", "b/wiki_00", "b/wiki_01"]
    assert (source.name, source.weight, source.tfds) == ("in", 1, None)
    assert total_bytes([source]) == sum(map(len, ("a.txt", "b/c/x.txt", "b/wiki_00", "b/wiki_01")))


def test_the_record_of_a_corpus_is_no_text_and_a_file_of_that_name_is(folder):
    """A user's own corpus.json was left out without a word."""
    own = write(folder / "corpus.json", '{"text": "A text."}')
    assert own in parse_sources([str(folder)])[0].files
    text = write(folder / "corpus-00000.txt")
    (source,) = parse_sources([str(folder)])
    assert text in source.files
    assert own not in source.files


def test_files_and_folders_keep_their_order(folder):
    sources = parse_sources([str(folder / "b"), folder / "a.txt"])
    assert [source.name for source in sources] == ["b", "a.txt"]
    assert [source.name_of(source.files[0]) for source in sources] == ["c/x.txt", "a.txt"]


def test_globs_stand_for_what_they_match(folder):
    for pattern, name, expected in (
        ("b/wiki_0?", "wiki_0?", ["wiki_00", "wiki_01"]),
        ("*/wiki_0[1]", "*/wiki_0[1]", ["b/wiki_01"]),
        ("**/*.txt", "**/*.txt", ["a.txt", "b/c/x.txt"]),
        ("b*", "b*", ["b/c/x.txt", "b/wiki_00", "b/wiki_01"]),
    ):
        (source,) = parse_sources([f"{folder}/{pattern}@2"])
        assert source.name == name
        assert source.weight == 2
        assert [source.name_of(file) for file in source.files] == expected


def test_names_do_not_depend_on_where_the_text_lies(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for name, items in (("in", [str(folder), ".", "../in"]), ("a.txt", ["a.txt", str(folder / "a.txt"), "./a.txt"])):
        for item in items:
            (source,) = parse_sources([item])
            assert (source.name, source.name_of(source.files[0])) == (name, "a.txt")


def test_weights(folder):
    for text, weight in (("", 1), ("@2", 2), ("@0.25", 0.25), ("@1e1", 10), ("@.5", 0.5)):
        (source,) = parse_sources([f"{folder}{text}"])
        assert source.weight == weight
        assert source.name == "in"


def test_a_path_that_exists_is_that_path(tmp_path):
    """Whatever it looks like."""
    for name in ("a@2", "b[1].txt", "tfds:c", "d*"):
        file = write(tmp_path / name)
        (source,) = parse_sources([str(file)])
        assert (source.files, source.weight, source.name) == ((file,), 1, name)
    (source,) = parse_sources([str(tmp_path / "a@2@3")])
    assert (source.name, source.weight) == ("a@2", 3)


BAD_INPUTS = [
    (["absent"], "absent is missing: check --input"),
    (["absent.txt@2"], "absent.txt is missing: check --input"),
    (["a@b.txt"], "a@b.txt is missing, and 'b.txt' after its @ is not a weight"),
    (["in@0"], "'0' after its @ is not a weight"),
    (["in@-1"], "'-1' after its @ is not a weight"),
    (["in@nan"], "'nan' after its @ is not a weight"),
    (["in@inf"], "'inf' after its @ is not a weight"),
    (["in@"], "'' after its @ is not a weight"),
    (["none"], "none has no files in it"),
    (["in/*.json.gz"], "matches no file: check --input"),
    (["in", "in/a.txt"], "in/a.txt is given twice (as in/a.txt too): leave one out; to count its text twice give"),
    (["in/a.txt", "link"], "link is given twice (as in/a.txt too)"),
    (["empty.txt"], "empty.txt is empty: remove it or leave it out of --input"),
    (["pipe"], "pipe is not a regular file: write its text to a file first"),
]


@pytest.mark.parametrize(("items", "words"), BAD_INPUTS, ids=[" ".join(items) for items, _ in BAD_INPUTS])
def test_bad_input_is_refused_in_one_line(folder, monkeypatch, items, words):
    monkeypatch.chdir(folder.parent)
    Path("none").mkdir()
    write(Path("empty.txt"), "")
    Path("link").symlink_to("in/a.txt")
    os.mkfifo("pipe")
    with pytest.raises(UserError) as caught:
        parse_sources(items)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_linked_folders_are_read_and_their_circles_are_not(tmp_path):
    """A folder stands for all files below it, where they lie on another disk too."""
    write(tmp_path / "in" / "a.txt", "a")
    write(tmp_path / "far" / "b.txt", "b")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "far" / "here").symlink_to(tmp_path / "far")
    [source] = parse_sources([str(tmp_path / "in")])
    assert [str(file.relative_to(tmp_path / "in")) for file in source.files] == ["a.txt", "linked/b.txt"]


# ---- parts -------------------------------------------------------------------------------------------------


def groups(folder: Path, sizes: list[int], part_bytes: int) -> list[list[int]]:
    """The sizes of the files of each part."""
    for number, size in enumerate(sizes):
        write(folder / f"{number:03}", "x" * size)
    parts = plan_parts(parse_sources([str(folder)]), part_bytes)
    found = [[file.stat().st_size for file in part.files] for part in parts]
    assert [part.bytes for part in parts] == [sum(sizes) for sizes in found]
    assert [size for part in found for size in part] == sizes, "no file is lost, repeated or moved"
    return found


def test_files_are_put_together_until_they_make_a_part(tmp_path):
    assert groups(tmp_path / "a", [40, 40, 40, 50, 50, 30], 100) == [[40, 40, 40], [50, 50], [30]]
    assert groups(tmp_path / "b", [40, 40, 40, 20], 100) == [[40, 40, 40, 20]], "a small rest joins the part before"
    assert groups(tmp_path / "c", [10, 500, 10, 100, 80], 100) == [[10], [500], [10], [100], [80]], "large files alone"
    assert groups(tmp_path / "d", [5, 5], 100) == [[5, 5]]


def test_parts_of_weighted_sources(tmp_path):
    """Weight 2.25: two whole passes and a quarter of a third; parts are numbered over all sources."""
    for name in ("a", "b"):
        for number in range(3):
            write(tmp_path / name / str(number), "x" * 100)
    sources = parse_sources([f"{tmp_path}/a@2.25", f"{tmp_path}/b@0.5"])
    parts = plan_parts(sources, 150)
    assert [part.number for part in parts] == list(range(8))
    assert [(part.source, part.repetition, part.share, len(part.files)) for part in parts] == [
        *((0, 0, 1, 2), (0, 0, 1, 1), (0, 1, 1, 2), (0, 1, 1, 1), (0, 2, 0.25, 2), (0, 2, 0.25, 1)),
        *((1, 0, 0.5, 2), (1, 0, 0.5, 1)),
    ]


def test_parts_of_a_whole_number_of_passes_hold_each_document_as_often(tmp_path):
    names = [f"Document {number}." for number in range(60)]
    for number in range(6):
        write(tmp_path / "in" / str(number), "\n\n".join(names[number::6]))
    sources = parse_sources([f"{tmp_path}/in@3"])
    found = Counter(text for part in plan_parts(sources, 200) for text in texts(part, sources))
    assert found == dict.fromkeys(names, 3)


def test_a_share_is_chosen_by_the_text_alone(tmp_path):
    """However the text lies in files and parts, the same documents; more of them where the share is larger."""
    names = [f"Document {number}." for number in range(4_000)]
    write(tmp_path / "one" / "file", "\n\n".join(names))
    for number in range(8):
        write(tmp_path / "many" / str(number), "\n\n".join(names[number::8]))
    chosen: dict[str, set[str]] = {}
    for item in ("one@0.25", "many@0.25", "one@0.5", "one@1.25"):
        sources = parse_sources([f"{tmp_path}/{item}"])
        parts = [part for part in plan_parts(sources, 10_000) if part.share < 1]
        chosen[item] = {text for part in parts for text in texts(part, sources)}
    assert chosen["one@0.25"] == chosen["many@0.25"] == chosen["one@1.25"] < chosen["one@0.5"]
    for item, share in (("one@0.25", 0.25), ("one@0.5", 0.5)):
        four_standard_errors = 4 * (len(names) * share * (1 - share)) ** 0.5
        assert abs(len(chosen[item]) - share * len(names)) < four_standard_errors


def test_reading_a_part_tells_of_bytes_and_files(tmp_path):
    files = [write(tmp_path / "in" / str(number), f"Text {number}.\n\n\x01\n") for number in range(3)]
    sources = parse_sources([str(tmp_path / "in")])
    (part,) = plan_parts(sources, 10_000)
    part = pickle.loads(pickle.dumps(part))  # as it reaches a worker
    told, hashes, counts = [], {}, ReadingCounts()
    documents = read_part(part, sources, ReadingOptions(), counts, told.append, hashes.__setitem__)
    assert [document.lines for document in documents] == [[f"Text {number}."] for number in range(3)]
    assert sum(told) == part.bytes == sum(file.stat().st_size for file in files)
    assert hashes == {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert list(hashes) == files
    assert counts == ReadingCounts(control_lines=3, empty_documents=3)


def test_a_bad_file_in_a_part_is_named(tmp_path):
    write(tmp_path / "in" / "0")
    (tmp_path / "in" / "1").write_bytes(b"\xff")
    sources = parse_sources([str(tmp_path / "in")])
    (part,) = plan_parts(sources, 100)
    with pytest.raises(UserError, match=r"in/1 is not UTF-8"):
        texts(part, sources)
