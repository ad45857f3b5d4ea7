"""What the DynamoDB table holds of an enrolled face: the face, an embedding for each embedder, and its crop."""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from facewire.adapters.aws.dynamodb.items import TTL, Item, Key, Write, ttl
from facewire.adapters.aws.dynamodb.rows import iso
from facewire.domain.deletions import guards_of
from facewire.domain.errors import GalleryError
from facewire.domain.lifecycle import FORGOTTEN_FOR
from facewire.domain.messages import FaceCrop, now
from facewire.domain.ports import EnrolledFace, PersonSummary

#: The partitions over which faces are spread, so that loading them all is not held up by the 3,000 read units a second
#: that one gives. The number can never change: it says where a face is.
SHARDS = tuple(f"gallery#{number}" for number in range(8))
#: What the sort keys of each kind start with.
FACES, VECTORS, CROPS = "face#", "vector#", "crop#"
#: Partition of the guards against enrolments from before a deletion.
DELETED = "#deleted"
#: DynamoDB takes items of up to 400 KB. Our crops have up to 288 pixels a side, some 40 KB.
MAX_CROP_BYTES = 390_000
_NOT_DELETED_SINCE = "attribute_not_exists(#pk) OR #deleted_at <= :enrolled_at"
_SAME = "#person = :person AND #embedders = :embedders"


def face_key(face_id: str, kind: str = FACES) -> Key:
    """Return the key of the face itself, or of what is kept of it."""
    return Key(SHARDS[zlib.crc32(face_id.encode()) % len(SHARDS)], f"{kind}{face_id}")


def vectors(embedder: str) -> str:
    """Return what the sort keys of the embeddings of one embedder start with."""
    return f"{VECTORS}{embedder}#"


def additions(face: EnrolledFace, known: Item | None = None) -> list[Write]:
    """Return what adds the face, or its embedding where the face is known; nothing if both are known.

    GalleryError `crop_too_large` where the crop does not fit into an item.
    """
    owner = {"face_id": face.face_id, "person": face.person, "enrolled_at": iso(face.enrolled_at)}
    key = face_key(face.face_id, vectors(face.embedder))._asdict()
    vector = Write.put({**key, **owner, "embedder": face.embedder, "embedding": face.embedding})
    if known is None:
        item = {**face_key(face.face_id)._asdict(), **owner, "embedders": [face.embedder]}
        return [Write.put(item, condition="attribute_not_exists(#pk)"), vector, *_put_crop(face)]
    if face.embedder in known["embedders"]:
        return []
    values = {"person": face.person, "embedders": known["embedders"], "more": [face.embedder]}
    more = "SET #embedders = list_append(#embedders, :more)"
    return [Write.update(face_key(face.face_id), more, condition=_SAME, values=values), vector]


def deletions(face: Item) -> list[Write]:
    """Return what deletes the face and everything kept of it, if nothing has been added to it since it was read."""
    kinds = [*map(vectors, face["embedders"]), CROPS]
    values = {"person": face["person"], "embedders": face["embedders"]}
    face_itself = Write.delete(Key.of(face), condition=_SAME, values=values)
    return [face_itself, *(Write.delete(face_key(face["face_id"], kind)) for kind in kinds)]


def put_guard(guard: str) -> Write:
    """Return what notes that the person or face of that guard was deleted at this moment."""
    return Write.put({"pk": DELETED, "sk": guard, "deleted_at": iso(now()), TTL: ttl(now() + FORGOTTEN_FOR)})


def guard_checks(faces: Iterable[EnrolledFace]) -> Iterator[Write]:
    """Yield what keeps faces out if they, or their people, are deleted after they were asked for."""
    earliest: dict[str, str] = {}
    for face in faces:
        for guard in guards_of([face]):
            earliest[guard] = min(earliest.get(guard, "~"), iso(face.enrolled_at))
    for guard, moment in earliest.items():
        yield Write.check(Key(DELETED, guard), _NOT_DELETED_SINCE, {"enrolled_at": moment})


def face_of(vector: Item, crop: FaceCrop | None = None) -> EnrolledFace:
    """Return the face with the embedding in `vector`."""
    moment = datetime.fromisoformat(vector["enrolled_at"])
    return EnrolledFace(vector["face_id"], vector["person"], vector["embedder"], vector["embedding"], moment, crop)


def crops_of(items: Mapping[Key, Item]) -> Iterator[EnrolledFace]:
    """Yield each face that has a crop, with it and its first embedding, from all items of some partitions."""
    for key, face in items.items():
        if key.sk.startswith(FACES):
            crop = items.get(face_key(face["face_id"], CROPS))
            vector = items.get(face_key(face["face_id"], vectors(face["embedders"][0])))
            if crop is not None and vector is not None:
                geometry = json.loads(crop["geometry"])
                yield face_of(vector, FaceCrop.model_validate({"jpeg": crop["jpeg"], **geometry}))


def people_of(faces: Iterable[Item]) -> list[PersonSummary]:
    """Return everybody of those faces, by name, with the ids of the faces, oldest first."""
    people: dict[str, list[Item]] = {}
    for face in sorted(faces, key=lambda face: (face["person"], face["enrolled_at"], face["face_id"])):
        people.setdefault(face["person"], []).append(face)
    return [
        PersonSummary(person, tuple(face["face_id"] for face in faces), datetime.fromisoformat(faces[0]["enrolled_at"]))
        for person, faces in people.items()
    ]


def _put_crop(face: EnrolledFace) -> list[Write]:
    if face.crop is None:
        return []
    if len(face.crop.jpeg) > MAX_CROP_BYTES:
        detail = f"the crop has {len(face.crop.jpeg):,} bytes, DynamoDB takes {MAX_CROP_BYTES:,}: enrol a smaller one"
        raise GalleryError("crop_too_large", detail)
    item = {"jpeg": face.crop.jpeg, "geometry": face.crop.model_dump_json(exclude={"jpeg"})}
    return [Write.put({**face_key(face.face_id, CROPS)._asdict(), "face_id": face.face_id, **item})]
