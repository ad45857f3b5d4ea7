"""Events as AWS sends them to functions, after the examples in its developer guides, and the pictures in them."""

import base64
import hashlib
import json
from typing import Any

import numpy as np

from facewire.domain.messages import DetectedFaces
from facewire.vision.imagecodec import encode_jpeg

COLOURS = {"Red": (200, 20, 20), "Blue": (20, 20, 200)}


def portrait(person: str, size: int = 120) -> bytes:
    """Return a face of noise around one colour, which passes every gate, as a JPEG."""
    noise = np.random.default_rng(7).normal(COLOURS[person], 25, (size, size, 3))
    return encode_jpeg(np.clip(noise, 0, 255).astype(np.uint8))


def text(content: bytes) -> str:
    """Return the bytes in base64."""
    return base64.b64encode(content).decode()


def single_face(person: str, request_id: str, **fields: str) -> str:
    """Return the message of one face that earlier deployments sent."""
    return json.dumps({"request_id": request_id, "filename": "a.jpg", "face_image": text(portrait(person)), **fields})


def enrolment(person: str, request_id: str) -> str:
    """Return a message that enrols the person."""
    message = DetectedFaces.model_validate_json(single_face(person, request_id))
    return message.model_copy(update={"enroll_as": person}).to_bytes().decode()


def function_url(body: str | None, *, method: str = "POST", encoded: bool = False) -> dict[str, Any]:
    """Return a request to a Function URL, payload format 2.0."""
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {
            "x-amzn-tls-version": "TLSv1.3",
            "x-amzn-trace-id": "Root=1-67409d3a-5f3f5d8d2c1f4a0b7d9e1c22",
            "x-forwarded-proto": "https",
            "host": "abcdefghijklmnopqrstuvwxyz012345.lambda-url.us-east-1.on.aws",
            "x-forwarded-port": "443",
            "content-type": "application/json",
            "x-forwarded-for": "203.0.113.7",
            "accept": "*/*",
            "user-agent": "python-requests/2.32.3",
        },
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abcdefghijklmnopqrstuvwxyz012345",
            "domainName": "abcdefghijklmnopqrstuvwxyz012345.lambda-url.us-east-1.on.aws",
            "domainPrefix": "abcdefghijklmnopqrstuvwxyz012345",
            "http": {
                "method": method,
                "path": "/",
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.7",
                "userAgent": "python-requests/2.32.3",
            },
            "requestId": "e1506fd5-9e7b-434f-bd42-4f8fa224b599",
            "routeKey": "$default",
            "stage": "$default",
            "time": "22/Nov/2026:10:15:00 +0000",
            "timeEpoch": 1795342500000,
        },
        "isBase64Encoded": encoded,
    }
    return event if body is None else {**event, "body": body}


def sqs(*bodies: str, receives: int = 1, queue: str = "requests") -> dict[str, Any]:
    """Return what the event source mapping of a standard queue hands over; messages are named m0, m1, …"""
    return {
        "Records": [
            {
                "messageId": f"m{number}",
                "receiptHandle": f"AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a-{number}",
                "body": body,
                "attributes": {
                    "ApproximateReceiveCount": str(receives),
                    "SentTimestamp": "1795342500000",
                    "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                    "ApproximateFirstReceiveTimestamp": "1795342500010",
                },
                "messageAttributes": {},
                "md5OfBody": hashlib.md5(body.encode()).hexdigest(),  # noqa: S324 - what SQS uses
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{queue}",
                "awsRegion": "us-east-1",
            }
            for number, body in enumerate(bodies)
        ]
    }


def object_created(bucket: str, key: str) -> dict[str, Any]:
    """Return the event of EventBridge for a new object; its key is as it is."""
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "account": "123456789012",
        "time": "2026-11-22T10:15:00Z",
        "region": "us-east-1",
        "resources": [f"arn:aws:s3:::{bucket}"],
        "detail": {
            "version": "0",
            "bucket": {"name": bucket},
            "object": {
                "key": key,
                "size": 5120,
                "etag": "b1946ac92492d2347c6235b4d2611184",
                "sequencer": "617f08299329d189",
            },
            "request-id": "N4N7GDK58NMKJ12R",
            "requester": "123456789012",
            "source-ip-address": "203.0.113.7",
            "reason": "PutObject",
        },
    }


def notification(bucket: str, encoded_key: str) -> dict[str, Any]:
    """Return a bucket's own notification of a new object; its key is encoded as in a form."""
    return {
        "Records": [
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "awsRegion": "us-east-1",
                "eventTime": "2026-11-22T10:15:00.000Z",
                "eventName": "ObjectCreated:Put",
                "userIdentity": {"principalId": "AWS:AIDAJDPLRKLG7UEXAMPLE"},
                "requestParameters": {"sourceIPAddress": "203.0.113.7"},
                "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810"},
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": "enroll",
                    "bucket": {
                        "name": bucket,
                        "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                        "arn": f"arn:aws:s3:::{bucket}",
                    },
                    "object": {
                        "key": encoded_key,
                        "size": 5120,
                        "eTag": "b1946ac92492d2347c6235b4d2611184",
                        "sequencer": "0055AED6DCD90281E5",
                    },
                },
            }
        ]
    }
