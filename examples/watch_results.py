"""A consumer of results: prints each answer as it comes, over server-sent events.

`python examples/watch_results.py`. After a break it goes on where it was: the gateway sends what was missed.
FACEWIRE_KEY is a key of role `read`, where the gateway asks for one.
"""

import argparse
import json
import os
import time

import httpx

LONGEST_PAUSE = 30.0


def watch(http: httpx.Client, last: str) -> str:
    """Print answers until the connection ends; return the id of the last one seen."""
    event = ""
    with http.stream("GET", "/v1/events", headers={"Last-Event-ID": last} if last else {}) as response:
        response.raise_for_status()
        print("watching", flush=True)
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                event = value
            elif field == "id":
                last = value
            elif field == "data" and event == "result":
                answer = json.loads(value)
                print(answer["camera"] or "-", answer["request_id"], answer["result"], flush=True)
            elif field == "data" and event == "overflow":
                print("some answers were left out: GET /v1/results has them", flush=True)
    return last


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--url", default="http://127.0.0.1:8080")
key = os.environ.get("FACEWIRE_KEY")
last_event, pause = "", 1.0
with httpx.Client(
    base_url=parser.parse_args().url, headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=30
) as client:
    while True:
        try:
            last_event, pause = watch(client, last_event), 1.0
        except httpx.TransportError as error:
            print(f"away: {error}", flush=True)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
