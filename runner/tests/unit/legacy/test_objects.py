"""The local S3-style endpoint, asked by the client that trainers use."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from cultivar_runner.legacy.calls import Calls
from cultivar_runner.legacy.objects import ObjectStore
from cultivar_runner.legacy.server import LocalServer
from cultivar_runner.legacy.translate import Translator

TOKEN = "0123456789abcdef"
MIB = 1024 * 1024


class World:
    def __init__(self, folder: Path) -> None:
        self.uploads: list[tuple[str, int]] = []
        self.dataset = folder / "dataset"
        (self.dataset / "images").mkdir(parents=True)
        for index in range(5):
            (self.dataset / "images" / f"한 {index}+.png").write_bytes(b"picture" * index)
        (self.dataset / "annotations.json").write_text("{}")
        self.store = ObjectStore(
            dataset_dir=self.dataset,
            dataset_id="det-coco8",
            folder=folder / "objects",
            on_upload=lambda key, path: self.uploads.append((key, path.stat().st_size)),
        )
        self.sent: list[Any] = []
        self.server = LocalServer(TOKEN, Calls(5, Translator(self.sent.append)), self.store)

    def client(self, key: str = TOKEN) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.server.url,
            aws_access_key_id=key,
            aws_secret_access_key=key,
            region_name="us-east-1",
            config=Config(signature_version="s3v4", retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    with found.server:
        yield found


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_the_data_set_is_listed_page_by_page_and_read(world: World, tmp_path: Path) -> None:
    s3 = world.client()
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket="training-datasets", Prefix="datasets/det-coco8/", PaginationConfig={"PageSize": 2}
    )
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    assert keys == ["datasets/det-coco8/annotations.json"] + [
        f"datasets/det-coco8/images/한 {i}+.png" for i in range(5)
    ]
    for key in keys:
        target = tmp_path / "copy" / key
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file("training-datasets", key, str(target))
        assert target.read_bytes() == (world.dataset / key.removeprefix("datasets/det-coco8/")).read_bytes()


def test_folders_are_listed_as_such(world: World) -> None:
    page = world.client().list_objects_v2(Bucket="b", Prefix="datasets/det-coco8/", Delimiter="/")
    assert [entry["Key"] for entry in page["Contents"]] == ["datasets/det-coco8/annotations.json"]
    assert [entry["Prefix"] for entry in page["CommonPrefixes"]] == ["datasets/det-coco8/images/"]


def test_ranges_heads_and_what_is_not_there(world: World) -> None:
    s3 = world.client()
    key = "datasets/det-coco8/images/한 4+.png"
    assert s3.head_object(Bucket="b", Key=key)["ContentLength"] == 28
    part = s3.get_object(Bucket="b", Key=key, Range="bytes=7-13")
    assert (part["Body"].read(), part["ContentRange"]) == (b"picture", "bytes 7-13/28")
    assert s3.get_object(Bucket="b", Key=key, Range="bytes=-7")["Body"].read() == b"picture"
    with pytest.raises(ClientError) as missing:
        s3.get_object(Bucket="b", Key="models/pretrained/timm/resnet18.pt")
    assert code_of(missing) == "NoSuchKey"
    with pytest.raises(ClientError):
        s3.head_object(Bucket="b", Key="datasets/other/annotations.json")


def test_annotations_of_one_task_are_those_of_all_when_there_is_one_file(world: World) -> None:
    key = "datasets/det-coco8/annotations_detection.json"
    assert world.client().get_object(Bucket="b", Key=key)["Body"].read() == b"{}"


def test_the_data_set_comes_as_a_zip_too(world: World, tmp_path: Path) -> None:
    target = tmp_path / "dataset.zip"
    world.client().download_file("vision-platform-prod", "datasets/det-coco8.zip", str(target))
    with zipfile.ZipFile(target) as archive:
        assert len(archive.namelist()) == 6
        assert archive.testzip() is None


def test_an_upload_small_or_in_parts_is_stored_whole_and_told(world: World, tmp_path: Path) -> None:
    s3 = world.client()
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"weights")
    large.write_bytes(hashlib.sha256(b"x").digest() * (12 * MIB // 32) + b"tail")
    for path, key in ((small, "checkpoints/5/last.pt"), (large, "checkpoints/5/best.pt")):
        s3.upload_file(str(path), "training-checkpoints", key, Config=TransferConfig(multipart_threshold=6 * MIB))
        assert s3.get_object(Bucket="training-checkpoints", Key=key)["Body"].read() == path.read_bytes()
    assert world.uploads == [("checkpoints/5/last.pt", 7), ("checkpoints/5/best.pt", 12 * MIB + 4)]
    s3.put_object(Bucket="b", Key="checkpoints/5/last.pt", Body=b"newer")
    assert s3.get_object(Bucket="b", Key="checkpoints/5/last.pt")["Body"].read() == b"newer"
    s3.delete_object(Bucket="b", Key="checkpoints/5/last.pt")
    assert "Contents" not in s3.list_objects_v2(Bucket="b", Prefix="checkpoints/5/last")


def test_an_upload_in_parts_needs_its_parts_and_can_be_given_up(world: World) -> None:
    s3 = world.client()
    upload = s3.create_multipart_upload(Bucket="b", Key="checkpoints/5/best.pt")["UploadId"]
    etag = s3.upload_part(Bucket="b", Key="checkpoints/5/best.pt", UploadId=upload, PartNumber=1, Body=b"one")["ETag"]
    named = {"Parts": [{"PartNumber": 1, "ETag": etag}, {"PartNumber": 2, "ETag": etag}]}
    with pytest.raises(ClientError) as incomplete:
        s3.complete_multipart_upload(Bucket="b", Key="checkpoints/5/best.pt", UploadId=upload, MultipartUpload=named)
    assert code_of(incomplete) == "InvalidPart"
    s3.abort_multipart_upload(Bucket="b", Key="checkpoints/5/best.pt", UploadId=upload)
    with pytest.raises(ClientError) as gone:
        s3.upload_part(Bucket="b", Key="checkpoints/5/best.pt", UploadId=upload, PartNumber=1, Body=b"one")
    assert code_of(gone) == "NoSuchUpload"
    assert world.uploads == []


def test_the_data_set_cannot_be_written_and_no_key_leaves_the_store(world: World) -> None:
    s3 = world.client()
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket="b", Key="datasets/det-coco8/annotations.json", Body=b"[]")
    assert code_of(refused) == "AccessDenied"
    assert (world.dataset / "annotations.json").read_text() == "{}"
    headers = {"authorization": f"AWS4-HMAC-SHA256 Credential={TOKEN}/20251106/us-east-1/s3/aws4_request"}
    for key in ("%2e%2e/%2e%2e/dataset/annotations.json", "a//b", "a/%2e/b", "datasets/det-coco8/%2e%2e/secret"):
        with httpx.Client(headers=headers) as client:
            assert client.put(f"{world.server.url}/b/{key}", content=b"x").status_code in (400, 403), key
            assert client.get(f"{world.server.url}/b/{key}").status_code in (400, 404), key


def test_nobody_else_on_the_machine_gets_in(world: World) -> None:
    with pytest.raises(ClientError) as refused:
        world.client("another-key-000").list_objects_v2(Bucket="b")
    assert code_of(refused) == "AccessDenied"
    assert httpx.get(f"{world.server.url}/b/checkpoints/5/best.pt").status_code == 403
    wrong = httpx.post(f"{world.server.url}/wrong/api/v1/training/jobs/5/callback/progress", json={})
    assert wrong.status_code == 403
    right = httpx.post(f"{world.server.url}/{TOKEN}/api/v1/training/jobs/5/callback/progress", json={"total_epochs": 2})
    assert (right.status_code, len(world.sent)) == (200, 1)


def test_signed_chunks_are_taken_apart(world: World) -> None:
    chunks = b"5;chunk-signature=ab\r\nhello\r\n6;chunk-signature=cd\r\n world\r\n0;chunk-signature=ef\r\n\r\n"
    headers = {
        "authorization": f"AWS4-HMAC-SHA256 Credential={TOKEN}/20251106/us-east-1/s3/aws4_request",
        "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": "11",
    }
    assert httpx.put(f"{world.server.url}/b/checkpoints/5/a.pt", content=chunks, headers=headers).status_code == 200
    assert world.client().get_object(Bucket="b", Key="checkpoints/5/a.pt")["Body"].read() == b"hello world"
