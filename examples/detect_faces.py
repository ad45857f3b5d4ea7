"""The detector as a library: pictures in, boxes out. No server, no broker.

`python examples/detect_faces.py picture.jpg`
"""

import sys
from pathlib import Path

from facewire.vision.imagecodec import decode
from facewire.vision.models import load_detector

detector = load_detector(threads=2, min_face_size=20)
for path in map(Path, sys.argv[1:]):
    picture = decode(path.read_bytes())  # RGB, uint8, (height, width, 3), upright
    faces = detector(picture)
    print(f"{path.name}: {picture.shape[1]} x {picture.shape[0]} pixels, {len(faces)} faces")
    for box, confidence, landmarks in zip(faces.boxes, faces.confidences, faces.landmarks, strict=True):
        left, top, right, bottom = box  # pixels, origin top left
        x, y = landmarks[2]  # left eye, right eye, nose, left and right corner of the mouth
        print(f"  {left:.1f}, {top:.1f} to {right:.1f}, {bottom:.1f}: {confidence:.4f}, nose at {x:.1f}, {y:.1f}")
