"""A trainer as the first platform made them, written anew: one metric a call, percents, validation from epoch 0."""

from __future__ import annotations

import os

import httpx

API, JOB = os.environ["BACKEND_API_URL"], os.environ["JOB_ID"]
http = httpx.Client(timeout=5, headers={"X-Internal-Auth": os.environ["INTERNAL_AUTH_TOKEN"]})


def call(method: str, path: str, body: str) -> dict[str, object]:
    url = f"{API}/internal/training/{JOB}/{path}"
    answer = http.request(method, url, content=body, headers={"content-type": "application/json"})
    answer.raise_for_status()
    return dict(answer.json())


def metric(name: str, value: str, epoch: int) -> None:
    body = f'{{"name":"{name}","value":{value},"epoch":{epoch},"step":null,"metadata":{{}},"timestamp":"2025-11-06"}}'
    call("POST", "metrics", body)


call("PATCH", "status", '{"status":"running","error":null,"progress":0}')
assert call("GET", "health", "")["status"] == "healthy"
for epoch in (1, 2):
    metric("train_loss", "NaN" if epoch == 2 else "0.5", epoch)
    metric("val_accuracy", "87.5", epoch)
    metric("learning_rate", "0.01", epoch)
    result = (
        f'{{"epoch":{epoch - 1},"task_type":"classification","metrics":{{"accuracy":0.875}},"class_names":["a","b"]}}'
    )
    number = call("POST", "validation-results", result)["validation_result_id"]
    image = f'{{"validation_result_id":{number},"epoch":{epoch - 1},"image_name":"1.png","is_correct":true}}'
    call("POST", "validation-image-results", f"[{image}]")
call("PATCH", "status", '{"status":"completed","error":null,"progress":100}')
call("POST", "logs", '{"message":"the last line","level":"INFO","epoch":null,"timestamp":"2025-11-06T12:00:00"}')
