# SPDX-License-Identifier: Apache-2.0
"""`--serve`: a line in, a line out, whatever comes; in predict, embed and fill-mask the same answers as without it."""

import io
import json
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from conversion_samples import KINDS, write_hugging_face

from bert_jax.base.errors import UserError
from bert_jax.base.serving import LONGEST_REQUEST, serve, texts_of
from bert_jax.cli import main


def served(lines, answer=lambda request: {"sum": sum(request["numbers"])}):
    """The answers to lines, bytes or objects."""
    raw = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    answers = io.StringIO()
    serve(answer, io.BytesIO(raw), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_each_line_is_answered_with_its_id():
    found = served([{"id": "a", "numbers": [1, 2]}, {"numbers": [3]}, {"id": {"page": 7}, "numbers": []}])
    assert found == [
        {"id": "a", "line": 1, "sum": 3},
        {"id": None, "line": 2, "sum": 3},
        {"id": {"page": 7}, "line": 3, "sum": 0},
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json\n", "not JSON of use here"),
        (b"[1]\n", "a list, not an object"),
        (b"\n", "is empty"),
        (b'{"id": 1, "id": 2}\n', "twice"),
        (b'{"text": "\xff"}\n', "not UTF-8 at its byte 10"),
        (b'{"text": "\\ud83d"}\n', "half a character"),
        (b'{"id": 1e999}\n', "not finite"),
        (b"[" * 100_000 + b"\n", "nested deeper"),
        (b'{"text": "' + b"a" * 2**20 + b'"}\n', "longer than 262,144 bytes"),
        (b'{"text": "' + b"a" * 2**20, "longer than 262,144 bytes"),
    ],
)
def test_a_bad_line_is_answered_and_the_next_ones_are_read(line, message):
    following = [] if not line.endswith(b"\n") else [{"id": 5, "numbers": [1]}]
    first, *rest = served([line, *following])
    assert message in first["error"]
    assert first["line"] == 1
    assert rest == [{"id": 5, "line": 2, "sum": 1} for _ in following]


def test_what_a_request_may_not_say_is_an_error_with_its_id():
    def answer(request):
        return {"text": texts_of(request, ("text",), ("pair",))}

    found = served(
        [{"id": 1, "txt": "a"}, {"id": 2, "text": "a", "more": "b"}, {"id": 3, "text": 7}, {"text": "a"}], answer
    )
    assert [one.get("id") for one in found] == [1, 2, 3, None]
    assert ['has no "text"' in found[0]["error"], '"more" is not known' in found[1]["error"]] == [True, True]
    assert '"text" is no text' in found[2]["error"]
    assert found[3]["text"] == ["a"]


def test_a_line_of_many_megabytes_is_never_held():
    class Endless(io.RawIOBase):
        """64 MiB without a line feed, made as they are read."""

        left = 64 * 2**20

        def readable(self):
            return True

        def readinto(self, buffer):
            size = min(len(buffer), self.left)
            buffer[:size] = b"a" * size
            self.left -= size
            return size

    answers = io.StringIO()
    tracemalloc.start()
    serve(lambda request: {}, io.BufferedReader(Endless()), answers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "longer than" in answers.getvalue()
    assert peak < 8 * LONGEST_REQUEST


# ---- the stages ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint with every head of pre-training."""
    return write_hugging_face(tmp_path_factory.mktemp("serving") / "model", KINDS["pretraining"])


def ask(monkeypatch, capsys, arguments, requests):
    text = "".join(json.dumps(request) + "\n" for request in requests).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))
    capsys.readouterr()
    assert main([*map(str, arguments), "--serve"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_embed_gives_the_vectors_that_it_writes_to_files(model, tmp_path, monkeypatch, capsys):
    texts = ["a b c", "the of", "z"]
    (tmp_path / "lines").write_text("".join(f"{text}\n" for text in texts))
    assert main(["embed", str(model), "--input", str(tmp_path / "lines"), "--output", str(tmp_path / "out.npz")]) == 0
    wanted = np.load(tmp_path / "out.npz")["embeddings"]
    long = {"id": "long", "text": "a " * 99}
    found = ask(
        monkeypatch, capsys, ["embed", model], [*({"id": n, "text": text} for n, text in enumerate(texts)), long]
    )
    np.testing.assert_allclose([one["vector"] for one in found[:3]], wanted, atol=1e-6)
    assert [one["id"] for one in found] == [0, 1, 2, "long"]
    assert "tokens long" in found[3]["error"]


def test_fill_mask_gives_what_it_prints(model, monkeypatch, capsys):
    assert main(["fill-mask", str(model), "a [MASK] c", "--json", "--top-k", "2"]) == 0
    wanted = json.loads(capsys.readouterr().out)
    found = ask(
        monkeypatch, capsys, ["fill-mask", model, "--top-k", 2], [{"id": 1, "text": "a [MASK] c"}, {"text": "a"}]
    )
    assert [slot["entries"][0]["token"] for slot in found[0]["masks"]] == [wanted["masks"][0]["entries"][0]["token"]]
    assert found[0]["masks"][0]["entries"][0]["probability"] == pytest.approx(
        wanted["masks"][0]["entries"][0]["probability"]
    )
    assert "has no [MASK] to fill" in found[1]["error"]


def test_a_process_answers_while_its_input_is_open_and_stops_like_other_stages(model):
    """Each answer comes before the next request is sent; SIGTERM while it waits ends it with a line and 143."""
    command = [sys.executable, "-m", "bert_jax.cli", "embed", str(model), "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for number in range(3):
            process.stdin.write(json.dumps({"id": number, "text": "a b"}).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == number
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.decode().startswith("bert-jax embed: interrupted by SIGTERM")


def test_texts_of_refuses_what_is_no_text():
    with pytest.raises(UserError, match='send "text" and "pair"'):
        texts_of({}, ("text",), ("pair",))
