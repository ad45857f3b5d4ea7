"""Where clients of AWS look for credentials: where AWS's own do, but a token service is asked by the first call.

aiobotocore asks such a service (of ECS, or the token exchange service of a Greengrass core) as a client is made, and
that fails where the service is out of reach itself; a client that cannot be made cannot be tried again either.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiobotocore.credentials import (  # type: ignore[import-untyped]
    AioContainerProvider,
    AioDeferredRefreshableCredentials,
)
from aiobotocore.session import AioSession, get_session  # type: ignore[import-untyped]
from botocore.exceptions import CredentialRetrievalError  # type: ignore[import-untyped]

# It writes a traceback for each refresh that fails; whoever called is told as well, and says it in a line.
logging.getLogger("aiobotocore.credentials").setLevel(logging.ERROR)


def aws_session() -> AioSession:
    """Return a session whose clients can be made while no credentials are to be had."""
    session = get_session()
    late = _LateContainerProvider()
    session.get_component("credential_provider").insert_before(late.METHOD, late)
    return session


class _LateContainerProvider(AioContainerProvider):  # type: ignore[misc] # it has no types
    """Finds the token service that the environment names, and asks it when credentials are needed."""

    async def _retrieve_or_fail(self) -> AioDeferredRefreshableCredentials:
        relative = self._environ.get(self.ENV_VAR)
        uri = self._environ[self.ENV_VAR_FULL] if relative is None else self._fetcher.full_url(relative)
        return AioDeferredRefreshableCredentials(_discreet(self._create_fetcher(uri)), self.METHOD)


def _discreet(fetch: Callable[[], Awaitable[dict[str, Any]]]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Return the same without what the service has answered in its errors: it may quote credentials."""

    async def fetch_discreetly() -> dict[str, Any]:
        try:
            return await fetch()
        except CredentialRetrievalError as error:
            reason = str(error.kwargs["error_msg"]).partition(" from container metadata")[0]
            raise CredentialRetrievalError(provider=error.kwargs["provider"], error_msg=reason) from None

    return fetch_discreetly
