"""The functions' start under the real runtime client as in an image on AWS, where `_HANDLER` is there and blank."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lambda_host import host_environment


class RuntimeApi(ThreadingHTTPServer):
    """What AWS Lambda is to a container; it has no event to give."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.calls: list[tuple[str, bytes]] = []


class _Answers(BaseHTTPRequestHandler):
    server: RuntimeApi

    def do_GET(self) -> None:
        self._answer(410)

    def do_POST(self) -> None:
        self._answer(202)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.calls.append((self.path, content))
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()


@contextmanager
def runtime_api() -> Iterator[RuntimeApi]:
    with RuntimeApi() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("handler", ["facewire_lambda.dead_letters.dead_letters", "fr_lambda.lambda_handler"])
def test_what_is_wrong_with_the_settings_is_known_before_the_first_event(handler: str) -> None:
    with runtime_api() as api:
        address = f"127.0.0.1:{api.server_address[1]}"
        told = {"_HANDLER": "", "AWS_LAMBDA_RUNTIME_API": address, "FACEWIRE_RESULTS_DAYS": "many"}
        command = [sys.executable, "-m", "awslambdaric", handler]
        client = subprocess.run(command, env=host_environment(told), capture_output=True, timeout=30, check=False)
    [(path, said)] = api.calls
    assert path.endswith("/runtime/init/error"), client.stdout
    assert b'"errorType": "SettingsError"' in said
    assert b"results_days" in said
