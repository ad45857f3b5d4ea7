"""Keys of the HTTP API: made once, kept as SHA-256 hashes in a file of mode 0600, checked on every request.

Roles: `ingest` posts frames and reads results by id; `read` reads results, events, people and metrics; `admin` may do
everything, changes of people included. A key is 256 random bits, so its hash needs no salt and no slow function.
"""

import hashlib
import hmac
import ipaddress
import json
import os
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Literal

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from facewire.domain.errors import SettingsError
from facewire.domain.messages import explain, now
from facewire.runtime.settings import GatewaySettings
from facewire_gateway.api.problems import GatewayError

_log = structlog.get_logger(__name__)

Role = Literal["ingest", "read", "admin"]
_bearer = HTTPBearer(auto_error=False, description="A key made by `facewire keys add`.")


class Key(BaseModel):
    """Who may do what: the name and the role of a key, and the SHA-256 of the key itself in hexadecimal."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: Role
    sha256: str
    created_at: AwareDatetime


class _KeysFile(BaseModel):
    keys: tuple[Key, ...] = ()


def list_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys in the file `path`; SettingsError where it cannot be read."""
    try:
        return _KeysFile.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise SettingsError("keys_file", f"keys_file {path}: {error.strerror}") from error
    except ValidationError as error:
        raise SettingsError("keys_file", f"keys_file {path} is no file of keys: {explain(error)}") from error


def create_keys_file(path: Path) -> bool:
    """Make the file `path` with no key in it, which lets nobody in; False if it is there, which stays as it is."""
    if path.exists():
        list_keys(path)
        return False
    _write(path, ())
    return True


def create_key(path: Path, name: str, role: Role) -> str:
    """Add a key called `name` to the file `path`, made if absent, and return the key: it is kept nowhere else."""
    keys = list_keys(path) if path.exists() else ()
    if any(key.name == name for key in keys):
        raise SettingsError("key_exists", f"there is a key called {name!r} already: remove it or take another name")
    secret = f"fw_{secrets.token_urlsafe(32)}"
    _write(path, (*keys, Key(name=name, role=role, sha256=_digest(secret), created_at=now())))
    return secret


def remove_key(path: Path, name: str) -> bool:
    """Remove the key called `name` from the file `path`; False if there is none."""
    keys = list_keys(path)
    rest = tuple(key for key in keys if key.name != name)
    if len(rest) == len(keys):
        return False
    _write(path, rest)
    return True


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    body = json.dumps(_KeysFile(keys=keys).model_dump(mode="json"), indent=2).encode()
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(body + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise SettingsError("keys_file", f"keys_file {path}: {error.strerror}") from error


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyRing:
    """The keys of one file, read again whenever the file changes. Without a file nobody needs a key.

    A file that disappears or breaks later opens nothing: the keys read last stay in force.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[Key, ...] = () if path is None else list_keys(path)

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return self._path is not None

    def find(self, secret: str) -> Key | None:
        """Return the key whose secret this is, comparing all of them in constant time; None if there is none."""
        if self._path is not None:
            self._refresh(self._path)
        digest = _digest(secret)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def holds(self, key: Key) -> bool:
        """Return whether `key`, found earlier, is still one of them and unchanged."""
        if self._path is not None:
            self._refresh(self._path)
        return key in self._keys

    def _refresh(self, path: Path) -> None:
        try:
            state = path.stat()
        except OSError:
            return
        seen = (state.st_mtime_ns, state.st_size, state.st_ino)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = list_keys(path)
        except SettingsError as error:
            _log.error("the keys file cannot be read: the keys read last stay in force", detail=error.detail)


def keys_of(settings: GatewaySettings, data_dir: Path) -> KeyRing:
    """Return the keys of the setting, else of `data_dir`, where nobody needs a key until one is made."""
    path = settings.keys_file or data_dir / "keys.json"
    return KeyRing(path if settings.keys_file is not None or path.exists() else None)


def require(*roles: Role) -> Callable[..., Awaitable[None]]:
    """Return the dependency that lets a request through if its key has one of `roles`, or is an admin's."""
    allowed = {*roles, "admin"}

    async def check(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> None:
        ring: KeyRing = request.app.state.keys
        if not ring.required:
            _check_local(request)
            request.state.key = None
            return
        if credentials is None:
            raise GatewayError("missing_key", "send a key: Authorization: Bearer <key>")
        key = ring.find(credentials.credentials)
        if key is None:
            raise GatewayError("unknown_key", "this key is not known: `facewire keys add` makes one")
        if key.role not in allowed:
            needed = " or ".join((*roles, "admin") if "admin" not in roles else roles)
            raise GatewayError("missing_role", f"this needs a key of role {needed}; {key.name!r} has {key.role}")
        request.state.key = key

    return check


def is_still_allowed(request: Request) -> bool:
    """Return whether the key that let `request` through is still in force; True where nobody needs one."""
    key: Key | None = request.state.key
    ring: KeyRing = request.app.state.keys
    return key is None or ring.holds(key)


def _check_local(request: Request) -> None:
    """Refuse what a web page of another site sends to a gateway without keys, DNS rebinding included."""
    host = request.url.hostname or ""
    if not is_loopback(host):
        detail = f"without keys only localhost is served, not {host!r}: make keys, or use http://127.0.0.1"
        raise GatewayError("foreign_host", detail)
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise GatewayError("foreign_origin", "without keys pages of other origins are not served: make keys")


def is_loopback(host: str) -> bool:
    """Return whether `host`, an address or a name, is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
