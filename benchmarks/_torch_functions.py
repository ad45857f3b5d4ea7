"""`detect` or `recognize` as written with torch and facenet-pytorch, for benchmarks/lambda_.py.

One process, one thread, over stdin and stdout: a line with an event is answered by a line with the result. There is no
runtime client and no queue: what they do with a frame is all that is timed.
"""

import base64
import io
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from facenet_pytorch import MTCNN, InceptionResnetV1
from PIL import Image

#: People in the gallery, as in the smallest of the galleries that come with such deployments.
PEOPLE = 79
Event = dict[str, Any]


def detect() -> Callable[[Event], Event]:
    """Return the function that cuts the first face out of a frame."""
    mtcnn = MTCNN(image_size=160, margin=14, post_process=False)

    def handle(event: Event) -> Event:
        body = json.loads(event["body"])
        picture = Image.open(io.BytesIO(base64.b64decode(body["content"]))).convert("RGB")
        face = mtcnn(picture)
        encoded = io.BytesIO()
        Image.fromarray(face.permute(1, 2, 0).byte().numpy()).save(encoded, "JPEG")
        crop = base64.b64encode(encoded.getvalue()).decode()
        return {"request_id": body["request_id"], "face_image": crop}

    return handle


def recognize(weights: str) -> Callable[[Event], Event]:
    """Return the function that names the faces of a batch, one after the other."""
    network = InceptionResnetV1().eval()
    state = {name: torch.from_numpy(values) for name, values in np.load(weights).items()}
    network.load_state_dict(state, strict=False)
    gallery = torch.nn.functional.normalize(torch.randn(PEOPLE, 512), dim=1)

    def handle(event: Event) -> Event:
        return {"results": [name(json.loads(record["body"])) for record in event["Records"]]}

    def name(body: Event) -> int:
        picture = Image.open(io.BytesIO(base64.b64decode(body["face_image"]))).convert("RGB").resize((160, 160))
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None]
        with torch.no_grad():
            embedding = network((pixels - 127.5) / 128)
        return int((gallery @ embedding[0]).argmax())

    return handle


def main() -> None:
    torch.set_num_threads(1)
    function, *weights = sys.argv[1:]
    handle = recognize(*weights) if function == "recognize" else detect()
    for line in sys.stdin:
        print(json.dumps(handle(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
