"""The library's own trainers, with what a job of this platform needs around them.

Everything about training is the library's: model, loss, optimizer, schedule, augmentation, validation. Added here are
reports under the contract's names, stopping and saving between two batches, and resuming to the bit.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
import ultralytics.engine.trainer as library
from torch.utils.data import BatchSampler
from ultralytics.data.dataset import ClassificationDataset
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from ..channel import Channel, CheckpointCorrupt, TrainerError
from ..common.files import CheckpointStore, Role, write_durably
from ..common.metrics import Mode, is_improvement
from ..export.publish import form_for, publish
from ..export.quantize import fake_quantize
from ..messages import CheckpointFile, Epoch, Started, TrainerJob, Validation
from .arguments import Plan, plan
from .dataset_dir import dataset_paths
from .model_export import export_graph, manifest_of, untouched_randomness
from .results import ClassificationRows, DetectionRows, detection_result, metric_value
from .sampler import EpochSampler
from .state import cpu_copy, random_state, read_state, restore_random_state, writer_of

KEPT_CHECKPOINTS = 3


class Stopped(Exception):
    """Training was asked to stop; its state is saved."""


class Run:
    """One job in one process: what is reported and saved, and where training goes on."""

    def __init__(self, job: TrainerJob, channel: Channel, data: Path) -> None:
        self.job = job
        self.spec = job.spec
        self.plan: Plan = plan(job.spec)
        self.channel = channel
        self.data = data
        self.paths = dataset_paths(data.parent)
        self.store = CheckpointStore(job.checkpoint_dir, KEPT_CHECKPOINTS)
        self.resumed: dict[str, Any] | None = None
        self.weights: dict[str, Any] | None = None
        if job.resume is not None:
            state = read_state(job.resume.path)
            if state["model_name"] != self.spec.model_name or state["task"] != self.plan.task:
                theirs = f"{state['model_name']} ({state['task']})"
                raise CheckpointCorrupt(f"{job.resume.path.name} is of {theirs}, not of {self.spec.model_name}")
            if job.resume.weights_only:
                self.weights = state["ema"]
            else:
                self.resumed = state
        # The best value of the primary metric, and whether its model still has to be exported.
        self.best: dict[str, Any] | None = self.resumed["best"] if self.resumed else None
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.outcome = "done"
        # Where a process of several tells the one that started it how training ended.
        self.outcome_file: Path | None = None


# The run of this process. The library builds its trainers itself in the processes of several GPUs, so they look here.
_current: Run | None = None


def use(run: Run) -> None:
    """Makes `run` the one that trainers of this process belong to."""
    global _current
    _current = run


# Cards whose 16-bit arithmetic is known to give NaN: the GTX 16 series and the small workstation cards of its kind.
_NO_HALVES = re.compile(r"\b(16[356]0|T[456]00|T1[02]00|T2000)\b|MX450", re.IGNORECASE)


def _halves_work(model: torch.nn.Module) -> bool:
    """Whether mixed precision can be used on the device of a model."""
    device = next(model.parameters()).device
    return device.type == "cuda" and not _NO_HALVES.search(torch.cuda.get_device_name(device))


if TYPE_CHECKING:
    # What the mixin stands in front of, for the checker only: the library's classes are its real bases.
    _Library = Any
else:
    _Library = object


class _Accumulation:
    """The library's number of batches per optimizer step, hidden from its loop while that runs.

    The loop keeps the last step in a local variable, which a resumed run cannot set. So the loop is told to step after
    each batch, and `optimizer_step` below decides, by a counter that is part of the saved state.
    """

    def __get__(self, trainer: Any, owner: type | None = None) -> int:
        return 1 if trainer._looping else int(trainer._accumulate)

    def __set__(self, trainer: Any, value: int) -> None:
        trainer._accumulate = value


class Reporting(_Library):  # type: ignore[misc]
    """Mixed into a trainer class of the library, in front of it."""

    callbacks: dict[str, list[Any]]
    accumulate = _Accumulation()

    def __init__(self, cfg: Any = library.DEFAULT_CFG, overrides: Any = None, _callbacks: Any = None) -> None:
        if _current is None:
            from . import join

            join()
        self.run = cast(Run, _current)
        self._looping = False
        self._accumulate = 1
        # Batches done in the running epoch; batches over all epochs, of the last optimizer step and of now.
        self._batches = 0
        self._last_step = -1
        self._now = -1
        self._skip = 0
        self._epoch_started = 0.0
        self._validated_epoch = -1
        self._validation: dict[str, Any] = {}
        self._int8: dict[str, float] | None = None
        self._rows: DetectionRows | ClassificationRows | None = None
        self._pending_gradients: dict[str, torch.Tensor] = {}
        self._pending_random: dict[str, Any] | None = None
        self._pending_losses: dict[str, torch.Tensor] | None = None
        self._sampler: EpochSampler | None = None
        super().__init__(cfg, overrides, _callbacks)
        hooks = {
            "on_train_start": self._on_train_start,
            "on_train_epoch_start": self._on_epoch_start,
            "on_train_batch_start": self._on_batch_start,
            "on_train_batch_end": self._on_batch_end,
            "on_fit_epoch_end": self._on_epoch_end,
            "on_train_end": self._on_train_end,
        }
        for event, hook in hooks.items():
            # Only ours: the library's own are for telemetry and trackers.
            self.callbacks[event] = [hook]

    # --- what the library asks a trainer for

    def get_dataset(self) -> dict[str, Any]:
        """The folders that were written for this job; the library's own look-up would fetch fonts and data sets."""
        config = json.loads(Path(self.args.data).read_text(encoding="utf-8"))
        folder = Path(config["path"])
        return {
            **config,
            "path": folder,
            "train": str(folder / config["train"]),
            "val": str(folder / config["val"]),
            "names": {int(key): name for key, name in config["names"].items()},
            "channels": 3,
        }

    def _setup_train(self) -> None:
        original = library.check_amp
        # The library's check fetches a model and compares boxes on a picture.
        library.check_amp = _halves_work
        try:
            super()._setup_train()
        finally:
            library.check_amp = original

    def setup_model(self) -> Any:
        """Built by the library; then the weights to begin from, if only those are wanted."""
        checkpoint = super().setup_model()
        if self.run.weights is not None:
            self._load(self.model, self.run.weights)
        return checkpoint

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """The library's dataset; for classes of images one that also says which file an image is."""
        if self.args.task != "classify":
            return super().build_dataset(img_path, mode, batch)
        return NamedClassificationDataset(
            img_path,
            self.args,
            augment=mode == "train",
            prefix=mode,
            names=dict(enumerate(self.data["folders"])),
        )

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """The library's loader, with an order of images that a resumed run can find again."""
        loader = super().get_dataloader(dataset_path, batch_size, rank, mode)
        if mode == "train" and rank == -1:
            self._sampler = EpochSampler(len(loader.dataset), int(self.args.seed))
            inner = cast(BatchSampler, loader.batch_sampler.sampler)
            inner.sampler = self._sampler
            loader.reset()
        return loader

    def get_validator(self) -> Any:
        """The library's validator, listened to."""
        validator = super().get_validator()
        update = validator.update_metrics

        def update_metrics(predictions: Any, batch: Any) -> None:
            if isinstance(self._rows, DetectionRows):
                self._rows.add(validator, predictions, batch)
            elif self._rows is not None:
                dataset = validator.dataloader.dataset
                files = [Path(dataset.samples[int(i)][0]).name for i in batch["index"]]
                self._rows.add(predictions, batch["cls"], files)
            update(predictions, batch)

        validator.update_metrics = update_metrics
        return validator

    def validate(self) -> Any:
        """The library's validation; its rows and per-class values are kept for the report."""
        classify = self.args.task == "classify"
        self._rows = (
            ClassificationRows() if classify else DetectionRows(self.args.task, self.run.paths, self.data["names"])
        )
        metrics, fitness = super().validate()
        if metrics is None:
            return metrics, fitness
        measured = {name: float(value) for name, value in metrics.items()} | {"fitness": float(fitness)}
        if isinstance(self._rows, ClassificationRows):
            result = self._rows.result(self.run.paths, [self.data["names"][i] for i in range(self.data["nc"])])
            result["metrics"] |= {name: value for name, value in measured.items() if name.startswith("metrics/")}
        else:
            result = detection_result(self.args.task, self.validator, measured) | {"images": self._rows.rows}
        self._rows = None
        self._validated_epoch = self.epoch
        name, value = self._primary(measured)
        improved = is_improvement(value, self.run.best["value"] if self.run.best else None, self._mode(name))
        if improved:
            self._int8 = self._measure_int8(name, value)
        self._validation = {"measured": measured, "result": result, "name": name, "value": value, "improved": improved}
        return metrics, fitness

    def _primary(self, measured: dict[str, float]) -> tuple[str, float]:
        """Name and value of the job's metric; of the library's own measure where the task does not have the job's."""
        name: str = self.run.spec.primary_metric
        value = metric_value(self.args.task, name, measured)
        return ("fitness", measured["fitness"]) if value is None else (name, value)

    def _mode(self, name: str) -> Mode:
        return "max" if name == "fitness" else self.run.spec.primary_metric_mode

    def _measure_int8(self, name: str, float32: float) -> dict[str, float] | None:
        """What the model is worth in the form that is published, where only its int8 weights fit into the server."""
        weight_bytes = sum(tensor.numel() * 4 for tensor in self.ema.ema.state_dict().values())
        # Several devices validate together, and only the first of them knows what is best.
        if form_for(weight_bytes) != "int8" or self.world_size > 1:
            return None
        ema = self.ema.ema
        self.ema.ema = fake_quantize(copy.deepcopy(ema))
        try:
            with untouched_randomness():
                measured = {key: float(number) for key, number in self.validator(self).items()}
        finally:
            self.ema.ema = ema
        value = metric_value(self.args.task, name, measured)
        if value is None:
            return None
        print(f"{name} with int8 weights: {value:.4f} (float32: {float32:.4f})", flush=True)
        return {name: value, f"float32_{name}": float32}

    def final_eval(self) -> None:
        """Nothing: the best model was validated in its epoch, and the library would rewrite its own files here."""

    def resume_training(self, ckpt: Any) -> None:
        """Goes on where a state of this trainer ends, in place of the library's own, less exact way."""
        state = self.run.resumed
        if state is None:
            return
        if state["epoch"] >= self.epochs:
            raise CheckpointCorrupt(
                f"the state has all of its {state['epoch']} epochs behind it; there is nothing to do"
            )
        self._load(self.model, state["model"])
        self._load(self.ema.ema, state["ema"])
        self.ema.updates = state["ema_updates"]
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (ValueError, KeyError) as error:
            raise CheckpointCorrupt(f"the optimizer's state does not fit: {error}") from error
        self.scaler.load_state_dict(state["scaler"])
        self.best_fitness = state["best_fitness"]
        self.start_epoch = state["epoch"]
        # Other ranks cannot skip batches, so with several GPUs the epoch in progress begins again.
        alone = self.world_size <= 1
        self._skip = state["batch"] if alone and state["batch_size"] == self.batch_size else 0
        if self._skip:
            self._pending_losses = {key: value.to(self.device) for key, value in state["losses"].items()}
        self._last_step = state["last_step"]
        if self._skip == state["batch"]:
            self._pending_gradients = state["gradients"]
        if RANK in (-1, 0):
            self._pending_random = state["random"]
        if alone:
            self._fill_buffer(state["buffer"])
        model = unwrap_model(self.model)
        if getattr(model.model[-1], "one2one_cv2", None) is not None:
            # Heads with two losses weigh them by the number of epochs behind them.
            model.criterion = model.init_criterion()
            model.criterion.updates = self.start_epoch - 1
            model.criterion.update()
        print(f"resuming at epoch {self.start_epoch + 1}, after {self._skip} of its batches", flush=True)

    def optimizer_step(self) -> None:
        """The library's step, when enough batches are behind the last one."""
        if self._now - self._last_step < self._accumulate:
            return
        super().optimizer_step()
        self._last_step = self._now

    def _build_train_pipeline(self) -> None:
        if self._looping:  # Memory ran out: the epoch begins again with smaller batches.
            self._skip = 0
        self._looping = False
        super()._build_train_pipeline()

    def train(self) -> None:
        """The library's training; being stopped is no error."""
        if self.ddp:
            # The library hands these to the processes of the devices, which make their own.
            self.callbacks = {event: [] for event in self.callbacks}
        said: dict[str, str] = {}
        try:
            super().train()
        except Stopped:
            self.run.outcome = "user_stop"
        except TrainerError as error:
            said = {"reason": error.reason, "error": str(error)}
            raise
        except Exception as error:
            oom = isinstance(error, torch.OutOfMemoryError | MemoryError)
            said = {"reason": "oom" if oom else "exit_nonzero", "error": f"{type(error).__name__}: {error}"}
            raise
        finally:
            if self.run.outcome_file is not None:
                self.run.outcome_file.write_text(json.dumps(said or {"reason": self.run.outcome}), encoding="utf-8")

    def _do_train(self) -> None:
        original = library.TQDM
        # The one place where the loop asks for its batches by number.
        library.TQDM = lambda numbered, total=None: _Batches(self._epoch_batches(numbered))
        try:
            super()._do_train()
        finally:
            library.TQDM = original

    # --- hooks

    def _on_train_start(self, _: Any) -> None:
        if RANK in (-1, 0):
            self.run.channel.send(Started(total_epochs=self.epochs))

    def _on_epoch_start(self, _: Any) -> None:
        self._looping = True
        self._batches = self._skip
        self._epoch_started = time.monotonic()
        first = self.epoch * len(self.train_loader)
        # After a batch that did not fit into memory, or NaN, the library begins the epoch again.
        self._last_step = min(self._last_step, first + self._skip - 1)
        self._now = first + self._skip - 1
        self.args.val = (self.epoch + 1) % self.run.plan.val_interval == 0
        if self._pending_gradients:
            for name, parameter in unwrap_model(self.model).named_parameters():
                if name in self._pending_gradients:
                    parameter.grad = self._pending_gradients[name].to(parameter.device)
            self._pending_gradients = {}

    def _on_batch_start(self, _: Any) -> None:
        self._now += 1

    def _on_batch_end(self, _: Any) -> None:
        self._batches += 1
        stop, checkpoint = self._asked()
        # The last batch of an epoch: its end does the same with the validation behind it.
        if self._batches >= len(self.train_loader):
            if checkpoint:
                self._save_asked = True
            return
        if stop:
            self._save(last_model=not self.run.channel.agent_gone)
            raise Stopped
        if checkpoint:
            self._save(last_model=False)

    _save_asked = False

    def _asked(self) -> tuple[bool, bool]:
        """Whether to stop and whether to save; all processes of a job get the same answer, else they would deadlock."""
        channel = self.run.channel
        flags = [channel.stop_requested, channel.take_checkpoint_request()] if RANK in (-1, 0) else [False, False]
        if self.world_size > 1 and dist.is_initialized():
            shared = torch.tensor([int(flag) for flag in flags], device=self.device)
            dist.broadcast(shared, src=0)
            flags = [bool(flag) for flag in shared.tolist()]
        return flags[0], flags[1]

    def _on_epoch_end(self, _: Any) -> None:
        done = self.epoch + 1
        self._skip = 0
        if RANK in (-1, 0):
            self._report(done)
        stop, checkpoint = self._asked()
        checkpoint = checkpoint or self._save_asked
        self._save_asked = False
        self._batches = 0
        if done >= self.epochs:
            return  # `_on_train_end` saves.
        if stop or checkpoint or done % self.run.plan.checkpoint_interval == 0:
            self._save(last_model=stop and not self.run.channel.agent_gone)
        if stop:
            raise Stopped

    def _on_train_end(self, _: Any) -> None:
        self._batches = 0
        self._save(last_model=True)

    # --- reports

    def _report(self, done: int) -> None:
        """The epoch's metrics and, when it was validated, the validation result."""
        run, seconds = self.run, time.monotonic() - self._epoch_started
        losses = {f"train/{key}": float(value) for key, value in (self.tloss or {}).items()}
        validated = self._validated_epoch == self.epoch
        measured: dict[str, float] = self._validation["measured"] if validated else {}
        rates = {f"lr/pg{i}": float(group["lr"]) for i, group in enumerate(self.optimizer.param_groups)}
        published = self._int8 if validated and self._validation["improved"] else None
        int8 = {f"int8_{key}": value for key, value in (published or {}).items() if not key.startswith("float32_")}
        weights = next((g for g in self.optimizer.param_groups if g.get("param_group") == "weight"), None)
        message = Epoch(
            epoch=done,
            loss=sum(losses.values()),
            accuracy=metric_value(self.args.task, "accuracy", measured),
            learning_rate=float((weights or self.optimizer.param_groups[0])["lr"]),
            extra_metrics={
                **losses,
                **measured,
                **rates,
                **int8,
                "epoch_seconds": round(seconds, 3),
                "images_per_second": round(len(self.train_loader.dataset) / max(seconds, 1e-9), 2),
            },
        )
        run.channel.send(message)
        print(
            f"epoch {done}/{self.epochs}: loss {message.loss:.4f}, learning rate {message.learning_rate:.3g}, "
            + "".join(
                f"{k.removeprefix('metrics/')} {v:.4f}, " for k, v in measured.items() if k.startswith("metrics/")
            )
            + f"{seconds:.1f} s",
            flush=True,
        )
        if not validated:
            return
        losses_val = [value for key, value in measured.items() if key.startswith("val/")]
        run.channel.send(
            Validation(
                data={
                    "epoch": done,
                    "task_type": run.spec.task_type,
                    "primary_metric_name": self._validation["name"],
                    "primary_metric_value": self._validation["value"],
                    "overall_loss": sum(losses_val) if losses_val else None,
                    **self._validation["result"],
                }
            )
        )
        if self._validation["improved"]:
            run.best = {"value": self._validation["value"], "epoch": done, "metric": self._validation["name"]}
            run.best_weights = {key: tensor.detach().cpu().clone() for key, tensor in self.ema.ema.state_dict().items()}

    # --- saving

    def _save(self, *, last_model: bool) -> None:
        """The best model if it is new, then the state and, if wanted, the model of now."""
        if RANK not in (-1, 0):
            return
        run = self.run
        done = self.epoch + (1 if self._batches == 0 else 0)
        if run.best is not None and run.best_weights is not None:
            # Before the state, so that a state whose best is done never exists without it.
            weights, run.best_weights = run.best_weights, None
            model = self._model_with(weights)
            self._send("best", run.best["epoch"], 0, self._model_files("best", run.best["epoch"], 0, model))
        stem = run.store.stem("last", done, self._batches)
        path = write_durably(stem.with_suffix(".state"), writer_of(self._state(done)))
        files = [CheckpointFile(kind="checkpoint", path=path, name="last.state")]
        if last_model:
            files = [*self._model_files("last", done, self._batches, self.ema.ema), *files]
        self._send("last", done, self._batches, files)

    def _send(self, role: Role, epoch: int, batch: int, files: list[CheckpointFile]) -> None:
        self.run.channel.send(self.run.store.saved(role, epoch, files))
        at = f"epoch {epoch}" + (f", batch {batch}" if batch else "")
        print(f"saved {', '.join(file.name for file in files)} ({at})", flush=True)

    def _model_files(self, role: Role, epoch: int, batch: int, model: Any) -> list[CheckpointFile]:
        spec, size = self.run.spec, int(self.args.imgsz)
        labels = [self.data["names"][i] for i in range(self.data["nc"])]
        manifest = manifest_of(
            model,
            task=self.args.task,
            platform_task=spec.task_type,
            model_name=spec.model_name,
            image_size=size,
            labels=labels,
        )
        if role == "best" and self._int8 is not None:
            manifest["measured"] = self._int8
        graph = export_graph(model, task=self.args.task, image_size=size)
        return publish(graph, self.run.store.stem(role, epoch, batch), role, manifest, keep_float32=role == "best")

    def _model_with(self, weights: dict[str, torch.Tensor]) -> Any:
        model = copy.deepcopy(self.ema.ema).cpu()
        model.load_state_dict(weights)
        return model

    def _state(self, done: int) -> dict[str, Any]:
        model = unwrap_model(self.model)
        return cast(
            dict[str, Any],
            cpu_copy(
                {
                    "model_name": self.run.spec.model_name,
                    "task": self.args.task,
                    "epoch": done,
                    "batch": self._batches,
                    "batch_size": self.batch_size,
                    "losses": self.tloss if self._batches else {},
                    "model": dict(model.state_dict()),
                    "ema": dict(self.ema.ema.state_dict()),
                    "ema_updates": self.ema.updates,
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    "last_step": self._last_step,
                    "gradients": {
                        name: parameter.grad
                        for name, parameter in model.named_parameters()
                        if parameter.grad is not None
                    },
                    "random": random_state(),
                    "buffer": list(getattr(self.train_loader.dataset, "buffer", [])),
                    "best": self.run.best,
                    "best_fitness": None if self.best_fitness is None else float(self.best_fitness),
                }
            ),
        )

    @staticmethod
    def _load(model: Any, weights: dict[str, Any]) -> None:
        try:
            unwrap_model(model).load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointCorrupt(f"the weights do not fit the model: {str(error).splitlines()[0]}") from error

    def _fill_buffer(self, indexes: list[int]) -> None:
        """Mosaics are made of recently read images: the same ones have to be at hand again."""
        dataset = self.train_loader.dataset
        for i in indexes:
            if i < len(dataset):
                dataset.load_image(i)

    def _epoch_batches(self, numbered: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """The batches of an epoch, after those that a resumed run has behind it, under their true numbers."""
        loader, skip = self.train_loader, self._skip
        if self._sampler is not None and loader.iterator is None:
            # The loader has no workers ahead of it: now is when the order can be set.
            self._sampler.start(self.epoch, skip * loader.batch_sampler.sampler.batch_size)
        if self._pending_losses is not None:
            self.tloss, self._pending_losses = self._pending_losses, None
        if self._pending_random is not None:
            restore_random_state(self._pending_random)
            self._pending_random = None
        for i, batch in itertools.islice(numbered, len(loader) - skip):
            yield i + skip, batch


class NamedClassificationDataset(ClassificationDataset):  # type: ignore[misc]
    """Also gives the number of each image, by which its file is known."""

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {**super().__getitem__(i), "index": i}


class _Batches:
    """In place of the library's progress bar over batches, whose lines would fill a job's log."""

    def __init__(self, batches: Iterator[tuple[int, Any]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return self._batches

    def set_description(self, _: str) -> None:
        """Not shown."""


class DetectionRun(Reporting, DetectionTrainer):  # type: ignore[misc]
    """Boxes."""


class SegmentationRun(Reporting, SegmentationTrainer):  # type: ignore[misc]
    """Boxes and masks."""


class PoseRun(Reporting, PoseTrainer):  # type: ignore[misc]
    """Boxes and keypoints."""


class ClassificationRun(Reporting, ClassificationTrainer):  # type: ignore[misc]
    """Classes of whole images."""


RUNS: dict[str, Any] = {
    "detect": DetectionRun,
    "segment": SegmentationRun,
    "pose": PoseRun,
    "classify": ClassificationRun,
}
