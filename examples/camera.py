"""A camera: sends a picture over MQTT and prints the answer.

With `facewire up` running: `python examples/camera.py picture.jpg`.
"""

import argparse
import asyncio
import json
from pathlib import Path

import aiomqtt


async def main(picture: bytes, host: str, port: int, camera: str) -> None:
    """Publish `picture` as the camera does, and print who the one answer says is in it."""
    async with aiomqtt.Client(host, port) as broker:
        await broker.subscribe(f"clients/{camera}/results", qos=1)  # first, so that no answer is missed
        await broker.publish(f"clients/{camera}", picture, qos=1)
        message = await anext(aiter(broker.messages))
        answer = json.loads(str(message.payload, "utf-8"))
        print(answer["request_id"], answer["status"], answer["result"])


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("picture", type=lambda name: Path(name).read_bytes())
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=1883)
parser.add_argument("--camera", default="front-door")
asyncio.run(main(**vars(parser.parse_args())))
