# SPDX-License-Identifier: Apache-2.0
"""Text on Hugging Face's hub, whose answers a server of this process gives (its HTTP API: dataset_info and resolve)."""

import hashlib
import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import made_up_text, run_stage

from bert_jax.base.errors import TryAgain, UserError
from bert_jax.feed.shards import open_data
from bert_jax.text.sources import parse_sources

COMMITS = {"main": "a" * 40, "refs/convert/parquet": "b" * 40}
NAME = "/api/datasets/somebody/words"


class Hub(BaseHTTPRequestHandler):
    """One data set of two commits, each with files of its own; one that may not be read; one that breaks."""

    files: ClassVar[dict[str, dict[str, bytes]]] = {}

    def do_GET(self):
        self.answer(body=True)

    def do_HEAD(self):
        self.answer(body=False)

    def answer(self, body: bool):
        path = self.path.replace("%2F", "/").partition("?")[0]
        if path.startswith("/datasets/somebody/words/resolve/"):
            commit, _, file = path.removeprefix("/datasets/somebody/words/resolve/").partition("/")
            return self.send(
                200,
                self.files[commit][file],
                body,
                {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(self.files[commit][file]).hexdigest()}"'},
            )
        if path.startswith("/api/datasets/somebody/broken"):
            return self.send(503, b"", body)
        if path == NAME or path.startswith(f"{NAME}/revision/"):
            revision = path.removeprefix(f"{NAME}/revision/") if path != NAME else "main"
            commit = COMMITS.get(revision, revision)
            if commit not in self.files:
                return self.send(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": file} for file in self.files[commit]]
            return self.send(
                200, json.dumps({"id": "somebody/words", "sha": commit, "siblings": siblings}).encode(), body
            )
        if path.startswith(f"{NAME}/tree/"):
            commit = path.removeprefix(f"{NAME}/tree/").partition("/")[0]
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in self.files[commit].items()
            ]
            return self.send(200, json.dumps(tree).encode(), body)
        return self.send(401, b"", body, {"X-Error-Code": "RepoNotFound"})

    def send(self, status: int, content: bytes, body: bool, headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in (
            {"Content-Length": str(len(content)), "Content-Type": "application/json"} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object):
        """Nothing on the terminal."""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with somebody/words: text on `main`, the same as Parquet on the hub's own branch."""
    texts = made_up_text(30).strip().split("\n\n")
    pa.parquet.write_table(pa.table({"text": texts}), tmp_path / "t.parquet")
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    Hub.files = {
        COMMITS["main"]: {
            "README.md": b"# Words\n",
            "data/train-0.jsonl": "".join(lines[:20]).encode(),
            "data/train-1.jsonl": "".join(lines[20:]).encode(),
        },
        COMMITS["refs/convert/parquet"]: {"default/train/0000.parquet": (tmp_path / "t.parquet").read_bytes()},
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = partial(huggingface_hub.HfApi, endpoint=f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub, "HfApi", here)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


def test_files_of_a_data_set_are_a_source(hub):
    """Those of a pattern, in sorted order, of one commit, which the name tells; with a weight, as any source."""
    (source,) = parse_sources(["hf://datasets/somebody/words/data/train-*.jsonl@2"])
    assert source.weight == 2
    assert source.name == f"hf://datasets/somebody/words@{'a' * 40}/data/train-*.jsonl"
    assert [source.name_of(file) for file in source.files] == ["data/train-0.jsonl", "data/train-1.jsonl"]
    assert [file.read_bytes() for file in source.files] == list(Hub.files["a" * 40].values())[1:]


@pytest.mark.parametrize(
    ("files", "found"),
    [("data/train-1.jsonl", 1), ("*/*.jsonl", 2), ("data/train-[0-9].jsonl", 2), ("*", 1)],
)
def test_a_star_stays_inside_a_folder(hub, files, found):
    """As in the hub's own file system. The bug: `*` of fnmatch, which takes the files of every folder below."""
    (source,) = parse_sources([f"hf://datasets/somebody/words/{files}"])
    assert len(source.files) == found


def test_prepared_data_is_that_of_the_same_text_here(hub, prepared, tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b"".join(list(Hub.files["a" * 40].values())[1:]))
    found = []
    on_hub = "hf://datasets/somebody/words"
    for number, item in enumerate(
        (tmp_path / "t.jsonl", f"{on_hub}/data/*", f"{on_hub}@~parquet/default/train/*.parquet")
    ):
        options = ("--sequence-length", 16, "--workers", 1, "--licence", "CC0")
        run_stage(
            "prepare", "--input", item, "--vocab", prepared.vocab, "--output", tmp_path / f"data-{number}", *options
        )
        found.append(open_data(tmp_path / f"data-{number}"))
    assert len({data.fingerprint for data in found}) == 1
    assert found[2].manifest["sources"][0]["source"] == f"{on_hub}@{'b' * 40}/default/train/*.parquet"


@pytest.mark.parametrize(
    ("item", "error", "said"),
    [
        ("hf://somebody/words/data/*", UserError, "is hf://datasets/OWNER/NAME/FILES"),
        ("hf://datasets/somebody/words", UserError, "is not of the form"),
        (
            "hf://datasets/somebody/words/*.txt",
            UserError,
            "matches no file: that data set has README.md, data/train-0.jsonl",
        ),
        ("hf://datasets/somebody/words/**/*.jsonl", UserError, "(**) are not looked up"),
        ("hf://datasets/somebody/words@old/data/*", UserError, "check what follows the @"),
        ("hf://datasets/somebody/secret/data/*", UserError, "log in by hf auth login"),
        ("hf://datasets/somebody/broken/data/*", TryAgain, "the hub cannot be reached"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(hub, item, error, said):
    with pytest.raises(error) as caught:
        parse_sources([item])
    assert type(caught.value) is error
    for part in (item, said):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_that_is_not_there(hub, monkeypatch):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(TryAgain, match="cannot be reached"):
        parse_sources(["hf://datasets/somebody/words/data/*"])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        parse_sources(["hf://datasets/somebody/words/data/*"])
