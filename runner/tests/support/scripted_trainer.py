"""A trainer for tests of everything around training.

Its epochs last 100 ms, its loss is 1/epoch, its state is the number of the epoch, and it prints one line to each stream
in every epoch. `seed` of the job chooses how it behaves beside that: see the names below.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cultivar_runner.trainer.channel import Channel, OutOfMemory
from cultivar_runner.trainer.messages import (
    Checkpoint,
    CheckpointFile,
    Epoch,
    FinishReason,
    Started,
    TrainerJob,
    Validation,
)

EPOCH_S = 0.1
EXITS, DIES, IGNORES_STOP, HAS_CHILDREN, LARGE_STATE, MANY_IMAGES, TALKS, NO_MEMORY, NOT_A_NUMBER = range(1, 10)
LARGE_BYTES = 40 * 1024 * 1024
IMAGES = 1_200


def train(job: TrainerJob, channel: Channel) -> FinishReason:
    seed = (job.spec.advanced_config or {}).get("seed") or 0
    epoch = 0 if job.resume is None else json.loads(job.resume.path.read_bytes()[:1000])["epoch"]
    assert any(job.data_dir.rglob("*")), "no data"
    channel.send(Started(total_epochs=job.spec.epochs))
    print(f"begins after epoch {epoch}, sees GPUs {os.environ.get('CUDA_VISIBLE_DEVICES')!r}")
    print(f"a secret: {'cvrun_' + 'a1' * 20}")
    if seed == HAS_CHILDREN:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(f"child {child.pid}")
    stopping = False
    while epoch < job.spec.epochs and not stopping:
        time.sleep(EPOCH_S)
        epoch += 1
        if epoch == 3:
            misbehave(seed)
        print(f"line of epoch {epoch}")
        print(f"remark of epoch {epoch}", file=sys.stderr)
        if seed == TALKS:
            for line in range(5_000):
                print(f"epoch {epoch} line {line} {'x' * 60}")
        loss = float("nan") if seed == NOT_A_NUMBER else 1 / epoch
        channel.send(Epoch(epoch=epoch, loss=loss, accuracy=0.5, learning_rate=0.001, extra_metrics={"raw": epoch}))
        if epoch % (100 if seed == LARGE_STATE else 5) == 0 or channel.take_checkpoint_request():
            save(job, channel, epoch, seed)
        if epoch == 1 and seed == MANY_IMAGES:
            validate(channel, epoch)
        stopping = channel.stop_requested and seed != IGNORES_STOP
    if stopping:
        save(job, channel, epoch, seed)
    return "user_stop" if stopping else "done"


def misbehave(seed: int) -> None:
    if seed == EXITS:
        sys.stderr.write("the disk of the trainer is on fire\n")
        sys.stderr.flush()
        os._exit(3)
    if seed == DIES:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == NO_MEMORY:
        raise OutOfMemory("the device is full")


def save(job: TrainerJob, channel: Channel, epoch: int, seed: int) -> None:
    path = job.checkpoint_dir / f"last-{epoch}.state"
    text = json.dumps({"epoch": epoch})
    filler = os.urandom(LARGE_BYTES) if seed == LARGE_STATE else b""
    temporary = Path(f"{path}.tmp")
    temporary.write_bytes(text.encode().ljust(1000) + filler)
    temporary.rename(path)
    file = CheckpointFile(kind="checkpoint", path=path, name="last.state")
    channel.send(Checkpoint(epoch=epoch, role="last", files=[file]))


def validate(channel: Channel, epoch: int) -> None:
    images = [
        {
            "image_path": f"images/{index}.png",
            "image_name": f"{index}.png",
            "true_label": "a",
            "true_label_id": 0,
            "predicted_label": "a",
            "predicted_label_id": 0,
            "confidence": 0.9,
            "is_correct": True,
            "top5_predictions": [{"label": "a", "label_id": 0, "confidence": 0.9}],
        }
        for index in range(IMAGES)
    ]
    data = {
        "epoch": epoch,
        "task_type": "image_classification",
        "primary_metric_name": "accuracy",
        "primary_metric_value": 1.0,
        "overall_loss": 0.1,
        "metrics": {"accuracy": 1.0},
        "per_class_metrics": {"a": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": IMAGES}},
        "confusion_matrix": [[IMAGES]],
        "class_names": ["a"],
        "images": images,
    }
    channel.send(Validation(data=data))
