"""What a consumer does with messages: a handler reads and works on them, and says for each what becomes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from facewire.domain.errors import FacewireError
from facewire.domain.failures import answer_unread
from facewire.domain.messages import DetectedFaces, Frame, RecognizedFaces, Source, failed
from facewire.domain.ports import Lease, Sender

M = TypeVar("M")
R = TypeVar("R", Frame, DetectedFaces)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An encoded message and the queue it goes to."""

    queue: Sender
    body: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The message has led to `outgoing`; once that is sent, it is acknowledged."""

    outgoing: Sequence[Outgoing] = ()


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """The message is received again in `seconds`; with `count_attempt` this receive counts towards the last one."""

    seconds: float
    count_attempt: bool = True


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The message moves to the dead letters for `reason`, once `outgoing` is sent."""

    reason: str
    outgoing: Sequence[Outgoing] = ()


Verdict = Done | RetryAfter | DeadLetter
#: What a handler says of one message. An exception is judged by the retry strategy of the queue.
Outcome = Verdict | Exception


class Message(Generic[M]):
    """A leased message whose content is read once, at first use; a large one belongs into a thread."""

    __slots__ = ("_content", "_error", "_read", "lease")

    def __init__(self, lease: Lease, read: Callable[[bytes], M]) -> None:
        self.lease = lease
        self._read = read
        self._content: list[M] = []
        self._error: FacewireError | None = None

    @property
    def content(self) -> M:
        """What the body holds; the FacewireError of `read` where that is nothing."""
        if self._error is not None:
            raise self._error
        if not self._content:
            try:
                self._content.append(self._read(self.lease.body))
            except FacewireError as error:
                self._error = error
                raise
        return self._content[0]


def request_id_of(message: Message[M]) -> str | None:
    """Return the id that the message names, for the log; None where it cannot be read."""
    try:
        return getattr(message.content, "request_id", None)
    except FacewireError:
        return None


class Handler(Protocol[M]):
    """The work on the messages of one queue."""

    @property
    def name(self) -> str:
        """What logs and metrics call the work."""
        ...

    @property
    def error(self) -> type[FacewireError]:
        """The kind of error that a failure without a named one is told as."""
        ...

    def read(self, body: bytes) -> M:
        """Return what `body` holds; a FacewireError where that is nothing."""
        ...

    async def handle(self, messages: Sequence[Message[M]]) -> Sequence[Outcome]:
        """Return what becomes of each message. If it raises, each message of the batch is tried alone."""
        ...

    def failure(self, message: Message[M], error: FacewireError) -> Sequence[Outgoing]:
        """Return what tells the sender that the message has failed for good; nothing where it cannot be told."""
        ...


class Stage(Handler[R]):
    """A handler of requests: their failures are answered on the response queues."""

    error: ClassVar[type[FacewireError]]
    source: ClassVar[Source]

    def __init__(self, *responses: Sender) -> None:
        self._responses = responses

    @property
    def name(self) -> str:
        """The stage's name in errors."""
        return self.error.stage

    def answer(self, answer: RecognizedFaces) -> list[Outgoing]:
        """Return what sends the answer to each response queue."""
        body = answer.to_bytes()
        return [Outgoing(queue, body) for queue in self._responses]

    def failure(self, message: Message[R], error: FacewireError) -> Sequence[Outgoing]:
        """Return the answer `failed`; nothing where the message names no request."""
        try:
            return self.answer(failed(message.content, error, source=self.source))
        except FacewireError:
            answer = answer_unread(message.lease.body, error, self.source)
            return [] if answer is None else self.answer(answer)
