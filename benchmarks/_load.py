"""Load on a running Facewire over HTTP or MQTT, and the answers with their times; as light as Python allows.

The load shares the cores with what it measures, so it is plain sockets and threads, no client framework.
"""

import base64
import http.client
import itertools
import json
import queue
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

Answer = tuple[float, dict[str, Any]]


class Way(Protocol):
    """One way to send a frame and to hear its answer."""

    answers: "queue.SimpleQueue[Answer]"

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def send(self, request_id: str, image: bytes) -> None:
        """Send one frame; return once it is acknowledged."""


class Http:
    """POSTs raw images, hears the answers over server-sent events."""

    def __init__(self, port: int) -> None:
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._port = port
        self._local = threading.local()
        self._events = http.client.HTTPConnection("127.0.0.1", port)
        self._listening = threading.Event()

    def __enter__(self) -> Self:
        self._events.request("GET", "/v1/events")
        response = self._events.getresponse()
        self._thread = threading.Thread(target=self._listen, args=(response,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._events.sock is not None:
            self._events.sock.shutdown(2)
        self._thread.join(10)

    def send(self, request_id: str, image: bytes) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port)
        headers = {"Content-Type": "image/jpeg", "X-Request-Id": request_id}
        connection.request("POST", "/v1/frames", body=image, headers=headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.ACCEPTED:
            raise RuntimeError(f"POST answered {response.status}: {body.decode()}")

    def _listen(self, response: http.client.HTTPResponse) -> None:
        while line := response.readline():
            if line.startswith(b"data:"):
                self.answers.put((time.monotonic(), json.loads(line[5:])))


class Mqtt:
    """Publishes raw JSON frames at QoS 1, hears the answers on the cameras' result topics."""

    def __init__(self, port: int) -> None:
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._port = port
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("clients/+/results", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._hear
        self._client.max_inflight_messages_set(64)
        self._client.max_queued_messages_set(0)
        self._encoded: dict[bytes, str] = {}

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        if not self._subscribed.wait(10):
            raise TimeoutError("no SUBACK within 10 s")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, request_id: str, image: bytes) -> None:
        if image not in self._encoded:
            self._encoded[image] = base64.b64encode(image).decode()
        frame = f'{{"request_id": "{request_id}", "content": "{self._encoded[image]}"}}'
        self._client.publish("clients/bench", frame, qos=1).wait_for_publish(60)

    def _hear(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        self.answers.put((time.monotonic(), json.loads(message.payload)))


def run(way: Way, frames: Sequence[bytes], count: int, *, in_flight: int, deadline: float = 600) -> float:
    """Send `count` frames, at most `in_flight` without an answer; return the seconds from first send to last answer."""
    free = threading.Semaphore(in_flight)
    started = time.monotonic()
    with ThreadPoolExecutor(8, thread_name_prefix="load") as pool:
        sends = []

        def feed() -> None:
            for image in itertools.islice(itertools.cycle(frames), count):
                free.acquire()
                sends.append(pool.submit(way.send, str(uuid.uuid4()), image))

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        for _ in range(count):
            last, answer = way.answers.get(timeout=deadline)
            if answer["status"] != "done":
                raise RuntimeError(f"a frame failed: {answer['error']}")
            free.release()
        feeder.join()
        for send in sends:
            send.result()
    return last - started


def pace(way: Way, frames: Sequence[bytes], count: int, *, per_second: float) -> list[tuple[float, dict[str, Any]]]:
    """Send `count` frames at a steady rate whatever the answers do; return (latency in seconds, answer) of each."""
    sent: dict[str, float] = {}
    started = time.monotonic()
    with ThreadPoolExecutor(8, thread_name_prefix="load") as pool:
        sends = []
        for index, image in enumerate(itertools.islice(itertools.cycle(frames), count)):
            due = started + index / per_second
            time.sleep(max(0.0, due - time.monotonic()))
            request_id = str(uuid.uuid4())
            sent[request_id] = due
            sends.append(pool.submit(way.send, request_id, image))
        heard = [way.answers.get(timeout=60) for _ in range(count)]
        for send in sends:
            send.result()
    return [(at - sent[answer["request_id"]], answer) for at, answer in heard]
