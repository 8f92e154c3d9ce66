"""The HTTP side: reads requests whole, keeps connections open, sends exact lengths, and ends without leaving anything."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from steerguard.testing.loopback_hub.account_routes import ROUTES as ACCOUNT_ROUTES
from steerguard.testing.loopback_hub.commit_routes import ROUTES as COMMIT_ROUTES
from steerguard.testing.loopback_hub.file_routes import ROUTES as FILE_ROUTES
from steerguard.testing.loopback_hub.journal import Exchange, Journal
from steerguard.testing.loopback_hub.large_file_routes import Parts, large_file_routes
from steerguard.testing.loopback_hub.messages import Answer, Request, json_answer, refusal_answer
from steerguard.testing.loopback_hub.refusals import Refusal, bad_request
from steerguard.testing.loopback_hub.routes import Site, answer, query_of

MAX_BODY_BYTES = 4 * 1024**3
SLOW_STEPS = 20
JOIN_SECONDS = 10.0


class HubServer(ThreadingHTTPServer):
    """A threaded server that knows its connections, so that closing it ends all of them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], site: Site, journal: Journal) -> None:
        self.site = site
        self.journal = journal
        self.routes = (*ACCOUNT_ROUTES, *FILE_ROUTES, *COMMIT_ROUTES, *large_file_routes(Parts()))
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._serving: threading.Thread | None = None
        super().__init__(address, HubHandler)

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._serving = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, name="loopback-hub", daemon=True
        )
        self._serving.start()

    def stop(self) -> None:
        """End all connections and threads and free the port."""
        self.closing.set()
        if self._serving is not None:
            self.shutdown()
            self._serving.join()
        with self._lock:
            connections = dict(self._open)
        for connection in connections.values():
            end(connection)
        for thread in connections:
            thread.join(JOIN_SECONDS)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection in a thread that is remembered until it ends."""
        thread = threading.Thread(
            target=self._serve_connection, args=(request, client_address), name="loopback-hub-connection", daemon=True
        )
        with self._lock:
            self._open[thread] = request
        thread.start()

    def handle_error(self, request: Any, client_address: Any) -> NoReturn:  # noqa: ARG002 - the base class's signature
        """Let an error of the hub itself end the thread, where it is seen."""
        raise  # noqa: PLE0704 - called while the error is handled

    def _serve_connection(self, request: Any, client_address: Any) -> None:
        try:
            self.process_request_thread(request, client_address)
        finally:
            with self._lock:
                del self._open[threading.current_thread()]


class HubHandler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "LoopbackHub/1"
    sys_version = ""
    disable_nagle_algorithm = True
    server: HubServer

    def handle(self) -> None:
        """Serve requests until the client, or the hub, ends the connection."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Print nothing: requests are recorded."""

    def respond(self) -> None:
        """Answer one request; a path or header never decides before the body is read."""
        split = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        site = self.server.site
        request = Request(self.command, split.path, query_of(split.query), headers, b"", None)
        lost = False
        try:
            body = self._body(headers)
            request = Request(self.command, split.path, request.query, headers, body, None)
            refused = site.faults.refusal(request)
            user = None if refused else site.users.of_header(headers.get("authorization"))
            request = Request(self.command, split.path, request.query, headers, body, user)
            reply = refused or answer(site, self.server.routes, request)
            lost = refused is None and site.faults.take(request, "lost") is not None
        except Refusal as refusal:
            reply = refusal_answer(refusal)
        except ConnectionError:
            raise
        except OSError as problem:
            reply = json_answer({"error": f"The hub could not keep it: {type(problem).__name__}"}, status=507)
        self.server.journal.add(
            Exchange(
                method=request.method,
                path=unquote(split.path),
                query=split.query if "ticket=" not in split.query else "",
                range=headers.get("range"),
                user=request.user.name if request.user else None,
                status=None if lost else reply.status,
            )
        )
        dropped = lost or not self._send(request, reply)
        if dropped:
            self.close_connection = True
            end(self.connection)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond  # noqa: N815 - the names are the base class's

    def _body(self, headers: Mapping[str, str]) -> bytes:
        """The whole body, by its length or in chunks."""
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return self._chunks()
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise bad_request("The length of the body is not a number that the hub accepts")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise ConnectionAbortedError("the client went away")
        return body

    def _chunks(self) -> bytes:
        chunks: list[bytes] = []
        total = 0
        while True:
            line = self.rfile.readline(64).split(b";")[0].strip()
            size = int(line, 16) if line and all(digit in b"0123456789abcdefABCDEF" for digit in line) else -1
            if size < 0 or total + size > MAX_BODY_BYTES:
                self.close_connection = True
                raise bad_request("A chunk of the body has no proper size")
            if size == 0:
                while self.rfile.readline(65536).strip():
                    pass
                return b"".join(chunks)
            chunks.append(self.rfile.read(size))
            total += size
            self.rfile.readline(8)

    def _send(self, request: Request, reply: Answer) -> bool:
        """Send an answer; False where a fault cut it off."""
        self.send_response_only(reply.status)
        headers = {"Server": self.version_string(), "Date": formatdate(usegmt=True), **reply.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if request.method == "HEAD":
            return True
        faults = self.server.site.faults
        cut = faults.take(request, "drop")
        slow = faults.take(request, "slow")
        body = reply.body
        if cut is not None:
            body = body[: len(body) // 2 if cut.at is None else cut.at]
        self._write(body, seconds=slow.seconds if slow else 0.0)
        return cut is None

    def _write(self, body: bytes, *, seconds: float) -> None:
        steps = SLOW_STEPS if seconds else 1
        size = max(1, -(-len(body) // steps))
        for start in range(0, max(len(body), 1), size):
            if seconds and self.server.closing.wait(seconds / steps):
                raise ConnectionAbortedError("the hub is closing")
            self.wfile.write(body[start : start + size])


def end(connection: socket.socket) -> None:
    """End a connection in both directions; one that is over already stays so."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError as problem:
        if problem.errno not in {errno.ENOTCONN, errno.EBADF}:
            raise
