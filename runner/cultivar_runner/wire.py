"""Types of the runner protocol. Generated of wire_schema.json by tests/wire_models.py: do not edit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from cultivar_runner.wire_base import Wire


class Gpu(Wire):
    model: Annotated[str, Field(max_length=200)]
    vram_mb: Annotated[int, Field(ge=0, le=10000000)]


class RegisterRequest(Wire):
    machine_id: Annotated[str, Field(max_length=200, min_length=1)]
    name: Annotated[str, Field(max_length=200, min_length=1)]
    os: Annotated[str | None, Field(max_length=200)] = None
    gpus: Annotated[list[Gpu], Field(max_length=64, validate_default=True)] = []
    frameworks: Annotated[list[str], Field(max_length=20, min_length=1)]
    labels: dict[str, str] = {}
    slots: Annotated[int, Field(ge=1, le=64)] = 1
    version: Annotated[str | None, Field(max_length=50)] = None
    protocol: Literal[1]


class ClaimRequest(Wire):
    instance_id: Annotated[str, Field(max_length=200, min_length=1)]
    free_slots: Annotated[int, Field(ge=0, le=64)] = 1
    wait_s: Annotated[float, Field(ge=0.0, le=60.0)] = 25


class AcceptRequest(Wire):
    fence: Annotated[int, Field(gt=0)]


class HeartbeatRequest(Wire):
    outbox: Annotated[int | None, Field(ge=0)] = None
    progress: Any | None = None
    gpu: Any | None = None
    sent_at: Annotated[str | None, Field(max_length=40)] = None


class OfflineRequest(Wire):
    instance_id: Annotated[str, Field(max_length=200, min_length=1)]


class ArtifactRequest(Wire):
    kind: Literal["checkpoint", "model", "plot", "file"]
    name: Annotated[str, Field(max_length=200, min_length=1, pattern="^[^/\\\\\\u0000-\\u001f]+$")]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    epoch: Annotated[int | None, Field(ge=0, le=1000000)] = None
    role: Literal["best", "last"] | None = None
    manifest: dict[str, Any] | None = None


class Timers(Wire):
    claim_wait_s: Annotated[float, Field(gt=0.0)] = 25
    heartbeat_s: Annotated[float, Field(gt=0.0)] = 15
    lease_s: Annotated[float, Field(gt=0.0)] = 60
    lost_after_s: Annotated[float, Field(gt=0.0)] = 300
    offer_s: Annotated[float, Field(gt=0.0)] = 30
    stop_grace_s: Annotated[float, Field(ge=0.0, le=1800.0)] = 120
    finalize_s: Annotated[float, Field(gt=0.0)] = 600
    upload_ttl_s: Annotated[float, Field(gt=0.0)] = 86400
    max_duration_s: Annotated[float, Field(gt=0.0)] = 86400
    plain_silence_s: Annotated[float, Field(gt=0.0)] = 7200
    progress_timeout_s: Annotated[float | None, Field(gt=0.0)] = None
    terminal_retry_s: Annotated[float, Field(gt=0.0)] = 86400
    retry_base_s: Annotated[float, Field(gt=0.0)] = 1
    retry_cap_s: Annotated[float, Field(gt=0.0)] = 60


class Limits(Wire):
    events_per_batch: Annotated[int, Field(gt=0)] = 500
    body_bytes: Annotated[int, Field(gt=0)] = 524288
    inflated_bytes: Annotated[int, Field(gt=0)] = 4194304
    seq_window: Annotated[int, Field(gt=0)] = 10000
    metric_names: Annotated[int, Field(gt=0)] = 1000
    metric_name_length: Annotated[int, Field(gt=0)] = 200
    log_chunk_bytes: Annotated[int, Field(gt=0)] = 262144
    job_log_bytes: Annotated[int, Field(gt=0)] = 67108864
    artifact_bytes: Annotated[int, Field(gt=0)] = 53687091200
    part_bytes: Annotated[int, Field(gt=0)] = 16777216
    manifest_page_files: Annotated[int, Field(gt=0)] = 1000
    queued_jobs_per_project: Annotated[int, Field(gt=0)] = 1000
    checkpoints_kept: Annotated[int, Field(gt=0)] = 3
    infra_retries: Annotated[int, Field(ge=0)] = 10
    user_retries: Annotated[int, Field(ge=0)] = 0


class RegistrationToken(Wire):
    registration_token: str
    pool: str
    uses: int
    expires_at: str


class RegisterAnswer(Wire):
    runner_id: str
    runner_token: str
    timers: Timers
    limits: Limits


class Offer(Wire):
    job_id: int
    fence: int
    offer_s: float


class Drain(Wire):
    drain: Literal[True]


class Resume(Wire):
    artifact_id: str
    epoch: int
    size: int
    sha256: str
    weights_only: bool


class AcceptAnswer(Wire):
    job_token: str
    attempt: int
    lease_s: float
    spec: dict[str, Any]
    resume: Resume | None = None
    timers: Timers
    limits: Limits


class HeartbeatAnswer(Wire):
    lease_s: float
    desired: Literal["run", "checkpoint", "stop", "abandon"]
    grace_s: float
    ack_seq: int
    server_time: str
    skew_s: int | None = None


class RejectedItem(Wire):
    seq: int
    code: str
    field: str | None = None
    message: str


class CallbackAnswer(Wire):
    status: Literal["received"]
    job_id: int
    ack_seq: int | None = None
    missing: list[list[int]] | None = None
    rejected: list[RejectedItem] | None = None
    desired: Literal["run", "checkpoint", "stop", "abandon"] | None = None


class LogChunkAnswer(Wire):
    next_seq: int


class File(Wire):
    file_id: int
    path: str
    size: int
    sha256: str


class DatasetManifest(Wire):
    dataset_id: str
    content_hash: str
    files: list[File]
    next_cursor: str | None = None


class ArtifactCreated(Wire):
    artifact_id: str
    part_size: int
    parts: int


class ArtifactState(Wire):
    artifact_id: str
    state: Literal["open", "complete", "aborted"]
    kind: str
    name: str
    size: int
    sha256: str
    epoch: int | None = None
    role: str | None = None
    part_size: int
    parts: int
    received: list[int]
