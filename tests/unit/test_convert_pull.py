import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from facewire.conversion.graph import GraphBuilder
from facewire.conversion.pull import PullError, pull, pull_spec
from facewire.domain.errors import ModelError
from facewire.vision.embedder import EmbedderSpec
from facewire.vision.models import find_spec, shipped_models_dir

FILE = "/sface.onnx"


class Server(ThreadingHTTPServer):
    """Serves one file; `cut` closes the connection after so many bytes, `ranges` says which were asked for."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.cut: int | None = None
        self.ranged = True
        self.ranges: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        if self.path == "/moved":
            self._head(302, 0, {"Location": FILE})
        elif self.path != FILE:
            self._head(404, 0, {})
        else:
            self._send(int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranged else 0)

    def _send(self, start: int) -> None:
        body = self.server.content[start:]
        self._head(206 if start else 200, len(body), {})
        self.wfile.write(body[: self.server.cut])
        self.close_connection = True

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    graph = GraphBuilder("small")
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [graph.input("input", ["n", 3, 112, 112])])])
    weights = np.random.default_rng(0).standard_normal((128, 3))
    graph.output(graph.dense(x, weights, np.zeros(128)), ["n", 128])
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    graph.save(path)
    return path.read_bytes()


@pytest.fixture
def server(model: bytes) -> Iterator[Server]:
    with Server(model) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,), name="http")
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture
def spec(server: Server, model: bytes) -> EmbedderSpec:
    return replace(
        find_spec("sface"),
        source=f"http://127.0.0.1:{server.server_port}{FILE}",
        source_bytes=len(model),
        source_sha256=hashlib.sha256(model).hexdigest(),
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_model_is_fetched_checked_and_put_into_place(spec: EmbedderSpec, model: bytes, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    path = pull_spec(spec, tmp_path / "models", progress=lambda done, total: steps.append((done, total)))
    assert path == tmp_path / "models" / "sface.onnx"
    assert path.read_bytes() == model
    assert names(path.parent) == ["sface.onnx"]
    assert steps[-1] == (len(model), len(model))


def test_an_interrupted_download_goes_on_where_it_stopped(
    spec: EmbedderSpec, server: Server, model: bytes, tmp_path: Path
) -> None:
    server.cut = 1000
    with pytest.raises(PullError, match="facewire models pull sface --from FILE"):
        pull_spec(spec, tmp_path)
    assert (tmp_path / "sface.onnx.download").stat().st_size == 1000
    server.cut = None
    assert pull_spec(spec, tmp_path).read_bytes() == model
    assert server.ranges == [None, "bytes=1000-"]


def test_a_server_without_ranges_starts_again(spec: EmbedderSpec, server: Server, model: bytes, tmp_path: Path) -> None:
    (tmp_path / "sface.onnx.download").write_bytes(b"something else")
    server.ranged = False
    assert pull_spec(spec, tmp_path).read_bytes() == model


def test_a_redirect_is_followed(spec: EmbedderSpec, model: bytes, tmp_path: Path) -> None:
    moved = replace(spec, source=spec.source.replace(FILE, "/moved"))
    assert pull_spec(moved, tmp_path).read_bytes() == model


def test_a_file_of_another_sha256_is_deleted(spec: EmbedderSpec, tmp_path: Path) -> None:
    with pytest.raises(PullError, match="must have 0000") as caught:
        pull_spec(replace(spec, source_sha256="0" * 64), tmp_path)
    assert caught.value.code == "wrong_sha256"
    assert names(tmp_path) == []


def test_more_than_the_registered_size_is_not_written(spec: EmbedderSpec, tmp_path: Path) -> None:
    with pytest.raises(PullError) as caught:
        pull_spec(replace(spec, source_bytes=10), tmp_path)
    assert caught.value.code == "wrong_sha256"
    assert names(tmp_path) == []


def test_a_missing_page_and_a_refused_connection_say_what_to_do(spec: EmbedderSpec, tmp_path: Path) -> None:
    for source in (spec.source + "x", "http://127.0.0.1:1/sface.onnx"):
        with pytest.raises(PullError, match="facewire models pull sface --from FILE") as caught:
            pull_spec(replace(spec, source=source), tmp_path)
        assert caught.value.code == "not_fetched"
        assert source in caught.value.detail
        assert "\n" not in caught.value.detail
    assert names(tmp_path) == []


def test_a_model_made_of_a_package_says_of_which(spec: EmbedderSpec, tmp_path: Path) -> None:
    with pytest.raises(PullError, match="facewire models pull sface --from FILE") as caught:
        pull_spec(replace(spec, source="the package faces 1.0"), tmp_path)
    assert caught.value.code == "not_fetched"
    assert "the package faces 1.0" in caught.value.detail
    assert names(tmp_path) == []


def test_what_is_here_is_not_fetched_again_unless_it_is_damaged(
    spec: EmbedderSpec, server: Server, model: bytes, tmp_path: Path
) -> None:
    registered = replace(spec, sha256=spec.source_sha256)
    for _ in range(2):
        assert pull_spec(registered, tmp_path).read_bytes() == model
    assert len(server.ranges) == 1
    (tmp_path / "sface.onnx").write_bytes(b"damaged")
    assert pull_spec(registered, tmp_path).read_bytes() == model
    assert len(server.ranges) == 2


def test_a_file_at_hand_is_taken_without_network(spec: EmbedderSpec, model: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(model)
    offline = replace(spec, source="http://127.0.0.1:1/")
    assert pull_spec(offline, tmp_path / "models", source=tmp_path / "mine.onnx").read_bytes() == model
    assert (tmp_path / "mine.onnx").is_file(), "the user's file stays"


def test_a_file_that_is_not_the_registered_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(b"something else")
    with pytest.raises(PullError, match="has sha256") as caught:
        pull("sface", tmp_path / "models", source=tmp_path / "mine.onnx")
    assert caught.value.code == "wrong_sha256"
    assert names(tmp_path / "models") == []


def test_weights_that_are_not_facenets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.pt").write_bytes(b"something else")
    with pytest.raises(PullError, match="cannot be used as facenet-vggface2"):
        pull("facenet-vggface2", tmp_path / "models", source=tmp_path / "mine.pt")
    assert names(tmp_path / "models") == []


def test_a_file_or_folder_that_cannot_be_used_is_named(spec: EmbedderSpec, tmp_path: Path) -> None:
    with pytest.raises(PullError, match=r"none\.onnx: No such file"):
        pull_spec(spec, tmp_path, source=tmp_path / "none.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(PullError, match="file"):
        pull_spec(spec, tmp_path / "file")


def test_what_ships_and_what_is_unknown() -> None:
    assert pull("dlib-resnet29") == shipped_models_dir() / "dlib-resnet29.onnx"
    with pytest.raises(ModelError, match="there is no embedder 'none'"):
        pull("none")
