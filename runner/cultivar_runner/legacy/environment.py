"""The environment that the platform's trainers read. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..trainer.messages import TrainerJob

DATASET_BUCKET = "training-datasets"
CHECKPOINT_BUCKET = "training-checkpoints"
# Of the runner itself; no trainer needs it.
PRIVATE_PREFIX = "CULTIVAR_"


@dataclass(frozen=True)
class Endpoint:
    """Where the trainer's calls go: `http://127.0.0.1:PORT`, and the word that proves that they are this job's."""

    url: str
    token: str

    @property
    def api(self) -> str:
        """Base URL of the callbacks. The token is in its path: the trainers send no header of their own."""
        return f"{self.url}/{self.token}/api/v1"


def child_environment(job: TrainerJob, endpoint: Endpoint, inherited: Mapping[str, str]) -> dict[str, str]:
    """Variables of trainer SDK 2.0, of the MVP logger and storage helpers, and of the usual S3 clients."""
    spec = job.spec
    advanced = spec.advanced_config or {}
    config = {
        "framework": spec.framework,
        "model_name": spec.model_name,
        "task_type": spec.task_type,
        "dataset_id": spec.dataset_id,
        "dataset_format": spec.dataset_format,
        "num_classes": spec.num_classes,
        "class_names": spec.class_names,
        "epochs": spec.epochs,
        "batch": spec.batch_size,
        "batch_size": spec.batch_size,
        "learning_rate": spec.learning_rate,
        "imgsz": spec.image_size,
        "primary_metric": spec.primary_metric,
        "primary_metric_mode": spec.primary_metric_mode,
        "advanced_config": advanced,
    }
    mine: dict[str, object] = {
        "JOB_ID": spec.job_id,
        "FRAMEWORK": spec.framework,
        "MODEL_NAME": spec.model_name,
        "TASK_TYPE": spec.task_type,
        "DATASET_ID": spec.dataset_id,
        "DATASET_FORMAT": spec.dataset_format,
        "DATASET_PATH": job.data_dir,
        "LOCAL_DATASET_PATH": job.data_dir,
        "OUTPUT_DIR": job.work_dir / "output",
        "NUM_CLASSES": spec.num_classes,
        "EPOCHS": spec.epochs,
        "BATCH_SIZE": spec.batch_size,
        "LEARNING_RATE": spec.learning_rate,
        "IMGSZ": spec.image_size,
        "IMAGE_SIZE": spec.image_size,
        "PRIMARY_METRIC": spec.primary_metric,
        "PRIMARY_METRIC_MODE": spec.primary_metric_mode,
        "CONFIG": json.dumps({key: value for key, value in config.items() if value is not None}),
        "ADVANCED_CONFIG": json.dumps(advanced),
        "CALLBACK_URL": endpoint.api,
        "BACKEND_API_URL": endpoint.api,
        "INTERNAL_AUTH_TOKEN": endpoint.token,
        "AWS_ACCESS_KEY_ID": endpoint.token,
        "AWS_SECRET_ACCESS_KEY": endpoint.token,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint.url,
        "AWS_ENDPOINT_URL_S3": endpoint.url,
        "AWS_S3_ENDPOINT_URL": endpoint.url,
        "EXTERNAL_BUCKET_DATASETS": DATASET_BUCKET,
        "INTERNAL_BUCKET_CHECKPOINTS": CHECKPOINT_BUCKET,
        "PYTHONUNBUFFERED": "1",
    }
    for side in ("EXTERNAL", "INTERNAL"):
        mine[f"{side}_STORAGE_ENDPOINT"] = endpoint.url
        mine[f"{side}_STORAGE_ACCESS_KEY"] = endpoint.token
        mine[f"{side}_STORAGE_SECRET_KEY"] = endpoint.token
    if job.resume is not None:
        mine["CHECKPOINT_PATH"] = job.resume.path
        mine["RESUME"] = "false" if job.resume.weights_only else "true"
    kept = {name: value for name, value in inherited.items() if not name.startswith(PRIVATE_PREFIX)}
    # A session token or profile of this machine's would go into the signatures of the local endpoint.
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE"):
        kept.pop(name, None)
    return {**kept, **{name: str(value) for name, value in mine.items() if value is not None}}
