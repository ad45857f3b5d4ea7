"""The process that the embedded broker runs in: `python -P -m facewire_standalone.broker_process CONFIG.toml`.

rumqttd has no way to be stopped, so it has a process to itself. It ends when its standard input does: when the parent
closes the pipe, or when the parent is gone, however it went. Signals are left to the parent, since a terminal's Ctrl-C
and a service manager's SIGTERM reach both, and the parent still wants to publish while it drains.
"""

import logging
import os
import signal
import sys
import threading

from iotcore import IotCoreBroker


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Run the broker of the configuration file named on the command line."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    logging.basicConfig(format="%(message)s")
    # rumqttd reports every packet at the level ERROR; its log segments report only what a slow subscriber has lost.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    logging.getLogger("rumqttd.segments").setLevel(logging.WARNING)
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    IotCoreBroker(config_path=sys.argv[1]).run_forever()


if __name__ == "__main__":
    main()
