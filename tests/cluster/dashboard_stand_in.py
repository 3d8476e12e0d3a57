"""A stand-in for a cluster's head: it answers as Ray 2.60's dashboard does, and notes what it is sent."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NODE = {"state": "ALIVE", "resources_total": {"CPU": 2.0, "memory": 1e9}}
VERSION = {"ray_version": "2.60.0"}


class StandIn(ThreadingHTTPServer):
    """A dashboard with this table of jobs; what it is sent, and with which token, is noted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode = "disabled"
        self.token = ""
        self.jobs: list[dict[str, Any]] = []
        self.answers: dict[str, tuple[int, str]] = {}
        self.redirects_to = ""
        self.sent: list[str] = []
        self.tokens: list[str | None] = []
        self.submitted: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, run: str, status: str, runs: Path, **more: Any) -> None:
        job = {"submission_id": run, "status": status, "start_time": 1000 * (1 + len(self.jobs))}
        job["metadata"] = {"footplate_run": run, "footplate_runs": str(runs)}
        job["driver_node_id"] = None if status == "PENDING" else "abc"
        self.jobs.append(job | more)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, str]:
        if path in self.answers:
            return self.answers[path]
        if path == "/api/authentication_mode":
            return 200, json.dumps({"authentication_mode": self.mode})
        if self.mode == "token" and self.tokens[-1] != f"Bearer {self.token}":
            return (403 if self.tokens[-1] else 401), "no"
        if method == "GET" and path.startswith("/api/jobs/"):
            name = path.removeprefix("/api/jobs/")
            named = [job for job in self.jobs if job["submission_id"] == name]
            return (200, json.dumps(named[0] if name else self.jobs)) if named or not name else (404, "no such")
        if method != "GET":
            self.sent.append(f"{method} {path}")
            if path == "/api/jobs/":
                self.submitted.append(json.loads(body))
                made = self.submitted[-1]
                of_it = {key: made[key] for key in ("entrypoint", "runtime_env")}
                self.add(
                    made["metadata"]["footplate_run"], "PENDING", Path(made["metadata"]["footplate_runs"]), **of_it
                )
            return 200, "{}"
        nodes = {"data": {"result": {"result": [NODE]}}}
        known = {"/api/version": VERSION, "/api/v0/nodes?limit=10000&timeout=10": nodes}
        return (200, json.dumps(known[path])) if path in known else (404, "no such")


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.append(self.headers.get("Authorization"))
        if self.server.redirects_to:
            self.send_response(302)
            self.send_header("Location", self.server.redirects_to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        code, text = self.server.answer(self.command, self.path, body)
        self.send_response(code)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_PUT = do_POST = do_GET

    def log_message(self, *arguments: Any) -> None:
        """Nothing on the screen."""


def serve() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
