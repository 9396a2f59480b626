# SPDX-License-Identifier: Apache-2.0
"""A stage that stays: JSON lines on standard input, each answered by a line at once, nothing loaded anew.

A request is an object; its `id`, any JSON value, comes back with the answer. What cannot be answered gets
`{"id": ..., "line": 3, "error": "..."}`, and the next line is read. The end of the input ends the stage.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TextIO

from bert_jax.base.errors import UserError
from bert_jax.base.files import parse_json
from bert_jax.base.types import JsonObject

LONGEST_REQUEST = 256 * 1024  # bytes of a line; what is longer is read over, never held

HELP = (
    'stay, and answer JSON lines of standard input one by one: {"id": ..., %s} -> {"id": ..., "line": ..., ...}, or "error" in'
    f" the place of an answer; a line has {LONGEST_REQUEST:,} bytes at most"
)


def serve(answer: Callable[[JsonObject], JsonObject], requests: IO[bytes], answers: TextIO) -> None:
    """Answer every line until the input ends.

    Args:
      answer: a request without its id -> what is told besides id and line; UserError where it cannot be answered.
      requests: JSON lines.
      answers: gets a line for each, flushed.
    """
    for number, raw in enumerate(_bounded_lines(requests), start=1):
        told: JsonObject = {"id": None, "line": number}
        try:
            request = _request(raw)
            told["id"] = _finite(request.pop("id", None))
            told |= answer(request)
        except UserError as error:
            told["error"] = " ".join(str(error).split())
        answers.write(json.dumps(told, ensure_ascii=False) + "\n")
        answers.flush()


def _bounded_lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    """Yield the lines; None in the place of one that is too long."""
    while raw := stream.readline(LONGEST_REQUEST + 1):
        if len(raw.removesuffix(b"\n")) <= LONGEST_REQUEST and (raw.endswith(b"\n") or len(raw) <= LONGEST_REQUEST):
            yield raw
            continue
        while raw and not raw.endswith(b"\n"):
            raw = stream.readline(LONGEST_REQUEST)
        yield None


def _request(raw: bytes | None) -> JsonObject:
    if raw is None:
        raise UserError(f"the line is longer than {LONGEST_REQUEST:,} bytes: send shorter texts")
    if not raw.strip():
        raise UserError("the line is empty: send one object a line")
    try:
        return dict(parse_json(raw.decode()))
    except UnicodeDecodeError as error:
        raise UserError(f"the line is not UTF-8 at its byte {error.start}: convert it") from None
    except ValueError as error:
        raise UserError(f"the line is not JSON of use here: {error}: send one object a line") from None


def _finite(name: object) -> object:
    """An id that JSON can spell again."""
    try:
        json.dumps(name, allow_nan=False)
    except ValueError:
        raise UserError('"id" holds a number that is not finite: send another one') from None
    return name


def texts_of(request: JsonObject, needed: Sequence[str], optional: Sequence[str] = ()) -> list[str]:
    """Return the texts of a request under these names, as far as they are there.

    Raises:
      UserError: one is missing or no text, or there is another name.
    """
    names = " and ".join(f'"{name}"' for name in (*needed, *optional))
    for name in needed:
        if name not in request:
            raise UserError(f'the request has no "{name}": send {names}')
    for name, value in request.items():
        if name not in (*needed, *optional):
            raise UserError(f'"{name}" is not known: send {names}')
        if not isinstance(value, str):
            raise UserError(f'"{name}" is no text: send {names} as texts')
    return [request[name] for name in (*needed, *optional) if name in request]
