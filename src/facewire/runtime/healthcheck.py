"""`python -m facewire.runtime.healthcheck URL`: whether what answers there is ready, as a container's health check.

Prints one line; exit code 0 for a 2xx answer, 1 for anything else. Standard library only: it runs every few seconds.
"""

import http.client
import ssl
import sys
from collections.abc import Sequence
from contextlib import closing
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 3.0
_MAX_LINE = 500


def check(url: str) -> tuple[bool, str]:
    """Return whether `url` answers with a 2xx status, and a line that says what it answered.

    A certificate is not verified: the check asks the process beside it, and trusts its answer with nothing.
    """
    try:
        parts = urlsplit(url)
        with closing(_connection(parts.scheme, parts.hostname or "", parts.port)) as connection:
            connection.request("GET", parts.path or "/")
            response = connection.getresponse()
            body = response.read(_MAX_LINE).decode("utf-8", "replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return False, f"{url}: {error or type(error).__name__}"
    return response.status // 100 == 2, f"{response.status} {' '.join(body.split())}"  # noqa: PLR2004 - the class of success


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    if scheme != "https":
        message = "a URL begins with http:// or https://"
        raise ValueError(message)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)


def main(arguments: Sequence[str]) -> int:
    """Check the one URL in `arguments`; return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m facewire.runtime.healthcheck URL\n")
        return 1
    ready, line = check(arguments[0])
    sys.stdout.write(f"{line}\n")
    return 0 if ready else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
