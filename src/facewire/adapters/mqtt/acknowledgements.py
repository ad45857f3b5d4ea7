"""Acknowledgements in order of arrival."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Arrival:
    """A message that came in: its MQTT packet identifier, and whether it is safe."""

    mid: int
    done: bool = False


class OrderedAcknowledger:
    """Sends acknowledgements in order of arrival, whatever order the work ends in.

    rumqttd disconnects a client whose PUBACKs come in another order (MQTT 3.1.1 section 4.6 demands this one).
    """

    def __init__(self, send: Callable[[int], None]) -> None:
        self._send = send
        self._waiting: deque[Arrival] = deque()

    def arrived(self, mid: int) -> Arrival:
        """Note that the message with the packet identifier `mid` has come."""
        arrival = Arrival(mid)
        self._waiting.append(arrival)
        return arrival

    def done(self, arrival: Arrival) -> None:
        """Note that the message is safe; send what has become due."""
        arrival.done = True
        while self._waiting and self._waiting[0].done:
            self._send(self._waiting.popleft().mid)

    def forget(self) -> None:
        """Send nothing any more: packet identifiers mean nothing on another connection."""
        self._waiting.clear()
