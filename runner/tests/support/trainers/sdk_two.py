"""A trainer as "trainer SDK 2.0" makes them, written anew: what it sends, in which order, and how it retries.

Its behaviour is chosen by `advanced_config.seed` of the job: 1 fails, 2 says "failed" behind a "completed" whose answer
it takes for lost, 3 trains until it is interrupted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import httpx

API, JOB = os.environ["CALLBACK_URL"].rstrip("/"), os.environ["JOB_ID"]
CONFIG = json.loads(os.environ["CONFIG"])
SEED = CONFIG["advanced_config"].get("seed", 0)
EPOCHS = int(os.environ["EPOCHS"])
OUT = Path(os.environ["OUTPUT_DIR"])
http = httpx.Client(timeout=10, follow_redirects=True)


def send(path: str, body: dict[str, object]) -> None:
    # Byte-identical retries: the answer of each first try counts as lost.
    content = json.dumps(body).encode()
    for _ in range(2):
        http.post(API + path, content=content, headers={"content-type": "application/json"}).raise_for_status()


def progress(epoch: int, metrics: dict[str, object] | None) -> None:
    body = {
        "job_id": int(JOB),
        "status": "running",
        "current_epoch": epoch,
        "total_epochs": EPOCHS,
        "progress_percent": 100 * epoch / EPOCHS,
        "metrics": metrics,
    }
    send(f"/training/jobs/{JOB}/callback/progress", body)


def log(message: str, level: str = "INFO") -> None:
    line = {"job_id": int(JOB), "event_type": "log", "message": message, "level": level, "data": {}}
    send(f"/training/jobs/{JOB}/callback/logs", {**line, "timestamp": "2025-11-06T12:00:00+00:00"})


def storage(side: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=os.environ[f"{side}_STORAGE_ENDPOINT"],
        aws_access_key_id=os.environ[f"{side}_STORAGE_ACCESS_KEY"],
        aws_secret_access_key=os.environ[f"{side}_STORAGE_SECRET_KEY"],
    )


def main() -> None:
    progress(0, None)
    prefix = f"datasets/{os.environ['DATASET_ID']}/"
    s3 = storage("EXTERNAL")
    count = 0
    for page in s3.get_paginator("list_objects_v2").paginate(
        Bucket=os.environ["EXTERNAL_BUCKET_DATASETS"], Prefix=prefix
    ):
        for entry in page.get("Contents", []):
            target = OUT / "data" / entry["Key"].removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(os.environ["EXTERNAL_BUCKET_DATASETS"], entry["Key"], str(target))
            local = Path(os.environ["LOCAL_DATASET_PATH"]) / entry["Key"].removeprefix(prefix)
            assert target.read_bytes() == local.read_bytes()
            count += 1
    print(f"sees {count} files, trains {os.environ['MODEL_NAME']} at {os.environ['LEARNING_RATE']}", flush=True)
    if SEED == 3:
        while True:
            time.sleep(0.1)
    for epoch in range(1, EPOCHS + 1):
        raw = {"loss": 1 / epoch, "metrics/mAP50(B)": epoch / 10, "mAP50-95": epoch / 20, "lr": 0.01}
        progress(epoch, {"loss": raw["loss"], "accuracy": None, "learning_rate": None, "extra_metrics": raw})
        if SEED == 1 and epoch == 2:
            error = {"job_id": int(JOB), "status": "failed", "total_epochs_completed": 1, "exit_code": 1}
            message = "[ConfigError] the head does not fit"
            send(
                f"/training/jobs/{JOB}/callback/completion",
                {**error, "error_message": message, "traceback": "Traceback"},
            )
            sys.exit(1)
    checkpoint = OUT / "best.pt"
    checkpoint.write_bytes(b"weights" * 1_500_000)
    for name in ("best", "last"):
        key = f"checkpoints/{JOB}/{name}.pt"
        storage("INTERNAL").upload_file(str(checkpoint), os.environ["INTERNAL_BUCKET_CHECKPOINTS"], key)
    result = {"type": "validation", "job_id": int(JOB), "epoch": EPOCHS, "task_type": "classification", "is_best": True}
    scores = {
        "primary_metric_name": "accuracy",
        "primary_metric_value": 0.5,
        "metrics": {"accuracy": 0.5, "f1_score": 0.4},
    }
    send(f"/validation/jobs/{JOB}/results", {**result, **scores, "timestamp": "2025-11-06T12:00:00"})
    done = {"job_id": int(JOB), "status": "completed", "total_epochs_completed": EPOCHS, "exit_code": 0}
    send(f"/training/jobs/{JOB}/callback/completion", {**done, "final_metrics": {"loss": 0.1}})
    if SEED == 2:
        lost = {**done, "status": "failed", "error_message": "[NetworkError] no answer", "exit_code": 1}
        send(f"/training/jobs/{JOB}/callback/completion", lost)
    log("a line that was buffered until the end")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
