"""Answers in words: what `send`, `recognize`, `watch` and `demo` show of them."""

from facewire.domain.messages import RecognizedFace, RecognizedFaces

STAGES = ("decode", "detect", "queue", "embed", "match", "total")


def leading_face(answer: RecognizedFaces) -> RecognizedFace | None:
    """Return the face that `result` speaks of: the largest known one, else the largest; None without a face."""
    known = (face for face in answer.faces if face.known)
    return next(known, answer.faces[0] if answer.faces else None)


def similarity(answer: RecognizedFaces) -> str:
    """Return the leading face's cosine similarity to the nearest person, a dash where there is none."""
    face = leading_face(answer)
    return "-" if face is None or face.similarity is None else f"{face.similarity:.3f}"


def reason(answer: RecognizedFaces) -> str:
    """Return why the answer is not a name: the failure, the enrolment's refusal or the leading face's reason code."""
    if answer.error is not None:
        return f"{answer.error.stage}: {answer.error.code}: {answer.error.detail}"
    if answer.enrolled is not None and answer.enrolled.refused:
        return "refused: " + ", ".join(answer.enrolled.refused)
    face = leading_face(answer)
    return "" if face is None else face.reason or ""


def milliseconds(answer: RecognizedFaces, stage: str) -> str:
    """Return the time that `stage` took, in milliseconds, a dash where it did not run."""
    value = answer.timings_ms.get(stage)
    return "-" if value is None else f"{value:.1f}"


def summary(name: str, answer: RecognizedFaces) -> str:
    """Return the answer to the picture `name` in one line."""
    parts = [f"{name}: {answer.result}"]
    if similarity(answer) != "-":
        parts.append(f"similarity {similarity(answer)}")
    if len(answer.faces) > 1:
        parts.append(f"{len(answer.faces)} faces")
    if reason(answer):
        parts.append(reason(answer))
    if "total" in answer.timings_ms:
        parts.append(f"{milliseconds(answer, 'total')} ms")
    return "  ".join(parts)
