"""A server on loopback that answers everything alike: what stands where another service should."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def answering(
    status: int | Callable[[], int], body: str | Callable[[str], str] = "", *, heard: list[bytes] | None = None
) -> Iterator[str]:
    """Its URL. `heard` gets what was sent to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if heard is not None:
                heard.append(said)
            raw = (body if isinstance(body, str) else body(self.path)).encode()
            self.send_response(status if isinstance(status, int) else status())
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 (the base class names them so)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
