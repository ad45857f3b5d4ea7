"""The process that the embedded broker runs in, with the front that cameras reach it by.

`python -P -m facewire_standalone.broker_process CONFIG.toml OPTIONS`, the latter as JSON: the number of the socket that
listens for cameras, the port of rumqttd, and the arguments of `Filters`.

rumqttd has no way to be stopped, so it has a process to itself. It ends when its standard input does: when the parent
closes the pipe, or when the parent is gone, however it went. Before that the first line there lets cameras in, the
second shuts them out, which is answered by a line. Signals are left to the parent, since a terminal's Ctrl-C and a
service manager's SIGTERM reach both, and the parent still wants to publish while it drains.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading

from iotcore import IotCoreBroker

from facewire_standalone.broker_front import Filters, Front

_log = logging.getLogger(__name__)


def _run_front(options: str) -> None:
    try:
        asyncio.run(_serve(options))
    except Exception:  # noqa: BLE001 - whatever it is: cameras reach nothing without the front
        _log.exception("the front of the MQTT broker failed")
    finally:
        os._exit(1)


async def _serve(options: str) -> None:
    """Let cameras in and shut them out as the parent says, and end with it."""
    given = json.loads(options)
    listener = socket.socket(fileno=given["listener"])
    front = Front(listener, ("127.0.0.1", given["inner_port"]), Filters(**given["filters"]))
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async with asyncio.TaskGroup() as tasks:
        await orders.readline()
        accepting = tasks.create_task(front.accept(), name="front")
        if await orders.readline():
            accepting.cancel()
            front.stop()
            print(flush=True)  # noqa: T201 - the answer to the parent
        await orders.read()
        os._exit(0)


def main() -> None:
    """Run the broker of the configuration file, and the front of the options, named on the command line."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    logging.basicConfig(format="%(message)s")
    # rumqttd reports every packet at the level ERROR; its log segments report only what a slow subscriber has lost.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    logging.getLogger("rumqttd.segments").setLevel(logging.WARNING)
    threading.Thread(target=_run_front, args=[sys.argv[2]], name="front", daemon=True).start()
    IotCoreBroker(config_path=sys.argv[1]).run_forever()


if __name__ == "__main__":
    main()
