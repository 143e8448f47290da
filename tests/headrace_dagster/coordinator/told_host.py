"""A server in the place of an engine host: it tells what a test has it tell."""

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

PLACES = ("GPU-a0", "GPU-a1")


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class ToldHost:
    """Nobody listens at its socket before the first `tell`, and after `close`."""

    def __init__(self, socket_file: Path) -> None:
        self.socket_file = socket_file
        self._body: Any = {}
        self._empties = False
        self._server: _Server | None = None

    def tell(self, body: Any, *, empties: bool = False) -> None:
        """Args: empties: whether a place that is to be emptied then has no models."""
        self._body, self._empties = body, empties
        if not self._server:
            host = self

            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    told = json.dumps(host._body).encode()
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(told)))
                    self.end_headers()
                    self.wfile.write(told)

                def do_DELETE(self) -> None:
                    if host._empties:
                        place = unquote(self.path.split("/")[2])
                        rows = [row for row in host._body["data"] if row["place"] != place]
                        host._body = host._body | {"data": rows}
                    self.do_GET()

                def address_string(self) -> str:
                    return "a coordinator"

                def log_message(self, format: str, *arguments: object) -> None: ...  # noqa: A002

            self._server = _Server(str(self.socket_file), Handler)
            threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self.socket_file.unlink()
            self._server = None
