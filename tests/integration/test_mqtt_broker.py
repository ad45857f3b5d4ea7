"""The embedded broker as a part of its process: start, stop, places, passwords, and what becomes of it."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import structlog

from facewire.adapters.mqtt.connection import MqttConnection
from facewire.domain.errors import QueueError, SettingsError
from facewire.runtime.settings import MqttSettings
from facewire_standalone.broker import FILTERS_BYTES, OTHER_LOG_BYTES, embedded_broker, read_password_file
from mqtt_brokers import free_port, until, until_open


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_it_takes_connections_at_once_and_leaves_nothing_behind() -> None:
    async with asyncio.timeout(20):
        port = free_port()
        for _ in range(3):
            async with embedded_broker(port=port) as broker:
                assert (broker.host, broker.port) == ("127.0.0.1", port)
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
            assert not is_alive(broker.pid)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)


async def test_port_0_takes_a_free_one() -> None:
    async with asyncio.timeout(20), embedded_broker(port=0) as one, embedded_broker(port=0) as other:
        assert one.port != other.port


async def test_a_taken_port_is_one_clear_line() -> None:
    async with asyncio.timeout(20), embedded_broker(port=0) as broker:
        with pytest.raises(SettingsError) as raised:
            await embedded_broker(port=broker.port).__aenter__()
    assert str(raised.value) == f"settings: mqtt_port: cannot listen on 127.0.0.1:{broker.port}: Address already in use"


async def test_a_port_that_another_program_listens_on_is_taken_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SettingsError) as raised:
        await embedded_broker(port=other.getsockname()[1]).__aenter__()
    assert raised.value.code == "mqtt_port"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104 - they are refused
async def test_without_passwords_it_stays_on_loopback(host: str) -> None:
    with pytest.raises(SettingsError, match="password file") as raised:
        await embedded_broker(host, 0).__aenter__()
    assert raised.value.code == "mqtt_host"


async def test_an_unknown_host_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no\.such\.host\.invalid"):
        await embedded_broker("no.such.host.invalid", 0).__aenter__()


async def test_with_passwords_it_listens_beyond_loopback_and_lets_nobody_else_in(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    passwords.write_text('# who\n\ndoor:se"cr:et\nGröße:schlüssel\n', encoding="utf-8")
    async with asyncio.timeout(30), embedded_broker("0.0.0.0", 0, password_file=passwords) as broker:  # noqa: S104
        for user, password in (("door", 'se"cr:et'), ("Größe", "schlüssel")):
            settings = MqttSettings.read(mqtt_port=broker.port, mqtt_username=user, mqtt_password=password)
            async with MqttConnection.open(settings) as welcome:
                await welcome.wait_connected()
                await welcome.publish("clients/door", b"x")
        for name, guess in (("door", "guess"), ("eve", 'se"cr:et'), (None, None)):
            settings = MqttSettings.read(mqtt_port=broker.port, mqtt_username=name, mqtt_password=guess)
            async with MqttConnection.open(settings) as stranger:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await stranger.wait_connected()
                with pytest.raises(QueueError, match="no connection"):
                    await stranger.publish("clients/door", b"x")


async def test_a_broker_that_cannot_start_says_why() -> None:
    with structlog.testing.capture_logs() as lines, pytest.raises(SettingsError, match="ended at once") as raised:
        await embedded_broker(port=0, max_payload_bytes=-1).__aenter__()
    assert raised.value.code == "mqtt_broker"
    assert any("max_payload_size" in line["line"] for line in lines)


@pytest.mark.parametrize(
    ("content", "mode", "fault"),
    [
        ("door:secret\n", 0o644, "chmod 600"),
        ("door\n", 0o600, "line 1 is not user:password"),
        ("# nobody\n", 0o600, "names no user"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_a_wrong_password_file_says_what_is_wrong(tmp_path: Path, content: str | None, mode: int, fault: str) -> None:
    path = tmp_path / "passwords"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(SettingsError, match=fault) as raised:
        read_password_file(path)
    assert raised.value.code == "mqtt_password_file"
    assert "secret" not in str(raised.value)


async def test_it_comes_back_when_its_process_dies() -> None:
    async with asyncio.timeout(20), embedded_broker(port=0) as broker:
        settings = MqttSettings.read(mqtt_port=broker.port)
        async with MqttConnection.open(settings) as connection:
            await connection.wait_connected()
            os.kill(broker.pid, signal.SIGKILL)
            await until(lambda: not connection.connected)
            await connection.wait_connected()
            await connection.publish("clients/door", b"x")


PARENT = """
import asyncio
from facewire.runtime.logs import configure_logging
from facewire_standalone.broker import embedded_broker

async def main():
    async with embedded_broker(port=0) as broker:
        print(broker.pid, broker.port, flush=True)
        await asyncio.Event().wait()

configure_logging("error", "json")
asyncio.run(main())
"""


async def test_it_dies_with_its_parent_however_that_goes() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pid, port = (int(part) for part in (await parent.stdout.readline()).split())
    await until_open(port)
    parent.kill()
    await parent.wait()
    await until(lambda: not is_alive(pid), seconds=5)


async def test_signals_to_the_whole_group_leave_it_running_for_the_drain() -> None:
    async with asyncio.timeout(20), embedded_broker(port=0) as broker:
        settings = MqttSettings.read(mqtt_port=broker.port)
        os.kill(broker.pid, signal.SIGTERM)
        os.kill(broker.pid, signal.SIGINT)
        async with MqttConnection.open(settings) as connection:
            await connection.wait_connected()
            await connection.publish("clients/door/results", b"the last answer")
            assert is_alive(broker.pid)


async def test_its_memory_stays_bounded_while_nobody_reads_and_the_loss_is_logged() -> None:
    """200 MB of frames for a consumer that is away: the newest 32 MiB are kept, and the loss is logged."""
    async with asyncio.timeout(60), embedded_broker(port=0, backlog_bytes=32 * 1024 * 1024) as broker:
        settings = MqttSettings.read(mqtt_port=broker.port)
        async with MqttConnection.open(settings, identifier="detector", subscriptions=["clients/+"]) as frames:
            await frames.wait_connected()
        async with MqttConnection.open(settings) as camera:
            await camera.wait_connected()
            frame = bytes(1_000_000)
            await asyncio.gather(*(camera.publish("clients/door", frame) for _ in range(200)))
        assert resident_bytes(broker.pid) < 120 * 1024 * 1024
        with structlog.testing.capture_logs() as lines:
            async with MqttConnection.open(settings, identifier="detector", subscriptions=["clients/+"]):
                await until(lambda: any("dropped the oldest" in line["event"] for line in lines))


async def test_60_filters_full_of_messages_take_less_than_100_mb() -> None:
    """What is kept of each filter that was ever subscribed to is bounded, and small."""
    async with asyncio.timeout(60), embedded_broker(port=0) as broker:
        settings = MqttSettings.read(mqtt_port=broker.port)
        topics = [f"clients/c{number}/results" for number in range(60)]
        async with MqttConnection.open(settings, subscriptions=topics) as listener:
            await listener.wait_connected()
        async with MqttConnection.open(settings) as publisher:
            await publisher.wait_connected()
            before = resident_bytes(broker.pid)
            for topic in topics:
                await asyncio.gather(*(publisher.publish(topic, bytes(100_000)) for _ in range(100)))
        assert resident_bytes(broker.pid) - before < 100_000_000


async def test_more_filters_than_there_is_memory_for_are_refused_aloud() -> None:
    async with asyncio.timeout(60), embedded_broker(port=0) as broker:
        settings = MqttSettings.read(mqtt_port=broker.port)
        allowed = [f"room/{number}" for number in range(FILTERS_BYTES // OTHER_LOG_BYTES)]
        with structlog.testing.capture_logs() as lines:
            async with MqttConnection.open(settings, subscriptions=allowed) as listener:
                await listener.wait_connected()
                async with MqttConnection.open(settings, subscriptions=["one/more"]) as refused:
                    await until(lambda: any("a subscription is refused" in str(line.get("line")) for line in lines))
                    assert not refused.connected
                async with MqttConnection.open(settings, subscriptions=allowed[:1]) as known:
                    await known.wait_connected()
                assert listener.connected


async def test_cameras_that_are_shut_out_get_answers_and_no_puback() -> None:
    async with asyncio.timeout(20), embedded_broker(port=0) as broker:
        outside = MqttSettings.read(mqtt_port=broker.port)
        inside = MqttSettings.read(mqtt_port=broker.inner_port)
        async with (
            MqttConnection.open(outside, subscriptions=["clients/door/results"]) as camera,
            MqttConnection.open(inside) as ours,
        ):
            await camera.wait_connected()
            await ours.wait_connected()
            await broker.shut_cameras_out()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", broker.port)
            await ours.publish("clients/door/results", b"an answer")
            assert (await anext(camera.messages())).payload == b"an answer"
            with pytest.raises(QueueError):
                await camera.publish("clients/door", b"a frame", timeout=0.5)


async def test_cameras_wait_at_closed_doors_until_they_are_let_in() -> None:
    async with asyncio.timeout(20), embedded_broker(port=0, closed=True) as broker:
        inside = MqttSettings.read(mqtt_port=broker.inner_port)
        outside = MqttSettings.read(mqtt_port=broker.port)
        async with MqttConnection.open(outside) as camera, MqttConnection.open(inside) as ours:
            await ours.wait_connected()
            assert not camera.connected
            broker.let_cameras_in()
            await camera.wait_connected()
