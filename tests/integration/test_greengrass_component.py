"""`python -m facewire_greengrass` between a nucleus on a UNIX socket, over awsiotsdk itself, and SQS."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aws_emulator import ministack
from facewire.adapters.aws.sqs.queue import SqsQueues
from facewire.adapters.sqlite.database import Database
from facewire.adapters.sqlite.queue import SqliteQueue
from facewire.domain.messages import RecognizedFaces
from facewire.runtime.settings import AwsSettings
from greengrass_core import Core, core, detected, faceless, message, small
from mqtt_brokers import free_port, until
from service_processes import answers_of


@pytest.fixture
async def own(aws_environment: str, tmp_path: Path) -> AsyncIterator[Core]:
    async with core(tmp_path, aws_environment) as running:
        yield running


@pytest.fixture
def portrait(samples: Path) -> bytes:
    return small(samples / "grace_hopper.jpg", 240)


async def test_frames_of_devices_become_requests_and_answers(own: Core, portrait: bytes) -> None:
    async with own.running():
        own.nucleus.publish("clients/door", message("face", portrait))
        own.nucleus.publish("clients/door", message("none", faceless(0)))
        own.nucleus.publish("clients/gate", portrait)
        own.nucleus.publish("clients/gate", message("large", portrait + bytes(100_000)))
        own.nucleus.publish_json("clients/gate", {"request_id": "json", "encoded": "bm8gcGljdHVyZQ=="})
        found = await detected(own.requests, 2)
        answers = await answers_of(own.responses, 3)
    assert {(each.camera, len(each.faces)) for each in found.values()} == {("door", 1), ("gate", 1)}
    assert found["face"].faces[0].crop.jpeg.startswith(b"\xff\xd8")
    assert answers["none"].result == "No-Face"
    assert {name: answer.error.code for name, answer in answers.items() if answer.error} == {
        "large": "too_large",
        "json": "not_an_image",
    }
    assert answers["large"].error is not None
    assert "limit is 131,072 (128 KiB)" in answers["large"].error.detail
    assert own.nucleus.states == ["RUNNING"]
    assert not own.nucleus.local
    assert not own.nucleus.iot_core
    assert "Traceback" not in own.log


async def test_the_configuration_changes_while_it_runs(own: Core, portrait: bytes) -> None:
    async with own.running():
        own.nucleus.publish("clients/door", message("before", portrait))
        await detected(own.requests, 1)
        own.nucleus.configure(min_face_size=1000, results="local")
        await until(lambda: own.log.count('"running"') == 2)
        own.nucleus.publish("clients/door", message("no room for so large a face", portrait))
        (answer,) = (await answers_of(own.responses, 1)).values()
        assert answer.result == "No-Face"
        await until(lambda: len(own.published()) == 1)
        own.nucleus.configure(topic="factory/hall/+", min_face_size=20)
        await until(lambda: own.nucleus.topics == ["factory/hall/+"])
        await until(lambda: own.log.count('"running"') == 3)
        own.nucleus.publish("factory/hall/robot", message("after", portrait))
        found = await detected(own.requests, 1)
        assert found["after"].camera == "robot"
        assert own.process is not None
        assert own.process.returncode is None


async def test_frames_that_come_during_a_change_are_not_lost(own: Core) -> None:
    async with own.running(), asyncio.TaskGroup() as tasks:
        collecting = tasks.create_task(answers_of(own.responses, 150))
        for number in range(150):
            assert own.nucleus.publish("clients/door", message(f"r{number}", faceless(number))) == 1
            if number % 50 == 20:
                own.nucleus.configure(min_face_size=30 + number)
            await asyncio.sleep(0.02)  # a camera's pace
        await until(lambda: own.log.count('"running"') == 4)
        assert len(await collecting) == 150
    assert own.nucleus.left == []


async def test_a_configuration_that_cannot_be_used_leaves_the_one_before(own: Core) -> None:
    async with own.running():
        own.nucleus.configure(min_face_size=3)
        await until(lambda: "the one before stays" in own.log)
        own.nucleus.publish("clients/door", message("r", faceless(0)))
        assert set(await answers_of(own.responses, 1)) == {"r"}
    assert "min_face_size: Input should be greater than or equal to 12" in own.log
    assert own.nucleus.states == ["RUNNING"]


async def test_a_deployment_is_told_whether_its_configuration_can_be_used(own: Core) -> None:
    async with own.running():
        own.nucleus.propose("good", own.nucleus.configuration | {"min_face_size": 40})
        own.nucleus.propose("bad", own.nucleus.configuration | {"detector_thresholds": [0.6, 7, 0.7]})
        await until(lambda: len(own.nucleus.reports) == 2)
    good, bad = own.nucleus.reports
    assert (good["deploymentId"], good["status"]) == ("good", "ACCEPTED")
    assert (bad["deploymentId"], bad["status"]) == ("bad", "REJECTED")
    assert "threshold" in bad["message"]


async def test_a_start_that_cannot_succeed_is_told(own: Core) -> None:
    own.nucleus.configuration["topic"] = "clients/a+"
    await own.start()
    assert await own.ended() == 2
    assert own.nucleus.states == ["ERRORED"]
    assert own.log.splitlines()[-1].startswith("facewire: settings: wrong_setting: topic: is no topic filter")


async def test_a_topic_that_is_not_allowed_ends_the_start(own: Core) -> None:
    own.nucleus.forbidden.add("SubscribeToTopic")
    await own.start()
    assert await own.ended() == 1
    assert own.nucleus.states == ["ERRORED"]
    assert "accessControl" in own.log


async def test_ipc_is_lost_and_comes_back(own: Core, portrait: bytes) -> None:
    async with own.running():
        await own.nucleus.stop()
        await until(lambda: "no connection to the nucleus" in own.log)
        own.nucleus.states.clear()
        own.nucleus.configuration["results"] = "local"  # nobody tells of it
        await own.nucleus.start()
        await own.until_running()
        own.nucleus.publish("clients/door", message("again", portrait))
        assert set(await detected(own.requests, 1)) == {"again"}
        await until(lambda: own.log.count('"running"') == 2)
        own.nucleus.publish("clients/door", message("none", faceless(0)))
        await until(lambda: "none" in own.published())


async def test_a_request_that_its_queue_will_never_take_is_answered(own: Core, portrait: bytes) -> None:
    """A queue of an older kind takes 256 KiB, less than a picture with many faces."""
    url = (await own.queues.calls.create_queue(QueueName=own.requests.name))["QueueUrl"]
    await own.queues.calls.set_queue_attributes(QueueUrl=url, Attributes={"MaximumMessageSize": "1024"})
    async with own.running():
        own.nucleus.publish("clients/door", message("large", portrait))
        answers = await answers_of(own.responses, 1)
    assert answers["large"].error is not None
    assert answers["large"].error.code == "message_refused"


async def test_results_go_back_to_the_devices(own: Core, portrait: bytes) -> None:
    """What the edge answers at once, what the cloud answers when it does; nothing twice."""
    own.nucleus.configuration |= {"results": "local", "results_queue": f"own-{own.responses.name}"}
    cloud = own.queues.queue(own.nucleus.configuration["results_queue"])
    async with own.running():
        own.nucleus.publish("clients/door", message("face", portrait))
        own.nucleus.publish("clients/gate", message("none", faceless(0)))
        (request,) = (await detected(own.requests, 1)).values()
        named = RecognizedFaces(request_id=request.request_id, camera=request.camera, result="Grace Hopper")
        none = (await answers_of(own.responses, 1))["none"]
        await cloud.send([none.to_bytes(), named.to_bytes()])
        await until(lambda: len(own.nucleus.local) == 2)
        depth = await cloud.depth()
    assert {topic: RecognizedFaces.from_bytes(body).result for topic, body in own.nucleus.local} == {
        "clients/gate/results": "No-Face",
        "clients/door/results": "Grace Hopper",
    }
    assert depth.dead == 0


async def test_a_core_may_be_the_one_reader_of_the_response_queue(own: Core) -> None:
    own.nucleus.configuration |= {"results": "local", "results_queue": own.responses.name}
    async with own.running():
        own.nucleus.publish("clients/gate", message("none", faceless(0)))
        await until(lambda: "none" in own.published())
        await own.responses.send([RecognizedFaces(request_id="r", camera="door", result="Obama").to_bytes()])
        await until(lambda: "r" in own.published())
        async with asyncio.timeout(20):
            while (await own.responses.depth()).leased:  # noqa: ASYNC110 - told by no event
                await asyncio.sleep(0.05)
    assert [RecognizedFaces.from_bytes(body).request_id for _, body in own.nucleus.local] == ["none", "r"]
    assert (await own.responses.depth()).waiting == 0


async def test_answers_of_the_cloud_stay_in_their_queue_while_nobody_asks_for_them(own: Core) -> None:
    own.nucleus.configuration["results_queue"] = f"own-{own.responses.name}"
    cloud = own.queues.queue(own.nucleus.configuration["results_queue"])
    await cloud.send([RecognizedFaces(request_id="r", camera="door", result="Obama").to_bytes()])
    async with own.running():
        own.nucleus.publish("clients/door", message("none", faceless(0)))
        await answers_of(own.responses, 1)
        assert (await cloud.depth()).waiting == 1
        own.nucleus.configure(results="local")
        await until(lambda: "r" in own.published())
    assert "none" not in own.published()


async def test_results_go_over_iot_core_when_asked(own: Core) -> None:
    own.nucleus.configuration |= {"results": "iot_core", "results_topic": "answers/+"}
    async with own.running():
        own.nucleus.publish("clients/door", message("none", faceless(0)))
        await until(lambda: len(own.nucleus.iot_core) == 1)
    ((topic, body),) = own.nucleus.iot_core
    assert (topic, RecognizedFaces.from_bytes(body).result) == ("answers/door", "No-Face")


async def test_a_stop_commits_what_has_come_and_takes_less_than_five_seconds(own: Core) -> None:
    accepted: list[str] = []
    async with own.running():
        for number in range(100):
            accepted += [f"r{number}"] * own.nucleus.publish("clients/door", message(f"r{number}", faceless(number)))
        stopping = asyncio.create_task(own.stop())
        for number in range(100, 1000):
            accepted += [f"r{number}"] * own.nucleus.publish("clients/door", message(f"r{number}", faceless(number)))
            await asyncio.sleep(0.005)  # a camera's pace
        assert await stopping < 5
    assert own.nucleus.left == ["clients/+"]
    assert len(accepted) < 1000
    async with own.running():
        # One may cross the message that gives the subscription up.
        answered = set(await answers_of(own.responses, len(accepted) - 1))
    assert len(set(accepted) - answered) <= 1


async def test_a_stop_takes_less_than_five_seconds_though_sqs_hangs(own: Core, portrait: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        hanging = {"aws_endpoint_url": endpoint, "results": "local", "results_queue": "results"}
        own.nucleus.configuration |= {**hanging, "log_level": "debug"}
        async with own.running():
            for number in range(20):
                own.nucleus.publish("clients/door", message(f"r{number}", portrait + bytes([number])))
            await until(lambda: "faces detected" in own.log)
            assert await own.stop() < 5
    async with (
        Database.open(own.folder / "data" / "inbox.db") as inbox,
        Database.open(own.folder / "data" / "spool.db") as spool,
    ):
        waiting = [await SqliteQueue(*where).depth() for where in ((inbox, "inbox"), (spool, "requests"))]
    assert sum(depth.waiting + depth.leased for depth in waiting) >= 20


async def test_what_is_found_while_sqs_is_away_waits_and_devices_are_answered(
    own: Core, portrait: bytes, tmp_path: Path
) -> None:
    """Offline detection goes on, over a kill; back online everything is sent."""
    port = free_port()
    aws = AwsSettings.read(
        aws_endpoint_url=f"http://127.0.0.1:{port}",
        request_queue=own.requests.name,
        response_queue=own.responses.name,
        aws_create_missing=True,
    )
    own.nucleus.configuration |= {"aws_endpoint_url": aws.aws_endpoint_url, "results": "local"}
    async with own.running():
        for number in range(12):
            own.nucleus.publish("clients/door", message(f"face{number}", portrait + bytes([number])))
            own.nucleus.publish("clients/door", message(f"none{number}", faceless(number)))
        await until(lambda: len(own.published()) == 12)
        await own.kill()
    async with own.running():
        own.nucleus.publish("clients/door", b"nonsense")
        await until(lambda: len(own.published()) == 13)
        with ministack(tmp_path / "emulator.log", port):
            async with SqsQueues.open(aws) as queues:
                found = await detected(queues.queue(own.requests.name), 12)
                answers = await answers_of(queues.queue(own.responses.name), 13)
    assert set(found) == {f"face{number}" for number in range(12)}
    assert {answer.result for answer in answers.values()} == {"No-Face", "Failed"}


async def test_a_full_spool_lets_frames_wait_in_the_inbox(own: Core, portrait: bytes, tmp_path: Path) -> None:
    port = free_port()
    aws = {"aws_endpoint_url": f"http://127.0.0.1:{port}", "spool_bytes": 1024**2}
    own.nucleus.configuration |= aws
    async with own.running():
        for number in range(80):
            own.nucleus.publish("clients/door", message(f"r{number}", portrait + bytes([number])))
        await until(lambda: "spool_full" in own.log, 60)
        with ministack(tmp_path / "emulator.log", port):
            settings = AwsSettings.read(
                aws_endpoint_url=aws["aws_endpoint_url"], request_queue=own.requests.name, aws_create_missing=True
            )
            async with SqsQueues.open(settings) as queues:
                assert len(await detected(queues.queue(own.requests.name), 80, seconds=90)) == 80


async def test_secrets_come_from_the_secret_manager_and_stay_out_of_the_log(own: Core) -> None:
    own.nucleus.secrets["broker"] = json.dumps({"mqtt_password": "hunter2", "mqtt_username": "core"})
    own.nucleus.configuration["secrets"] = {"mqtt_password": "broker", "mqtt_username": "broker"}
    async with own.running():
        own.nucleus.secrets["broker"] = json.dumps({"mqtt_password": "other", "mqtt_username": "core"})
        own.nucleus.configure(min_face_size=30)
        await until(lambda: own.log.count('"running"') == 2)
    assert own.nucleus.asked.count("GetSecretValue") >= 4
    assert "hunter2" not in own.log


async def test_a_secret_that_is_not_there_ends_the_start(own: Core) -> None:
    own.nucleus.configuration["secrets"] = {"mqtt_password": "broker"}
    await own.start()
    assert await own.ended() == 2
    assert "settings: secret: mqtt_password: broker: get_secret_value: ResourceNotFoundError" in own.log


async def test_a_secret_manager_that_is_not_up_yet_is_waited_for(own: Core) -> None:
    own.nucleus.secrets["broker"] = "hunter2"
    own.nucleus.configuration["secrets"] = {"mqtt_password": "broker"}
    own.nucleus.unavailable.add("GetSecretValue")
    await own.start()
    await until(lambda: "the configuration could not be read" in own.log, 40)
    own.nucleus.unavailable.clear()
    await own.until_running()
