"""The proof that a gateway made an enrolment: a right to send to a queue or a topic is no right to enrol.

It goes with the frame and with its faces. Who made it has the key that gateway and recognizer alone hold.
"""

import hashlib
import hmac
import json
from datetime import UTC

from facewire.domain.errors import RecognizeError
from facewire.domain.messages import DetectedFaces, Frame


def proof_of(key: bytes, request: Frame | DetectedFaces) -> str:
    """Return the HMAC-SHA256, 64 hexadecimal digits, over request id, person, content hash and time of receipt.

    The time is signed because a deletion counts against what was received before it: with another time, a proof that
    was overheard would bring a deleted person back.
    """
    received_at = request.received_at.astimezone(UTC).isoformat()
    # JSON keeps the fields apart, whatever is in them.
    signed = json.dumps([request.request_id, request.enroll_as, request.content_sha256, received_at])
    return hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()


def check_proof(key: bytes | None, message: DetectedFaces) -> None:
    """Raise RecognizeError `enroll_refused` for an enrolment without the proof of `key`; without a key, for any."""
    if message.enroll_as is None:
        return
    if key is None:
        detail = "nobody can be enrolled here, for want of a key: set FACEWIRE_ENROLL_KEY, the same as the gateway's"
        raise RecognizeError("enroll_refused", detail)
    if message.enroll_proof is None:
        detail = "the enrolment has no proof that a gateway made it: enrol over POST /v1/people/{person}/faces"
        raise RecognizeError("enroll_refused", detail)
    if not hmac.compare_digest(message.enroll_proof.encode(), proof_of(key, message).encode()):
        detail = (
            "the enrolment's proof is not that of this request, person and picture, or of another key: "
            "gateway and recognizer need the same data folder, or the same FACEWIRE_ENROLL_KEY"
        )
        raise RecognizeError("enroll_refused", detail)
