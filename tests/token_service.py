"""A stand-in for the token exchange service of a Greengrass core: credentials over HTTP, or none."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

TOKEN = "token of the component"  # noqa: S105 - of the stand-in
_CREDENTIALS = {
    "AccessKeyId": "ASIATEST",
    "SecretAccessKey": "secret",
    "Token": "session",
    "Expiration": "2099-01-01T00:00:00Z",
}


@dataclass
class TokenService:
    """Notes who asks; `refusal` is what it answers while the cloud is out of its reach."""

    port: int = 0
    refusal: str | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What whoever is to have the credentials finds in the environment."""
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://localhost:{self.port}/2016-11-01/credentialprovider/",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": TOKEN,
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        status = "200 OK" if self.refusal is None else "500 Internal Server Error"
        body = json.dumps(_CREDENTIALS) if self.refusal is None else self.refusal
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def token_service() -> AsyncIterator[TokenService]:
    """Run the service while the block does."""
    service = TokenService()
    async with await asyncio.start_server(service.serve, "127.0.0.1", 0) as server:
        service.port = server.sockets[0].getsockname()[1]
        yield service
