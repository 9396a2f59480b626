# SPDX-License-Identifier: Apache-2.0
"""A Cloud Storage of this machine, in memory, that fails where a test asks for it."""

import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import HTTPServer
from urllib.parse import parse_qs, unquote, urlparse

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

BUCKET = "bkt"


class Emulator:
    """The server in a thread. `fail` and `hide` say how it treats requests; `seen` is how many it has answered."""

    def __init__(self) -> None:
        self._storage = Storage(use_memory_fs=True)
        buckets.create_bucket(BUCKET, self._storage)
        self._rules: list[Callable[[str, str], int | None]] = []
        self.seen: list[tuple[str, str]] = []
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self._thread = threading.Thread(target=self._server.serve_forever, name="emulator", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def status_for(self, method: str, path: str) -> int | None:
        """The status that a rule answers a request with; None: the answer is the emulator's own."""
        self.seen.append((method, path))
        return next((status for rule in self._rules if (status := rule(method, path)) is not None), None)

    @contextmanager
    def fail(
        self, status: int, times: int, *, methods: str = "GET POST PUT", name: str = "", after: int = 0
    ) -> Iterator[list[str]]:
        """Answer the next requests of these methods whose path has `name` in it, all but the first `after`, with an error;
        yields those that were."""
        failed: list[str] = []
        passed: list[str] = []

        def rule(method: str, path: str) -> int | None:
            if method not in methods.split() or name not in path or len(failed) >= times:
                return None
            if len(passed) < after:
                passed.append(path)
                return None
            failed.append(f"{method} {path}")
            return status

        self._rules.append(rule)
        try:
            yield failed
        finally:
            self._rules.remove(rule)

    @contextmanager
    def hide(self, name: str, seconds: float) -> Iterator[None]:
        """Have an object appear late: for so long it is not there when it is asked for."""
        end = time.monotonic() + seconds

        def rule(method: str, path: str) -> int | None:
            return 404 if method == "GET" and name in path and time.monotonic() < end else None

        self._rules.append(rule)
        try:
            yield
        finally:
            self._rules.remove(rule)


class _Server(HTTPServer):
    request_queue_size = 512  # Orbax opens many connections at once


class _Handler(RequestHandler):
    def __init__(self, emulator: Emulator, *arguments: object):
        self._emulator = emulator
        super().__init__(emulator._storage, *arguments)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):  # who asked was killed
            self.close_connection = True

    def _answer(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # who sent it was killed: nothing is stored of it
            self.close_connection = True
            return
        self.rfile = io.BytesIO(body)
        status = self._emulator.status_for(method, unquote(self.path)) or self._precondition(body)
        if status is None:
            getattr(super(), f"do_{method}")()
        else:
            self._refuse(status)

    def _refuse(self, status: int) -> None:
        body = json.dumps({"error": {"code": status, "message": "as the test asked for"}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    # ---- what Cloud Storage does and the emulator does not -----------------------------------------------------------

    def _precondition(self, body: bytes) -> int | None:
        """An object is written only if it is still of the generation that is named; 0: if it is not there yet."""
        wanted = parse_qs(urlparse(self.path).query).get("ifGenerationMatch")
        return 412 if wanted and wanted[0] != self._generation(body) else None

    def _generation(self, body: bytes = b"") -> str:
        """The generation of the object that a request is of; 0: there is none."""
        address = urlparse(self.path)
        in_path = address.path.partition("/o/")[2]
        in_query = parse_qs(address.query).get("name", [""])[0]
        in_body = re.search(rb'"name": *"([^"]+)"', body)
        name = unquote(in_path) or in_query or (in_body[1].decode() if in_body else "")
        try:
            return self.storage.get_file_obj(BUCKET, name)["generation"]
        except NotFound:
            return "0"

    def end_headers(self) -> None:
        if self.command == "GET" and "alt=media" in self.path:
            self.send_header("X-Goog-Generation", self._generation())
        super().end_headers()

    def do_GET(self) -> None:  # noqa: N802
        self._answer("GET")

    def do_POST(self) -> None:  # noqa: N802
        self._answer("POST")

    def do_PUT(self) -> None:  # noqa: N802
        self._answer("PUT")

    def do_DELETE(self) -> None:  # noqa: N802
        self._answer("DELETE")

    def do_PATCH(self) -> None:  # noqa: N802
        self._answer("PATCH")
