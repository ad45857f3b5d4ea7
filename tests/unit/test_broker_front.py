import pytest

from facewire_standalone.broker_front import Filters, Packets, RefusedError


def packet(kind: int, body: bytes) -> bytes:
    length = len(body)
    digits = bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (0x80 if length else 0))
        if not length:
            return bytes([kind]) + bytes(digits) + body


def subscribe(*filters: str) -> bytes:
    body = b"\x00\x01"
    for topic_filter in filters:
        name = topic_filter.encode()
        body += len(name).to_bytes(2, "big") + name + b"\x01"
    return packet(0x82, body)


def filters(most: int) -> Filters:
    return Filters(frames_bytes=100, other_bytes=1, max_bytes=most)


STREAM = packet(0x10, b"connect") + packet(0x32, bytes(70_000)) + subscribe("a", "b") + packet(0xC0, b"")


@pytest.mark.parametrize("piece", [1, 2, 7, 1000, 65536, 10**6])
def test_what_comes_in_pieces_is_passed_on_unchanged(piece: int) -> None:
    passed: list[bytes] = []
    pass_on(Packets(filters(2)), STREAM, piece, passed)
    assert b"".join(passed) == STREAM


def pass_on(packets: Packets, data: bytes, piece: int, passed: list[bytes]) -> None:
    passed.extend(packets.look_through(data[at : at + piece]) for at in range(0, len(data), piece))


@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_a_subscription_beyond_the_bound_is_not_passed_on(piece: int) -> None:
    passed: list[bytes] = []
    with pytest.raises(RefusedError, match="clients/"):
        pass_on(Packets(filters(2)), subscribe("a") + subscribe("b", "c"), piece, passed)
    assert b"".join(passed) in {b"", subscribe("a")}


def test_a_filter_counts_once_shared_or_not() -> None:
    known = filters(1)
    for name in ("a", "a", "$share/group/a"):
        known.add(name)
    with pytest.raises(RefusedError):
        known.add("b")


@pytest.mark.parametrize("name", ["clients/+", "clients/#", "clients/door", "$share/group/clients/+"])
def test_a_filter_of_frames_counts_what_the_backlog_takes(name: str) -> None:
    known = filters(101)
    known.add(name)
    known.add("clients/door/results")
    with pytest.raises(RefusedError):
        known.add("clients/gate/results")


def test_what_is_no_mqtt_is_refused() -> None:
    with pytest.raises(RefusedError, match="not MQTT"):
        Packets(filters(1)).look_through(b"\x10\xff\xff\xff\xff\xff")
