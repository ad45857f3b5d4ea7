"""Which faces are fit to be enrolled, and which to be recognised: strict at enrolment, loose after.

Each refusal has a reason code, so that a person can do better. The measures are those of `vision/quality.py`.
"""

from dataclasses import dataclass
from typing import Literal

from facewire.domain.messages import FaceQuality

Refusal = Literal["too_small", "too_blurred", "too_dark", "too_bright", "bad_pose", "low_confidence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The limits a face must keep: `size` in pixels, `sharpness` and brightness as measured, angles in degrees."""

    confidence: float
    size: float
    sharpness: float
    darkest: float
    brightest: float
    yaw: float
    pitch: float
    roll: float


#: What is enrolled decides every later match. 60 px is less than the smallest face of LFW (63); a blur of 2 px on LFW
#: falls below a sharpness of 15 and one of 1 px stays above it; the detector is surer than 0.99 of 99.5 % of its faces.
ENROLMENT = Gate(confidence=0.99, size=60, sharpness=15, darkest=20, brightest=235, yaw=50, pitch=40, roll=40)
#: Only what holds no face one could know: a wrong refusal here is a miss, a wrong pass still has to match. Blurred and
#: uncertain faces resemble each other more than the people they show; of LFW's main faces none is less sharp than 9 and
#: one in 1,584 is found with less than 0.9.
RECOGNITION = Gate(confidence=0.90, size=20, sharpness=4, darkest=8, brightest=248, yaw=75, pitch=65, roll=180)


def refusals(quality: FaceQuality, confidence: float, gate: Gate) -> tuple[Refusal, ...]:
    """Return why a face does not pass `gate`, nothing if it does; `confidence` is the detector's, 0 to 1."""
    turned = abs(quality.yaw) > gate.yaw or abs(quality.pitch) > gate.pitch or abs(quality.roll) > gate.roll
    reasons: dict[Refusal, bool] = {
        "too_small": quality.size < gate.size,
        "too_blurred": quality.sharpness < gate.sharpness,
        "too_dark": quality.brightness < gate.darkest,
        "too_bright": quality.brightness > gate.brightest,
        "bad_pose": turned,
        "low_confidence": confidence < gate.confidence,
    }
    return tuple(reason for reason, holds in reasons.items() if holds)
