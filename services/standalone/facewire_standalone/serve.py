"""`facewire up`: the system from the first line printed to the signal that ends it."""

import sys
from collections.abc import Callable

from facewire.runtime.allocator import keep_memory_level
from facewire.runtime.logs import configure_logging
from facewire.runtime.shutdown import stop_on_signals
from facewire_gateway.connections import raise_open_files_limit
from facewire_standalone.settings import StandaloneSettings
from facewire_standalone.system import running_system

#: How long a thread may keep the interpreter while others wait for it. Those that compute need it often and shortly:
#: with the default of 5 ms a core stands idle while the event loop keeps it, which costs 3 to 6 % of the frames.
_SWITCH_SECONDS = 0.001


async def serve(settings: StandaloneSettings, write: Callable[[str], None]) -> None:
    """Run the system until SIGTERM or SIGINT; once it is ready, `write` one line per address."""
    configure_logging(settings.log_level, settings.log_format)
    keep_memory_level()
    sys.setswitchinterval(_SWITCH_SECONDS)
    raise_open_files_limit()
    async with stop_on_signals() as stop, running_system(settings) as system:
        write(f"HTTP API     {system.http_url}")
        write(f"MQTT broker  mqtt://{system.mqtt_host}:{system.mqtt_port}")
        write(f"Data folder  {system.data_dir}")
        await stop.wait()
