"""deploy/aws as a whole, with our own handlers: the emulator checks signatures, policies and TLS as AWS does."""

import base64
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from aws_emulator import PROGRAM as MINISTACK
from aws_emulator import REGION
from aws_stack import ACCOUNT, IMAGE, Cloud, deploy, guarded_cloud
from facewire.adapters.aws.dynamodb.faces import FACES
from facewire.adapters.aws.dynamodb.items import Item, item_of
from facewire.adapters.aws.dynamodb.rows import Row
from facewire.adapters.aws.sqs.queue import SqsQueues
from facewire.adapters.stores import open_stores
from facewire.domain.enrolment import proof_of
from facewire.domain.messages import DetectedFaces, Frame, RecognizedFace, RecognizedFaces, now
from facewire.domain.ports import EnrolledFace, GalleryStore, ResultQuery, ResultStore
from facewire_gateway.service import GatewayServiceSettings

T = TypeVar("T")
PERSON = "Ada Lovelace"
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Stack:
    """The deployed stack, in which one person is enrolled."""

    cloud: Cloud
    outputs: dict[str, str]
    samples: Path

    def put(self, key: str, body: bytes) -> None:
        """Put an object into the bucket."""
        self.cloud.client("s3").put_object(Bucket=self.outputs["BucketName"], Key=key, Body=body)

    def sample(self, name: str) -> bytes:
        """Return a picture that ships with the project."""
        return (self.samples / name).read_bytes()

    def rows(self) -> list[Row]:
        """Return all requests in the table of results."""
        return [Row.of(item) for item in self._items("ResultsTableName") if item["sk"] == "frame"]

    def faces(self) -> list[str]:
        """Return who is enrolled, by face."""
        return [item["person"] for item in self._items("GalleryTableName") if item["sk"].startswith(FACES)]

    def _items(self, table: str) -> list[Item]:
        found = self.cloud.client("dynamodb").scan(TableName=self.outputs[table])["Items"]
        return [item_of(item) for item in found]

    def processed(self) -> list[dict[str, Any]]:
        """Return all archived frames."""
        s3, bucket = self.cloud.client("s3"), self.outputs["BucketName"]
        listed = s3.list_objects_v2(Bucket=bucket, Prefix="processed/").get("Contents", [])
        bodies = [s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read() for found in listed]
        return [json.loads(body) for body in bodies]

    def user(self, policy: str) -> Credentials:
        """Return credentials of a new user who has that policy of the stack alone."""
        iam, name = self.cloud.client("iam"), f"{policy.removesuffix('Arn')}-{uuid.uuid4().hex[:8]}"
        iam.create_user(UserName=name)
        iam.attach_user_policy(UserName=name, PolicyArn=self.outputs[policy])
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return Credentials(key["AccessKeyId"], key["SecretAccessKey"])

    def core(self) -> Any:
        """Return a client of SQS with the rights of a Greengrass core alone."""
        return self.cloud.client("sqs", self.user("TokenExchangePolicyArn"))

    def answer(self, request_id: str, user: Credentials | None = None) -> dict[str, Any] | None:
        """Return the answer to the request if it has come, as a client does that shares the queue with others."""
        sqs, queue = self.cloud.client("sqs", user), self.outputs["ResponseQueueUrl"]
        for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0).get(
            "Messages", []
        ):
            body: dict[str, Any] = json.loads(message["Body"])
            if body["request_id"] == request_id:
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
                return body
        return None

    def enroll_key(self) -> str:
        """Return the key of enrolments, which the throughput tier has in a secret."""
        found = self.cloud.client("secretsmanager").get_secret_value(SecretId=self.outputs["EnrollKeyArn"])
        key: str = found["SecretString"]
        return key

    @contextmanager
    def container(self, log: Path) -> Iterator[None]:
        """Run the recognizer as the throughput tier does: with the settings of its task and the rights of its role."""
        ecs, iam = self.cloud.client("ecs"), self.cloud.client("iam")
        (task,) = ecs.list_task_definitions(familyPrefix="tier-recognizer")["taskDefinitionArns"]
        definition = ecs.describe_task_definition(taskDefinition=task)["taskDefinition"]
        settings = {found["name"]: found["value"] for found in definition["containerDefinitions"][0]["environment"]}
        settings["FACEWIRE_ENROLL_KEY"] = self.enroll_key()
        role = definition["taskRoleArn"].rpartition("/")[2]
        policy = iam.get_role_policy(RoleName=role, PolicyName="recognize")["PolicyDocument"]
        iam.create_user(UserName="task")
        iam.put_user_policy(UserName="task", PolicyName="recognize", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="task")["AccessKey"]
        rights = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        emulator = {"FACEWIRE_AWS_ENDPOINT_URL": self.cloud.endpoint, "AWS_CA_BUNDLE": str(self.cloud.ca_file)}
        environment = {**os.environ, **settings, **rights, **emulator, "FACEWIRE_PROBE_PORT": "0"}
        with log.open("wb") as output:
            command = [sys.executable, "-m", "facewire_recognizer"]
            child = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            try:
                yield
            finally:
                child.terminate()
                child.wait(timeout=20)

    def post(self, frame: dict[str, str], credentials: Credentials | None) -> httpx.Response:
        """POST a frame to the Function URL, signed where there are credentials."""
        request = AWSRequest("POST", self.outputs["FunctionUrl"], data=json.dumps(frame))
        if credentials is not None:
            SigV4Auth(credentials, "lambda", REGION).add_auth(request)
        host = httpx.URL(self.outputs["FunctionUrl"]).host
        headers = {**dict(request.headers.items()), "Host": host}
        return httpx.post(
            self.cloud.endpoint, content=request.data, headers=headers, verify=self.cloud.trusted(), timeout=60
        )


def within(find: Callable[[], T | None], what: str) -> T:
    """Return what is found before the deadline."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if (found := find()) is not None:
            return found
        time.sleep(0.1)
    pytest.fail(f"no {what} within {_SECONDS} s")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Iterator[Stack]:
    if not MINISTACK.exists():
        pytest.skip("needs ministack in .venv-ministack: make setup")
    with guarded_cloud(tmp_path_factory.mktemp("stack")) as cloud:
        stack = Stack(cloud, deploy(cloud, "facewire", {"ImageUri": IMAGE}), samples)
        stack.put(f"enroll/{PERSON}/portrait.jpg", stack.sample("eileen_collins.jpg"))
        within(lambda: stack.faces() or None, "enrolled face")
        yield stack


def test_a_picture_under_input_becomes_a_row_and_an_object(stack: Stack) -> None:
    stack.put("input/front-door/hello world.jpg", stack.sample("eileen_collins.jpg"))
    row = within(lambda: next((row for row in stack.rows() if row.camera == "front-door"), None), "row")
    assert row.answer is not None
    assert (row.status, row.answer.result, row.answer.filename) == ("done", PERSON, "hello world.jpg")
    (archived,) = [found for found in stack.processed() if found["image_id"] == row.request_id]
    assert [face["person"] for face in archived["faces"]] == [PERSON]


def test_who_is_enrolled_has_the_name_of_the_folder(stack: Stack) -> None:
    assert stack.faces() == [PERSON]


def test_a_broken_picture_is_recorded_as_failed(stack: Stack) -> None:
    stack.put("input/broken/no picture.jpg", b"no picture at all")
    row = within(lambda: next((row for row in stack.rows() if row.camera == "broken"), None), "row")
    assert row.answer is not None
    assert row.answer.error is not None
    assert (row.status, row.answer.error.code) == ("failed", "not_an_image")
    (archived,) = [found for found in stack.processed() if found["image_id"] == row.request_id]
    assert (archived["status"], archived["error"]["code"]) == ("failed", "not_an_image")
    states, machine = stack.cloud.client("stepfunctions"), stack.outputs["StateMachineArn"]
    failed = states.list_executions(stateMachineArn=machine, statusFilter="FAILED")["executions"]
    assert len(failed) == 1


def test_a_client_with_the_policy_posts_a_frame_and_reads_the_answer(stack: Stack) -> None:
    user = stack.user("ClientPolicyArn")
    content = base64.b64encode(stack.sample("eileen_collins.jpg")).decode()
    response = stack.post({"request_id": "post-1", "filename": "frame1.jpg", "content": content}, user)
    assert (response.status_code, response.json()["faces"]) == (200, 1)
    answer = within(lambda: stack.answer("post-1", user), "answer")
    assert answer["result"] == PERSON


def test_nobody_else_posts_frames(stack: Stack) -> None:
    stranger = stack.user("EnrollPolicyArn")
    assert stack.post({"request_id": "post-2", "filename": "x", "content": "x"}, None).status_code == 403
    assert stack.post({"request_id": "post-2", "filename": "x", "content": "x"}, stranger).status_code == 403


async def test_a_gateway_with_the_policy_keeps_results_and_people_in_both_tables(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = stack.user("GatewayPolicyArn")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", user.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", user.secret_key)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(stack.cloud.ca_file))
    settings = GatewayServiceSettings(
        store="dynamodb",
        table=stack.outputs["ResultsTableName"],
        gallery_table=stack.outputs["GalleryTableName"],
        request_queue=stack.outputs["RequestQueueUrl"],
        response_queue=stack.outputs["ResponseQueueUrl"],
        region=REGION,
        aws_endpoint_url=stack.cloud.endpoint,
    )
    async with open_stores(settings, kept_days=14) as (results, gallery):
        await _keep_and_forget(results, gallery)
    async with SqsQueues.open(settings) as queues:
        await queues.queue(settings.request_queue).depth()
        responses = queues.queue(settings.response_queue)
        await responses.depth()
        for queue in (responses, responses.dead_letters()):
            await queue.send([b"{}"])
            leases = await queue.receive(1, wait=1)
            await queue.extend(leases, 10)
            await queue.acknowledge(leases)
    assert stack.faces() == [PERSON]


async def _keep_and_forget(results: ResultStore, gallery: GalleryStore) -> None:
    """Do what a gateway does with results and people; leave none of them but those who were there."""
    frame = Frame.of(b"picture", request_id="gateway-1", camera="hall")
    person = "Grace Hopper"
    await results.expect(frame)
    assert [row.request_id for row in await results.overdue(now() + timedelta(seconds=1), 1000)] == ["gateway-1"]
    face = RecognizedFace(
        index=0, person=person, known=True, similarity=0.9, box=(0, 0, 9, 9), landmarks=None, confidence=1.0
    )
    answer = RecognizedFaces(request_id="gateway-1", result=person, camera="hall", faces=[face])
    assert await results.keep([answer.model_copy(update={"content_sha256": frame.content_sha256})])
    for query in (ResultQuery(), ResultQuery(camera="hall"), ResultQuery(person=person), ResultQuery(status="done")):
        assert "gateway-1" in [result.request_id for result in (await results.page(query)).results]
    await gallery.add([EnrolledFace("face-1", person, "another", b"vector", now(), None)])
    assert {summary.person for summary in await gallery.people()} == {PERSON, person}
    assert await gallery.delete_person(person) == 1
    await results.forget_person(person, gallery_version=await gallery.version())
    kept = await results.get("gateway-1")
    assert kept is not None
    assert kept.answer is not None
    assert person.encode() not in kept.answer.to_bytes()


def test_a_core_sends_to_both_queues_and_reads_neither(stack: Stack) -> None:
    core = stack.core()
    for queue in ("RequestQueueUrl", "ResponseQueueUrl"):
        with pytest.raises(ClientError, match="AccessDenied"):
            core.receive_message(QueueUrl=stack.outputs[queue])
    core.send_message(QueueUrl=stack.outputs["RequestQueueUrl"], MessageBody="{}")


def test_a_core_enrols_nobody(stack: Stack) -> None:
    core, queue = stack.core(), stack.outputs["RequestQueueUrl"]
    portrait = base64.b64encode(stack.sample("grace_hopper.jpg")).decode()
    forged = {"request_id": "core-1", "face_image": portrait, "enroll_as": "Eve", "enroll_proof": "0" * 64}
    core.send_message(QueueUrl=queue, MessageBody=json.dumps(forged))
    answer = within(lambda: stack.answer("core-1"), "answer")
    assert answer["error"]["code"] == "enroll_refused"
    assert "enroll/<person>/" in answer["error"]["detail"]
    assert stack.faces() == [PERSON]


def test_a_dead_letter_is_recorded_and_answered(stack: Stack) -> None:
    letter = {"request_id": "dead-1", "filename": "frame.jpg", "face_image": "broken"}
    sqs = stack.cloud.client("sqs")
    sqs.send_message(QueueUrl=stack.outputs["RequestQueueUrl"] + "-dead", MessageBody=json.dumps(letter))
    assert within(lambda: stack.answer("dead-1"), "answer")["result"] == "Failed"
    within(lambda: next((row for row in stack.rows() if row.request_id == "dead-1"), None), "row")


def test_the_other_options_can_be_deployed(stack: Stack) -> None:
    others = {"ImageUri": IMAGE, "FunctionUrlAuth": "NONE", "DetectConcurrency": "5", "AlarmEmail": "ada@example.org"}
    names = {"ResultsTableName": "others", "AnalyticsDatabase": "others", "StateMachineType": "EXPRESS"}
    deploy(stack.cloud, "core", {**others, **names, "CoreResults": "yes"})


def test_a_container_of_the_throughput_tier_may_do_its_work(stack: Stack, tmp_path: Path) -> None:
    names = {"ImageUri": IMAGE, "ResultsTableName": "tier", "AnalyticsDatabase": "tier", "Recognizer": "service"}
    places = {"RecognizerImageUri": IMAGE, "ServiceVpc": "vpc-1", "ServiceSubnets": "subnet-1,subnet-2"}
    tier = Stack(stack.cloud, deploy(stack.cloud, "tier", {**names, **places}), stack.samples)
    content = base64.b64encode(tier.sample("grace_hopper.jpg")).decode()
    sender = Credentials(ACCOUNT, "test")
    assert tier.post({"request_id": "tier-1", "filename": "frame.jpg", "content": content}, sender).status_code == 200
    log = tmp_path / "recognizer.log"
    with tier.container(log):
        answer = within(lambda: tier.answer("tier-1"), "answer")
        signed = {"request_id": "tier-2", "face_image": content, "enroll_as": PERSON}
        message = DetectedFaces.model_validate(signed | {"received_at": now()})
        proven = message.model_copy(update={"enroll_proof": proof_of(tier.enroll_key().encode(), message)})
        queue = tier.outputs["RequestQueueUrl"]
        tier.cloud.client("sqs").send_message(QueueUrl=queue, MessageBody=proven.to_bytes().decode())
        enrolled = within(lambda: tier.answer("tier-2"), "answer")["enrolled"]
    assert enrolled["person"] == PERSON
    assert (answer["result"], answer["faces"][0]["reason"]) == ("Unknown", "empty_gallery")
    assert [line for line in log.read_text().splitlines() if json.loads(line)["level"] in {"warning", "error"}] == []
