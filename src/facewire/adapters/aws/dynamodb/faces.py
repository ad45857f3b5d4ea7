"""What the DynamoDB table holds of an enrolled face: the face, a vector for each embedder, and its crop."""

import json
import zlib
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from facewire.adapters.aws.dynamodb.items import Item, Key, Write
from facewire.adapters.aws.dynamodb.rows import iso
from facewire.adapters.aws.dynamodb.schema import DELETED, TTL
from facewire.domain.errors import GalleryError
from facewire.domain.lifecycle import FORGOTTEN_FOR
from facewire.domain.messages import FaceCrop, now
from facewire.domain.ports import EnrolledFace, PersonSummary

#: The partitions over which faces are spread. The number can never change: it says where a face is.
SHARDS = tuple(f"gallery#{number}" for number in range(8))
#: What the sort keys of each kind start with.
FACES, VECTORS, CROPS = "face#", "vector#", "crop#"
#: DynamoDB takes items of up to 400 KB. Our crops have up to 288 pixels a side, some 40 KB.
MAX_CROP_BYTES = 390_000


def face_key(face_id: str) -> Key:
    """Return the key of the face itself."""
    return _key(face_id, FACES)


def vector_key(face_id: str, embedder: str) -> Key:
    """Return the key of the embedding that an embedder made of the face."""
    return _key(face_id, vectors(embedder))


def vectors(embedder: str) -> str:
    """Return what the sort keys of the embeddings of one embedder start with."""
    return f"{VECTORS}{embedder}#"


def additions(face: EnrolledFace, known: Item | None = None) -> list[Write]:
    """Return what adds the face, or its embedding where the face is known; nothing if both are known.

    GalleryError `crop_too_large` where the crop does not fit into an item.
    """
    if known is None:
        return [_put_face(face), _put_vector(face), *_put_crop(face)]
    if face.embedder in known["embedders"]:
        return []
    more = Write.update(
        face_key(face.face_id),
        "SET #embedders = list_append(#embedders, :more)",
        condition="#person = :person AND #embedders = :embedders",
        values={"person": face.person, "embedders": known["embedders"], "more": [face.embedder]},
    )
    return [more, _put_vector(face)]


def deletions(face: Item) -> list[Write]:
    """Return what deletes the face and everything kept of it, if nothing has been added to it since it was read."""
    face_id = face["face_id"]
    values = {"person": face["person"], "embedders": face["embedders"]}
    condition = "#person = :person AND #embedders = :embedders"
    return [
        Write.delete(Key.of(face), condition=condition, values=values),
        *(Write.delete(vector_key(face_id, embedder)) for embedder in face["embedders"]),
        Write.delete(_key(face_id, CROPS)),
    ]


def put_guard(guard: str) -> Write:
    """Return what notes that the person or face of that guard was deleted at this moment."""
    moment = now()
    expires_at = int((moment + FORGOTTEN_FOR).timestamp())
    return Write.put({**guard_key(guard)._asdict(), "deleted_at": iso(moment), TTL: expires_at})


def guard_key(guard: str) -> Key:
    """Return the key of a guard against enrolments from before a deletion."""
    return Key(DELETED, guard)


def face_of(vector: Item, crop: FaceCrop | None = None) -> EnrolledFace:
    """Return the face with the embedding in `vector`."""
    moment = datetime.fromisoformat(vector["enrolled_at"])
    return EnrolledFace(vector["face_id"], vector["person"], vector["embedder"], vector["embedding"], moment, crop)


def crops_of(items: Iterable[Item]) -> list[EnrolledFace]:
    """Return each face that has a crop, with it and its first embedding, from all items of some partitions."""
    by_key = {Key.of(item): item for item in items}
    found = []
    for face in by_key.values():
        crop = by_key.get(_key(face["face_id"], CROPS))
        if face["sk"].startswith(FACES) and crop is not None:
            vector = by_key.get(vector_key(face["face_id"], face["embedders"][0]))
            if vector is not None:
                found.append(face_of(vector, _crop_of(crop)))
    return found


def people_of(faces: Iterable[Item]) -> list[PersonSummary]:
    """Return everybody of those faces, by name, with the ids of the faces, oldest first."""
    people: dict[str, list[Item]] = {}
    for face in sorted(faces, key=lambda face: (face["person"], face["enrolled_at"], face["face_id"])):
        people.setdefault(face["person"], []).append(face)
    return [
        PersonSummary(person, tuple(face["face_id"] for face in faces), datetime.fromisoformat(faces[0]["enrolled_at"]))
        for person, faces in people.items()
    ]


def age(face: EnrolledFace) -> tuple[datetime, str, str]:
    """Return what sorts faces by age, oldest first."""
    return face.enrolled_at, face.face_id, face.embedder


def _key(face_id: str, kind: str) -> Key:
    return Key(SHARDS[zlib.crc32(face_id.encode()) % len(SHARDS)], f"{kind}{face_id}")


def _put_face(face: EnrolledFace) -> Write:
    item = {**_owner(face, FACES), "embedders": [face.embedder]}
    return Write.put(item, condition="attribute_not_exists(#pk)")


def _put_vector(face: EnrolledFace) -> Write:
    return Write.put({**_owner(face, vectors(face.embedder)), "embedder": face.embedder, "embedding": face.embedding})


def _put_crop(face: EnrolledFace) -> list[Write]:
    if face.crop is None:
        return []
    if len(face.crop.jpeg) > MAX_CROP_BYTES:
        detail = f"the crop has {len(face.crop.jpeg):,} bytes, DynamoDB takes {MAX_CROP_BYTES:,}: enrol a smaller one"
        raise GalleryError("crop_too_large", detail)
    item = {"jpeg": face.crop.jpeg, "geometry": face.crop.model_dump_json(exclude={"jpeg"})}
    return [Write.put({**_key(face.face_id, CROPS)._asdict(), "face_id": face.face_id, **item})]


def _owner(face: EnrolledFace, kind: str) -> dict[str, Any]:
    key = _key(face.face_id, kind)._asdict()
    return {**key, "face_id": face.face_id, "person": face.person, "enrolled_at": iso(face.enrolled_at)}


def _crop_of(item: Item) -> FaceCrop:
    return FaceCrop.model_validate({"jpeg": item["jpeg"], **json.loads(item["geometry"])})
