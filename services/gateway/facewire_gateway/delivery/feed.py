"""Answers as they come: for server-sent events and for long polls. All in memory, all bounded."""

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import structlog

from facewire.domain.errors import FacewireError
from facewire.domain.messages import RecognizedFaces
from facewire.domain.ports import ResultStore
from facewire_gateway import metrics
from facewire_gateway.api.problems import GatewayError

_log = structlog.get_logger(__name__)

#: Events that wait for one subscriber; at 50 answers a second a reader may stall for five seconds.
MAX_WAITING = 256
#: Events kept for subscribers that come back with the id of the last one they saw.
MAX_REPLAY = 512
#: Subscribers at once; each holds at most MAX_WAITING references to events.
MAX_SUBSCRIBERS = 256


@dataclass(frozen=True, slots=True)
class Event:
    """One answer in the feed; `id` orders the events of one run of the process."""

    id: str
    answer: RecognizedFaces


@dataclass(frozen=True, slots=True)
class Overflow:
    """A subscriber missed `lost` events, or an unknown number where it is None: the history has them."""

    lost: int | None


@dataclass(frozen=True, slots=True)
class Past:
    """An event that has been handed out. Its answer is read from the store again: a name may be deleted by now."""

    id: str
    request_id: str


class Subscription:
    """What one subscriber has not read yet. When it is full the oldest event leaves, and the subscriber is told."""

    def __init__(self, results: ResultStore, camera: str | None, person: str | None) -> None:
        self._results = results
        self._camera = camera
        self._person = person
        self._waiting: deque[Event | Past] = deque()
        self._lost = 0
        self._gap = False
        self._closed = False
        self._wake = asyncio.Event()

    async def next(self) -> Event | Overflow | None:
        """Return the next event, waiting for it; None once the feed is closed."""
        while True:
            while not (self._waiting or self._gap or self._closed):
                self._wake.clear()
                await self._wake.wait()
            if self._gap:
                return self._take_gap()
            if not self._waiting:
                return None
            event = self._waiting.popleft()
            if isinstance(event, Event):
                return event
            if (present := await self._read_again(event)) is not None:
                return present

    def offer(self, event: Event | Past) -> None:
        """Keep `event` for the subscriber if it is one of those asked for."""
        if isinstance(event, Event) and not self._wants(event.answer):
            return
        if len(self._waiting) == MAX_WAITING:
            self._waiting.popleft()
            self._lost += 1
            self._gap = True
            metrics.EVENTS_LOST.inc()
        self._waiting.append(event)
        self._wake.set()

    def miss(self) -> None:
        """Tell the subscriber that it missed events, nobody knows how many."""
        self._gap = True
        self._wake.set()

    def close(self) -> None:
        """End the subscription once what is waiting has been read."""
        self._closed = True
        self._wake.set()

    async def _read_again(self, past: Past) -> Event | None:
        """Return the event with its answer as it is now, None if it is not one of those asked for or cannot be read."""
        try:
            result = await self._results.get(past.request_id)
        except FacewireError as error:
            self._gap = True
            _log.warning("a past event could not be read", request_id=past.request_id, error=error.code)
            return None
        except asyncio.CancelledError:
            self._gap = True
            raise
        if result is None or result.answer is None or not self._wants(result.answer):
            return None
        return Event(past.id, result.answer)

    def _take_gap(self) -> Overflow:
        lost, self._lost, self._gap = self._lost, 0, False
        return Overflow(lost or None)

    def _wants(self, answer: RecognizedFaces) -> bool:
        if self._camera is not None and answer.camera != self._camera:
            return False
        return self._person is None or any(face.person == self._person for face in answer.faces)


class Feed:
    """Hands each new answer to subscribers and to those who wait for its request."""

    def __init__(self, results: ResultStore, *, poll_seconds: float = 2.0) -> None:
        self._results = results
        self._poll_seconds = poll_seconds
        self._run = secrets.token_hex(4)
        self._count = 0
        self._recent: deque[Past] = deque(maxlen=MAX_REPLAY)
        self._known: OrderedDict[str, datetime] = OrderedDict()
        self._subscriptions: set[Subscription] = set()
        self._waiters: dict[str, set[asyncio.Future[RecognizedFaces | None]]] = {}
        self._closed = False

    @property
    def subscribers(self) -> int:
        """How many subscriptions are open."""
        return len(self._subscriptions)

    @property
    def waiters(self) -> int:
        """How many long polls are waiting."""
        return sum(len(waiters) for waiters in self._waiters.values())

    def knows(self, answer: RecognizedFaces) -> bool:
        """Return whether the answer is the last one to its request that was handed out, not too many ago."""
        return self._known.get(answer.request_id) == answer.answered_at

    def publish(self, answers: Sequence[RecognizedFaces]) -> None:
        """Hand out `answers`, which the store has kept, but for those that it knows."""
        for answer in answers:
            if not self.knows(answer):
                self._hand_out(answer)

    def _hand_out(self, answer: RecognizedFaces) -> None:
        self._count += 1
        event = Event(f"{self._run}-{self._count}", answer)
        self._recent.append(Past(event.id, answer.request_id))
        self._known[answer.request_id] = answer.answered_at
        if len(self._known) > MAX_REPLAY:
            self._known.popitem(last=False)
        for subscription in self._subscriptions:
            subscription.offer(event)
        for waiter in self._waiters.get(answer.request_id, ()):
            if not waiter.done():
                waiter.set_result(answer)

    @contextmanager
    def subscribe(
        self, *, camera: str | None = None, person: str | None = None, after: str | None = None
    ) -> Iterator[Subscription]:
        """Open a subscription to the answers of one camera or with one person, or to all.

        `after` is the id of the last event seen: later ones come first, and where they are no longer known, an
        Overflow. GatewayError where too many are subscribed.
        """
        if len(self._subscriptions) >= MAX_SUBSCRIBERS:
            raise GatewayError("too_many_listeners", f"{MAX_SUBSCRIBERS} are listening, no more are taken: try later")
        subscription = Subscription(self._results, camera, person)
        if after is not None:
            self._replay(subscription, after)
        if self._closed:
            subscription.close()
        self._subscriptions.add(subscription)
        metrics.SUBSCRIBERS.set(len(self._subscriptions))
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            metrics.SUBSCRIBERS.set(len(self._subscriptions))

    async def wait_for(self, request_id: str, seconds: float) -> RecognizedFaces | None:
        """Return the answer to `request_id` as soon as it is known, None if that takes longer than `seconds`.

        Looks in the store first and then every few seconds: another replica may have drained the answer.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        with self._waiting_for(request_id) as answered:
            while True:
                result = await self._results.get(request_id)
                if result is not None and result.answer is not None:
                    return result.answer
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0 or self._closed:
                    return None
                await asyncio.wait((answered,), timeout=min(left, self._poll_seconds))
                if answered.done():
                    return answered.result()

    def miss(self) -> None:
        """Tell every subscriber, and whoever comes back later, that an unknown number of events is missing here."""
        self._count += 1
        self._recent.clear()
        for subscription in self._subscriptions:
            subscription.miss()

    def close(self) -> None:
        """End all subscriptions and long polls: the server is about to stop."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    @contextmanager
    def _waiting_for(self, request_id: str) -> Iterator[asyncio.Future[RecognizedFaces | None]]:
        answered: asyncio.Future[RecognizedFaces | None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(request_id, set())
        waiters.add(answered)
        try:
            yield answered
        finally:
            waiters.discard(answered)
            if not waiters and self._waiters.get(request_id) is waiters:
                del self._waiters[request_id]

    def _replay(self, subscription: Subscription, after: str) -> None:
        run, _, number = after.rpartition("-")
        oldest = self._count - len(self._recent)
        if run != self._run or not number.isdecimal() or int(number) < oldest:
            subscription.miss()
            return
        for event in list(self._recent)[int(number) - oldest :]:
            subscription.offer(event)
