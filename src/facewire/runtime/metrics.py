"""Prometheus metrics of the stages, in prometheus_client's default registry.

Labels are stages, steps and outcomes out of short fixed lists: never a camera, a person or a request.
"""

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

#: From a match (0.1 ms) to a frame that waited in a long queue.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

MESSAGES = Counter(
    "facewire_messages",
    "Messages by what became of them: done, failed (answered so), retried, held (in an outage), dead_lettered, "
    "deleted.",
    ["stage", "outcome"],
)
STEP_SECONDS = Histogram(
    "facewire_step_seconds", "Time of one step for one message.", ["stage", "step"], buckets=_SECONDS
)
IN_FLIGHT = Gauge("facewire_messages_in_flight", "Messages leased and not yet settled.", ["stage"])
QUEUE_ERRORS = Counter("facewire_queue_errors", "Calls that a queue could not answer.", ["stage", "call"])
QUEUE_MESSAGES = Gauge("facewire_queue_messages", "Messages in a queue, by state.", ["queue", "state"])
QUEUE_BYTES = Gauge("facewire_queue_bytes", "Bytes of the messages in a queue.", ["queue"])
FACES = Counter("facewire_faces", "Faces by what became of them: known, or the reason why not.", ["outcome"])
GALLERY_FACES = Gauge("facewire_gallery_faces", "Faces of the embedder in use.")
GALLERY_ERRORS = Counter("facewire_gallery_errors", "Times the gallery could not be read anew.")


def observe_steps(stage: str, timings_ms: Mapping[str, float], steps: tuple[str, ...]) -> None:
    """Count the times, in milliseconds, of those `steps` that `timings_ms` names."""
    for step in steps:
        if step in timings_ms:
            STEP_SECONDS.labels(stage, step).observe(timings_ms[step] / 1000)
