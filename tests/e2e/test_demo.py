"""The demo ends well, quickly, and leaves nothing behind."""

import os
import subprocess
import sys
import time
from pathlib import Path


def test_every_answer_of_the_demo_is_right(tmp_path: Path) -> None:
    started = time.monotonic()
    command = [sys.executable, "-m", "facewire_standalone", "demo"]
    # Settings for a Facewire of this machine's own are not for the demo.
    others = {"FACEWIRE_KEYS_FILE": "/nowhere", "FACEWIRE_MQTT_CA_FILE": "/nowhere", "FACEWIRE_EMBEDDER": "sface"}
    environment = {**os.environ, **others, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "17 of 17 answers are right" in done.stdout
    for word in ("Unknown", "below_threshold", "No-Face", "raw", "as WebP"):
        assert word in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - started < 60
