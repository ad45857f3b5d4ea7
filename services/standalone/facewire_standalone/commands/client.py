"""A client of the HTTP API, as the command line and the demo use it."""

import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from facewire.domain.errors import FacewireError, SettingsError
from facewire.domain.messages import Enrolled, RecognizedFaces, explain

#: The longest wait that the API takes in one call, and what a slow network may add to it.
LONGEST_WAIT = 30.0
_SLACK = 15.0


class ClientError(FacewireError):
    """The API could not be reached, or refused a call; `status` is that of the HTTP answer, if there was one."""

    stage: ClassVar[str] = "client"

    def __init__(self, code: str, detail: str, *, status: int | None = None) -> None:
        super().__init__(code, detail)
        self.status = status

    @property
    def concerns_every_call(self) -> bool:
        """Tell whether the next call would fail as well: nobody answers, or the key is not good for it."""
        return self.code == "unreachable" or self.status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}


def readable(path: Path) -> str:
    """Return `path` as text that can be printed and sent: what is not UTF-8 becomes replacement characters."""
    return os.fsencode(path).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded image and the name it goes by."""

    name: str
    content: bytes

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the picture in `path`; ClientError where it cannot be read."""
        try:
            return cls(readable(Path(path.name)), path.read_bytes())
        except OSError as error:
            raise ClientError("unreadable_file", f"{readable(path)}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Event:
    """What the event stream tells: `open` once, then `result` with its answer, `overflow` where some were skipped."""

    name: str
    answer: RecognizedFaces | None = None


class Client:
    """Calls of the HTTP API; every refusal is a ClientError with the code and the detail of the answer."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, key: str | None = None) -> AsyncIterator[Self]:
        """Yield a client of the API at `url` that shows `key`, if there is one; SettingsError where either is none."""
        timeout = httpx.Timeout(_SLACK, read=LONGEST_WAIT + _SLACK)
        # The system's certificates, or those of SSL_CERT_FILE: a gateway of one's own may have one of one's own.
        verify = ssl.create_default_context()
        async with httpx.AsyncClient(
            base_url=_base_url(url), headers=_headers(key), timeout=timeout, verify=verify, trust_env=False
        ) as http:
            yield cls(http)

    async def submit(self, picture: Picture, *, request_id: str, camera: str | None = None) -> None:
        """Hand in one frame: when this returns it is committed and will be answered."""
        params = {} if camera is None else {"camera": camera}
        await self._call(
            "POST",
            "/v1/frames",
            params=params,
            files={"file": (picture.name, picture.content)},
            headers={"X-Request-Id": request_id},
        )

    async def result(self, request_id: str, *, wait: float = LONGEST_WAIT) -> RecognizedFaces | None:
        """Return the answer to a request, None if it is still pending after `wait` seconds (30 at most)."""
        response = await self._call("GET", f"/v1/results/{quote(request_id, safe='')}", params={"wait": f"{wait:g}"})
        return None if response.json()["status"] == "pending" else _answer(response.text)

    async def enroll(self, person: str, picture: Picture) -> Enrolled | None:
        """Enrol the face in `picture`, or say why it was refused; None if the answer takes longer than 30 s."""
        path = f"/v1/people/{quote(person, safe='')}/faces"
        files = {"file": (picture.name, picture.content)}
        response = await self._send(self._http.build_request("POST", path, files=files))
        body = _json(response)
        if response.status_code == httpx.codes.UNPROCESSABLE_ENTITY and body.get("refused"):
            return Enrolled(person=person, refused=tuple(body["refused"]))
        _check(response)
        return None if response.status_code == httpx.codes.ACCEPTED else Enrolled.model_validate(body)

    async def events(self) -> AsyncIterator[Event]:
        """Yield events as they come, until the connection ends (WHATWG HTML, "Server-sent events")."""
        timeout = httpx.Timeout(_SLACK, read=LONGEST_WAIT)
        request = self._http.build_request("GET", "/v1/events", timeout=timeout)
        response = await self._send(request, stream=True)
        try:
            if response.is_error:
                await response.aread()
            _check(response)
            yield Event("open")
            async for name, data in read_events(response.aiter_lines()):
                yield Event(name, _answer(data) if name == "result" else None)
        except httpx.TransportError as error:
            raise _unreachable(request, error) from error
        finally:
            await response.aclose()

    async def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = await self._send(self._http.build_request(method, path, **options))
        _check(response)
        return response

    async def _send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            return await self._http.send(request, stream=stream)
        except httpx.TransportError as error:
            raise _unreachable(request, error) from error


def _base_url(url: str) -> httpx.URL:
    try:
        base_url = httpx.URL(url)
        base_url.raw_host.decode().encode("idna")  # as the socket does it
    except (httpx.InvalidURL, UnicodeError) as error:
        raise SettingsError("url", f"{url!r} is no address: {error}") from error
    if base_url.scheme not in {"http", "https"} or not base_url.host:
        raise SettingsError("url", f"{url!r} is no address: it has to start with http:// or https:// and a host")
    return base_url


def _headers(key: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if not (key.isascii() and key.isprintable()):
        raise SettingsError("key", "it holds characters that no key has: give it as `facewire keys add` printed it")
    return {"Authorization": f"Bearer {key}"}


async def read_events(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, str]]:
    """Yield name and data of each server-sent event; comments, ids and retry times are passed over."""
    event, data = "message", list[str]()
    async for line in lines:
        if line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                event = value
            elif field == "data":
                data.append(value)
            continue
        if data:
            yield event, "\n".join(data)
        event, data = "message", []


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    problem = _json(response)
    code = str(problem.get("code", response.status_code))
    detail = str(problem.get("detail") or problem.get("title") or response.reason_phrase)
    raise ClientError(code, detail, status=response.status_code)


def _json(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _answer(text: str) -> RecognizedFaces:
    try:
        return RecognizedFaces.model_validate_json(text)
    except ValidationError as error:
        raise ClientError("bad_answer", explain(error)) from error


def _unreachable(request: httpx.Request, error: httpx.TransportError) -> ClientError:
    address = f"{request.url.scheme}://{request.url.netloc.decode()}"
    reason = str(error) or type(error).__name__
    return ClientError("unreachable", f"no answer from {address} ({reason}): is `facewire up` running there?")
