"""The connection to the nucleus, over awsiotsdk itself, to a stand-in on a UNIX socket."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from awsiot.greengrasscoreipc.model import (  # type: ignore[import-untyped]
    GetConfigurationRequest,
    SubscribeToTopicRequest,
    UpdateStateRequest,
)
from structlog.testing import capture_logs

from facewire.domain.errors import needs_operator
from facewire.runtime.settings import Settings
from facewire_greengrass.nucleus import Nucleus, Subscription
from facewire_greengrass.nucleus_errors import NucleusError
from facewire_greengrass.settings import NucleusSettings
from greengrass_nucleus import FakeNucleus, fake_nucleus
from mqtt_brokers import until


@pytest.fixture
async def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeNucleus]:
    async with fake_nucleus(tmp_path / "ipc.sock", topic="clients/+") as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def subscription(topic: str, events: list[Any]) -> Subscription:
    return Subscription("subscribe_to_topic", SubscribeToTopicRequest(topic=topic), events.append)


async def connected(nucleus: Nucleus) -> None:
    await until(lambda: nucleus.connected)


def test_what_the_nucleus_tells_is_read_from_its_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", "/run/ipc.sock")
    monkeypatch.setenv("SVCUID", "secret token")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    settings = NucleusSettings.read()
    assert (settings.socket, settings.region) == (Path("/run/ipc.sock"), "eu-west-1")
    assert isinstance(settings, Settings)
    assert "secret token" not in repr(settings)


async def test_requests_are_answered(fake: FakeNucleus) -> None:
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        await connected(nucleus)
        answer = await nucleus.ask("get_configuration", GetConfigurationRequest(key_path=[]))
        await nucleus.ask("update_state", UpdateStateRequest(state="RUNNING"))
    assert answer.value == {"topic": "clients/+"}
    assert fake.states == ["RUNNING"]
    await until(lambda: not fake._writers)


async def test_events_come_in_order(fake: FakeNucleus) -> None:
    events: list[Any] = []
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        await nucleus.subscribe(subscription("clients/+", events))
        await connected(nucleus)
        for number in range(200):
            assert fake.publish(f"clients/{number}", bytes([number])) == 1
        await until(lambda: len(events) == 200)
    assert [event.binary_message.message for event in events] == [bytes([number]) for number in range(200)]
    assert events[7].binary_message.context.topic == "clients/7"


async def test_what_the_nucleus_refuses_says_what_to_do(fake: FakeNucleus) -> None:
    fake.forbidden.add("SubscribeToTopic")
    fake.unknown.add("UpdateState")
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        await connected(nucleus)
        with pytest.raises(NucleusError, match=r"not authorized.*accessControl") as unauthorized:
            await nucleus.subscribe(subscription("clients/+", []))
        with pytest.raises(NucleusError, match="update_state: the nucleus does not know it") as refused:
            await nucleus.ask("update_state", UpdateStateRequest(state="RUNNING"))
        assert nucleus.connected
        assert (unauthorized.value.code, refused.value.code) == ("unauthorized", "refused")


async def test_what_the_nucleus_cannot_do_just_now_is_not_final(fake: FakeNucleus) -> None:
    fake.unavailable.add("UpdateState")
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        await connected(nucleus)
        with pytest.raises(NucleusError, match="UpdateState cannot be done just now") as error:
            await nucleus.ask("update_state", UpdateStateRequest(state="RUNNING"))
    assert not needs_operator(error.value)


async def test_a_subscription_that_fails_just_now_is_made_later(fake: FakeNucleus) -> None:
    fake.unavailable.add("SubscribeToTopic")
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        await connected(nucleus)
        await nucleus.subscribe(subscription("clients/+", []))
        fake.unavailable.clear()
        await until(lambda: fake.topics == ["clients/+"])


async def test_what_changes_while_the_connection_is_made_is_not_forgotten(fake: FakeNucleus) -> None:
    fake.unanswered.add("SubscribeToTopic")
    given_up = subscription("clients/+", [])
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        await nucleus.subscribe(given_up)
        await until(lambda: "SubscribeToTopic" in fake.asked)
        await nucleus.unsubscribe(given_up)
        await nucleus.subscribe(subscription("cameras/+", []))
        fake.answer_rest()
        await connected(nucleus)
        assert fake.topics == ["cameras/+"]


async def test_each_reason_of_an_outage_is_logged_once(fake: FakeNucleus) -> None:
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        await nucleus.subscribe(subscription("clients/+", []))
        await connected(nucleus)
        with capture_logs() as logs:
            fake.forbidden.add("SubscribeToTopic")
            fake.cut()
            await until(lambda: fake.asked.count("SubscribeToTopic") > 3)
    reasons = [line["error"] for line in logs if line["event"] == "no connection to the nucleus"]
    assert len(reasons) == 2
    assert "allow it in accessControl" in reasons[1]


async def test_an_optional_subscription_is_done_without(fake: FakeNucleus) -> None:
    fake.unknown.add("SubscribeToTopic")
    optional = Subscription("subscribe_to_topic", SubscribeToTopicRequest(topic="a"), print, optional=True)
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        await nucleus.subscribe(optional)
        await connected(nucleus)
        await nucleus.ask("update_state", UpdateStateRequest(state="RUNNING"))
    assert fake.states == ["RUNNING"]


async def test_a_wrong_token_is_refused(fake: FakeNucleus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVCUID", "of another start")
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        await until(lambda: fake.refused_tokens > 1)
        assert not nucleus.connected


async def test_a_lost_connection_is_made_again_with_its_subscriptions(fake: FakeNucleus) -> None:
    events: list[Any] = []
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        told = nucleus.connection_event()
        await nucleus.subscribe(subscription("clients/+", events))
        await connected(nucleus)
        told.clear()
        await fake.stop()
        await until(lambda: not nucleus.connected)
        with pytest.raises(NucleusError, match="no connection") as error:
            await nucleus.ask("update_state", UpdateStateRequest(state="RUNNING"))
        assert error.value.code == "not_connected"
        await fake.start()
        async with asyncio.timeout(10):
            await told.wait()
        assert fake.publish("clients/door", b"frame") == 1
        await until(lambda: len(events) == 1)


async def test_a_connection_lost_under_a_request_ends_it(fake: FakeNucleus) -> None:
    fake.unanswered.add("UpdateState")
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        await connected(nucleus)
        asking = asyncio.create_task(nucleus.ask("update_state", UpdateStateRequest(state="RUNNING")))
        await until(lambda: "UpdateState" in fake.asked)
        fake.cut()
        with pytest.raises(NucleusError) as error:
            await asyncio.wait_for(asking, 5)
    assert error.value.code == "connection_lost"


async def test_streams_that_the_nucleus_ends_are_made_again(fake: FakeNucleus) -> None:
    events: list[Any] = []
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        await nucleus.subscribe(subscription("clients/+", events))
        await connected(nucleus)
        fake.end_streams()
        await until(lambda: fake.topics == ["clients/+"])
        await connected(nucleus)


async def test_a_subscription_that_is_given_up_leaves_the_connection(fake: FakeNucleus) -> None:
    events: list[Any] = []
    given_up = subscription("clients/+", events)
    async with Nucleus.open(NucleusSettings.read()) as nucleus:
        await connected(nucleus)
        await nucleus.subscribe(given_up)
        await nucleus.unsubscribe(given_up)
        assert fake.publish("clients/door", b"frame") == 0
        await nucleus.ask("update_state", UpdateStateRequest(state="RUNNING"))
        assert nucleus.connected
    assert not events
