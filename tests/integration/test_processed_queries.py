"""The saved queries of deploy/aws/athena over 1,000 archived frames say the same as the table of results.

DuckDB runs the files as they are. Four functions that it has under another name are told to it; the columns come from
the description of the Glue table.
"""

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import duckdb
import pytest

from dynamodb_tables import dynamodb_table
from facewire.adapters.aws.dynamodb.results import DynamoDbResultStore
from facewire.domain.archive import PREFIX, ProcessedFrame
from facewire.domain.messages import (
    FAILED,
    NO_FACE,
    UNKNOWN,
    Emotions,
    FaceAttributes,
    RecognizedFace,
    RecognizedFaces,
)
from facewire.domain.ports import Result, ResultQuery, ResultStore

QUERIES = Path(__file__).parents[2] / "deploy" / "aws" / "athena"
FRAMES = 1000
PEOPLE = ("Ada Lovelace", "Conan O'Brien", "李小龍", "Grace Hopper")
CAMERAS = ("door", "yard", None)
REASONS = ("below_threshold", "ambiguous", "low_quality")
DAYS = 12
FUNCTIONS = (
    "cardinality(list) AS len(list)",
    "element_at(list, n) AS list[n]",
    "sequence(first, last) AS generate_series(first, last)",
    "from_iso8601_timestamp(text) AS CAST(text AS TIMESTAMP)",
)
TYPES = {"string": "VARCHAR", "int": "INTEGER", "double": "DOUBLE"}


def random_face(random: Random, index: int) -> RecognizedFace:
    person = random.choice([*PEOPLE, None])
    guess = None
    if random.random() < 0.5:
        emotions = Emotions(neutral=0.25, happy=0.75, sad=0, angry=0, fearful=0, disgusted=0, surprised=0)
        guess = FaceAttributes(emotions=emotions, age=40.5, gender="female", gender_confidence=0.9)
    return RecognizedFace(
        index=index,
        person=person,
        known=person is not None,
        similarity=round(random.uniform(0.4, 1), 4),
        reason=None if person else random.choice(REASONS),
        box=(1, 2, 30, 40),
        landmarks=None,
        confidence=0.999,
        attributes=guess,
    )


def random_answer(random: Random, number: int, received: datetime) -> RecognizedFaces:
    faces = tuple(random_face(random, index) for index in range(random.choice([0, 1, 1, 2, 3])))
    known = next((face.person for face in faces if face.person), UNKNOWN if faces else NO_FACE)
    broken = random.random() < 0.05
    return RecognizedFaces(
        request_id=f"frame {number:04}",
        camera=random.choice(CAMERAS),
        filename=f"input/{number}.jpg",
        status="failed" if broken else "done",
        result=FAILED if broken else known,
        received_at=received,
        faces=() if broken else faces,
    )


@pytest.fixture(scope="module")
def answers() -> list[RecognizedFaces]:
    """Frames of the last 12 days; the queries ask for the last 7 and 30."""
    random = Random(6)
    last = datetime.combine(datetime.now(UTC).date(), time(), UTC)
    moments = random.sample(range(DAYS * 86_400_000), FRAMES)
    received = (last - timedelta(milliseconds=moment) for moment in sorted(moments))
    return [random_answer(random, number, moment) for number, moment in enumerate(received)]


@pytest.fixture
async def table(answers: list[RecognizedFaces], aws_environment: str) -> AsyncIterator[ResultStore]:
    async with dynamodb_table(aws_environment) as table:
        store = DynamoDbResultStore(table, kept_days=30)
        for start in range(0, FRAMES, 100):
            await store.keep(answers[start : start + 100])
        yield store


def duckdb_type(hive: str) -> str:
    """Return what DuckDB calls a type of Hive."""
    words, ends = [], []
    for part in re.findall(r"\w+[:<]?|[>,]", hive):
        match part:
            case "struct<" | "array<":
                words.append("STRUCT(" if part == "struct<" else "")
                ends.append(")" if part == "struct<" else "[]")
            case ">":
                words.append(ends.pop())
            case ",":
                words.append(", ")
            case _:
                words.append(TYPES[part] if part in TYPES else f'"{part[:-1]}" ')
    return "".join(words)


@pytest.fixture
def archive(answers: list[RecognizedFaces], tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Return a connection that sees the archived frames as the table `processed`, as Athena does."""
    for frame in map(ProcessedFrame.of, answers):
        path = tmp_path / frame.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(frame.to_line())
    description = json.loads((QUERIES / "table.json").read_text())["StorageDescriptor"]["Columns"]
    columns = {column["Name"]: duckdb_type(column["Type"]) for column in description}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for function in FUNCTIONS:
            connection.execute(f"CREATE MACRO {function}")
        connection.read_json(
            str(tmp_path / PREFIX / "*" / "*.json"),
            format="newline_delimited",
            columns=columns,
            hive_partitioning=True,
            hive_types_autocast=False,
        ).create_view("processed")
        yield connection


def run(archive: duckdb.DuckDBPyConnection, query: str, *parameters: str) -> list[tuple[Any, ...]]:
    return archive.execute((QUERIES / f"{query}.sql").read_text(), parameters).fetchall()


async def page_through(store: ResultStore, **query: Any) -> list[Result]:
    found: list[Result] = []
    page = await store.page(ResultQuery(**query, limit=200))
    found.extend(page.results)
    while page.cursor is not None:
        page = await store.page(ResultQuery(**query, limit=200, cursor=page.cursor))
        found.extend(page.results)
    return found


async def whole_history(store: ResultStore) -> list[Result]:
    """Return every result, once the index of days has all of them."""
    async with asyncio.timeout(30):
        while len(found := await page_through(store)) < FRAMES:  # noqa: ASYNC110 - the index tells by being asked
            await asyncio.sleep(0.05)
    return found


async def test_the_queries_say_the_same_as_the_table(table: ResultStore, archive: duckdb.DuckDBPyConnection) -> None:
    histories = {person: await page_through(table, person=person) for person in PEOPLE}
    for person, history in histories.items():
        assert run(archive, "sightings", person) == list(sightings(history, person))
    assert {row[:2]: row[2:] for row in run(archive, "people")} == people_by_day(histories)
    unknown = unknown_faces(await whole_history(table))
    assert {row[:3]: row[3:] for row in run(archive, "unknown_faces")} == unknown
    assert min(sum(count for count, *_ in unknown.values()), *map(len, histories.values())) > 100


def faces_of(history: list[Result]) -> Iterator[tuple[Result, RecognizedFaces, RecognizedFace]]:
    """Yield each face with the result and the answer that it is in; of one picture the most alike first."""
    for result in history:
        assert result.answer is not None
        for face in sorted(result.answer.faces, key=lambda face: face.similarity or 0, reverse=True):
            yield result, result.answer, face


def sightings(history: list[Result], person: str) -> Iterator[tuple[Any, ...]]:
    """Yield when, where and on which picture each face of the person was seen, how alike, and where on the picture."""
    for result, answer, face in faces_of(history):
        if face.person == person:
            seen_at = result.received_at.replace(tzinfo=None)
            box = dict(zip(("x1", "y1", "x2", "y2"), face.box, strict=True))
            yield seen_at, answer.camera, answer.filename, result.request_id, face.similarity, box


def people_by_day(histories: dict[str, list[Result]]) -> dict[tuple[str, str], tuple[int, float, str, str]]:
    """Return how many pictures of a day show a person, how alike at best, and the first and last moment."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for person, history in histories.items():
        for result, _, face in faces_of(history):
            if face.person == person:
                moment = result.received_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
                found[moment[:10], person].append((moment, face.similarity or 0))
    days = {}
    for key, seen in found.items():
        moments = {moment for moment, _ in seen}  # no two pictures have the same
        days[key] = (len(moments), max(similarity for _, similarity in seen), min(moments), max(moments))
    return days


def unknown_faces(history: list[Result]) -> dict[tuple[str, str | None, str], tuple[int, int, Any]]:
    """Return faces without a name, their pictures and mean similarity by day, camera and reason, of the last 7 days."""
    since = datetime.now(UTC).date() - timedelta(days=7)
    found: dict[tuple[str, str | None, str], list[tuple[str, float]]] = defaultdict(list)
    for result, answer, face in faces_of(history):
        if face.reason and result.received_at.date() >= since:
            key = (f"{result.received_at:%Y-%m-%d}", answer.camera, face.reason)
            found[key].append((result.request_id, face.similarity or 0))
    return {
        key: (len(seen), len({picture for picture, _ in seen}), pytest.approx(fmean(alike for _, alike in seen)))
        for key, seen in found.items()
    }


def test_guesses_can_be_asked_for(archive: duckdb.DuckDBPyConnection, answers: list[RecognizedFaces]) -> None:
    query = """
        SELECT count(element_at(faces, n).emotions.happy), avg(element_at(faces, n).age)
        FROM processed CROSS JOIN UNNEST(sequence(1, greatest(1, cardinality(faces)))) AS place (n)
    """
    guessed = sum(face.attributes is not None for answer in answers for face in answer.faces)
    assert archive.execute(query).fetchall() == [(guessed, 40.5)]
