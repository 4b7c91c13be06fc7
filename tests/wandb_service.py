"""A server on the loopback that answers as W&B's does to a run that begins, until it is told to be away."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG = 0
BUCKET = {
    "id": "bucket",
    "name": "run",
    "displayName": "run",
    "description": "",
    "config": "{}",
    "sweepName": None,
    "historyLineCount": 0,
    "project": {"id": "project", "name": "project", "entity": {"id": "entity", "name": "entity"}},
}


@dataclass
class Service:
    """What the server does.

    Args:
        status: of every answer; 200 answers, `HANG` never does.
        port: where it listens.
        asked: what it was asked, request by request.
    """

    status: int
    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def answer(self, body: str) -> dict[str, Any]:
        """The data of a query, by what it names."""
        if "UpsertBucket" in body:
            name = json.loads(body)["variables"]["name"]
            return {"upsertBucket": {"bucket": {**BUCKET, "name": name}, "inserted": True}}
        if "CreateRunFiles" in body:
            return {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": []}}
        return {"model": None}


@contextmanager
def serving(status: int) -> Iterator[Service]:
    """A service on a free port."""
    service, ended = Service(status), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
            service.asked.append(f"{self.path} {body}")
            if service.status == HANG:
                ended.wait()
                return
            content = json.dumps({"data": service.answer(body)}).encode()
            self.send_response(service.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST

        def log_message(self, *_: object) -> None:
            """Nothing: pytest's output stays clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
