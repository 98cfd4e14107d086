"""The training loop of timm's image classifiers.

The same job, data and state give the same weights, bit for bit on a CPU, wherever in between it was stopped and
resumed: random numbers are drawn from generators that are seeded anew for each image and each batch from the job's
seed, the epoch and their number (see data.py).
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ..channel import Channel, CheckpointCorrupt, DatasetUnavailable, OutOfMemory, TrainerError
from ..common.classification import ClassificationData, Sample, check_classes, read_classification, split_samples
from ..common.files import CheckpointStore, Role
from ..common.metrics import is_improvement
from ..export.onnx_model import export_onnx
from ..export.publish import form_for, publish
from ..export.quantize import fake_quantize
from ..messages import CheckpointFile, Epoch, FinishReason, Started, TrainerJob, Validation
from .config import TASK, Settings, read_settings
from .data import BatchAugmentation, EpochSampler, ImageSet, InputForm, PlainSampler, draw, is_grey, loader_of
from .model import build_model, build_optimizer
from .processes import Processes, device_count, start
from .report import (
    Measured,
    extra_metrics,
    measure,
    validation_data,
    write_pictures,
    write_predictions,
)
from .schedule import RatePlan
from .state import Mark, Progress, State, Sums, load_state, save_state

# Loader processes on a machine with CUDA devices, at most; for each of the job's processes.
MOST_WORKERS = 8
WORKERS_VARIABLE = "CULTIVAR_LOADER_PROCESSES"


def train(job: TrainerJob, channel: Channel) -> FinishReason:
    """Trains a timm job to its last epoch, an early stop or a stop from outside; raises a `TrainerError` otherwise."""
    settings = read_settings(job.spec)
    data = read_classification(job.data_dir, settings.dataset_format)
    check_classes(data.class_names, settings.class_names, settings.num_classes)
    resumed = load_state(job.resume.path) if job.resume is not None else None
    weights_only = job.resume is not None and job.resume.weights_only
    form = _form_of(settings, data, job.data_dir, None if weights_only else resumed)
    leads = os.environ.get("RANK", "0") == "0"
    # Before the others are started: a job that cannot be trained fails here, once. They get rank 0's weights.
    model = build_model(
        settings, len(data.class_names), form, pretrained=settings.pretrained and resumed is None and leads
    )
    processes = start(job, device_count())
    failed = True
    try:
        run = Run(job, channel, settings, data, form, model, processes)
        if resumed is not None:
            run.go_on_from(resumed, weights_only=weights_only)
        reason = run.run()
        failed = False
        return reason
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise OutOfMemory(str(error).split("\n")[0]) from error
        raise
    finally:
        processes.close(failed=failed)


def _form_of(settings: Settings, data: ClassificationData, root: Path, resumed: State | None) -> InputForm:
    if resumed is not None:
        return InputForm.from_state(resumed.input)
    channels = 3
    if not settings.preprocessing.to_rgb and all(is_grey(root / sample.path) for sample in data.samples):
        channels = 1
    return InputForm.of(settings.preprocessing, settings.image_size, channels)


class Run:
    """One attempt at a job, in one of its processes."""

    def __init__(
        self,
        job: TrainerJob,
        channel: Channel,
        settings: Settings,
        data: ClassificationData,
        form: InputForm,
        model: nn.Module,
        processes: Processes,
    ) -> None:
        self._job, self._channel, self._settings, self._form = job, channel, settings, form
        self._processes = processes
        self._device = processes.device
        self._class_names = data.class_names
        self._warnings = data.warnings
        self._train_samples, self._validation_samples = split_samples(data.samples)
        cuda = self._device.type == "cuda"
        self._memory_format = torch.channels_last if cuda else torch.contiguous_format
        if cuda:
            torch.backends.cudnn.benchmark = True
        self._model: nn.Module = model.to(self._device).to(memory_format=self._memory_format)
        self._optimizer = build_optimizer(self._model, settings.optimizer, settings.learning_rate)
        self._plan = RatePlan(self._optimizer, settings.scheduler, settings.learning_rate, settings.epochs)
        # Half precision needs its small gradients scaled up; bfloat16, which CPUs have, does not.
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=settings.mixed_precision and cuda)
        self._progress = Progress()
        self._store = CheckpointStore(job.checkpoint_dir, settings.keep_n_checkpoints)
        self._augment = BatchAugmentation(form, settings.augmentation, len(data.class_names), self._device)
        self._batch_size = min(settings.batch_size, len(self._train_samples))
        self._workers = _loader_processes(cuda)
        self._sampler = EpochSampler(
            len(self._train_samples), self._batch_size, settings.seed, processes.rank, processes.world
        )
        self._loader = loader_of(
            ImageSet(job.data_dir, self._train_samples, form, augmentation=settings.augmentation, seed=settings.seed),
            self._sampler,
            workers=self._workers,
            pin_memory=cuda,
        )
        self._wrapped = self._model
        self._extras: dict[Role, list[CheckpointFile]] = {"best": [], "last": []}
        self._int8_accuracy: tuple[int, float, float] | None = None

    # --- beginning

    def go_on_from(self, state: State, *, weights_only: bool) -> None:
        """Takes over a state, or only its weights."""
        if weights_only:
            own = self._model.state_dict()
            fitting = {name: value for name, value in state.model.items() if _same_shape(own.get(name), value)}
            if not any(name in fitting for name, _ in self._model.named_parameters()):
                raise CheckpointCorrupt(f"no weight of the checkpoint fits {self._settings.model_name}")
            self._model.load_state_dict(fitting, strict=False)
            self._log(f"weights of a checkpoint: {len(fitting)} of {len(own)} tensors fit")
            return
        if state.model_name != self._settings.model_name or state.class_names != list(self._class_names):
            raise CheckpointCorrupt(
                f"the checkpoint is of {state.model_name} with {len(state.class_names)} classes, "
                f"the job of {self._settings.model_name} with {len(self._class_names)}"
            )
        try:
            self._model.load_state_dict(state.model)
            self._optimizer.load_state_dict(state.optimizer)
            if state.scaler:
                self._scaler.load_state_dict(state.scaler)
            self._plan.load_state_dict(state.schedule)
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointCorrupt(f"the checkpoint does not fit the job: {str(error)[:300]}") from error
        self._progress = state.progress

    def run(self) -> FinishReason:
        """The loop over the epochs."""
        self._wrapped = self._processes.wrap(self._model)
        if self._processes.leads:
            self._channel.send(Started(total_epochs=self._settings.epochs))
            self._describe()
        # The attempt before may have ended between its last checkpoint and its last word.
        if self._progress.batch == 0 and self._stops_early():
            return "done"
        while self._progress.epoch < self._settings.epochs:
            reason = self._epoch()
            if reason is not None:
                return reason
        return "done"

    def _describe(self) -> None:
        settings, form = self._settings, self._form
        weights = sum(parameter.numel() for parameter in self._model.parameters())
        self._log(
            f"{settings.model_name}: {weights / 1e6:.2f} M weights, {form.size}x{form.size}x{form.channels} pixels, "
            f"{len(self._class_names)} classes; {len(self._train_samples)} training and "
            f"{len(self._validation_samples)} validation images"
        )
        self._log(
            f"{settings.optimizer.type}, learning rate {settings.learning_rate} ({settings.scheduler.type}), "
            f"batches of {self._batch_size}, seed {settings.seed}; {self._processes.world} x {self._device.type}"
            f"{', mixed precision' if settings.mixed_precision else ''}"
        )
        for warning in self._warnings:
            self._log(f"note: {warning}")
        if not self._validation_samples and settings.validation.enabled:
            self._log("note: there are no images to validate on")
        progress = self._progress
        if progress.epoch or progress.batch:
            self._log(f"resumed after epoch {progress.epoch}" + f" and {progress.batch} batches" * (progress.batch > 0))

    # --- an epoch

    def _epoch(self) -> FinishReason | None:
        """One epoch, or the rest of one. None: go on."""
        progress = self._progress
        epoch = progress.epoch + 1
        if self._train_epoch(epoch) == "stopped":
            return self._stop()
        if not math.isfinite(self._progress.sums.loss):
            raise TrainerError(
                f"the loss is not a number any more in epoch {epoch} at learning rate {self._plan.rate}: "
                "try a lower one"
            )
        measured = None
        if self._is_validated(epoch):
            measured = self._validate(self._model)
            if measured is None:
                return self._stop()
        sums, rate = self._progress.sums, self._plan.rate
        is_best = self._close_epoch(epoch, measured)
        stops = self._stops_early()
        is_last = stops or epoch == self._settings.epochs
        is_due = epoch % self._settings.checkpoint_interval == 0
        if self._processes.leads:
            self._report(epoch, rate, sums, measured, saves_best=is_best)
            if measured is not None:
                self._keep_extras(epoch, measured)
            # Nothing was ever measured or kept as best: the last weights are the best known ones.
            if is_best or (is_last and self._progress.best is None) or (is_last and not self._keeps_best()):
                self._save("best")
            if self._channel.take_checkpoint_request() or is_due or is_last:
                self._save("last")
        if stops:
            return "done"
        return self._stop_if_asked()

    def _train_epoch(self, epoch: int) -> str:
        settings, progress, processes = self._settings, self._progress, self._processes
        self._sampler.epoch = epoch - 1
        plan = self._sampler.plan()
        if progress.batches not in (0, len(plan)):
            self._log(f"epoch {epoch} begins anew: it has {len(plan)} batches now, it had {progress.batches}")
            progress.batch, progress.sums = 0, Sums()
        progress.batches = len(plan)
        self._sampler.first = progress.batch
        accumulation = settings.gradient_accumulation_steps
        self._wrapped.train()
        self._optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(3, dtype=torch.float64, device=self._device)  # loss, hits, images
        started = time.perf_counter()
        logged = 0.0
        seen = 0

        def gather() -> None:
            nonlocal started
            local = [float(value) for value in totals.tolist()]
            whole = [sum(values) for values in zip(*processes.gathered(local), strict=True)]
            totals.zero_()
            progress.sums.loss += whole[0]
            progress.sums.correct += whole[1]
            progress.sums.images += int(whole[2])
            now = time.perf_counter()
            progress.sums.seconds += now - started
            started = now

        batches = iter(self._loader)
        for number in range(progress.batch, len(plan)):
            group = min(accumulation, len(plan) - number // accumulation * accumulation)
            ends_group = (number + 1) % accumulation == 0 or number + 1 == len(plan)
            self._plan.begin_update(epoch - 1, number, len(plan))
            batch = next(batches)
            with self._unsynced(ends_group):
                self._backward(epoch, number, batch, len(plan[number]), group, totals)
            if ends_group:
                self._update()
            if settings.log_interval and (number + 1) % settings.log_interval == 0 and number + 1 < len(plan):
                loss, _, images = totals.tolist()
                seen_loss, seen = (loss - logged) / max(images - seen, 1), int(images)
                logged = loss
                if not math.isfinite(loss) and processes.world == 1:
                    break
                self._log(
                    f"epoch {epoch} batch {number + 1}/{len(plan)}  loss {seen_loss:.4f}  lr {self._plan.rate:.2e}"
                )
            if not ends_group:
                continue
            progress.batch = number + 1
            if processes.flag(self._channel.stop_requested):
                gather()
                return "stopped"
            # Only this process hears of requests; a save is its business alone, between two batches.
            if processes.leads and progress.batch < len(plan) and self._channel.take_checkpoint_request():
                if processes.world == 1:
                    gather()
                self._save("last")
                self._wrapped.train()
        gather()
        if progress.sums.images == 0:
            raise DatasetUnavailable("none of the training images can be read")
        return "over"

    def _unsynced(self, ends_group: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients that are only added up need not travel between processes."""
        if ends_group or not isinstance(self._wrapped, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._wrapped.no_sync()

    def _backward(self, epoch: int, number: int, batch: Any, planned: int, group: int, totals: Tensor) -> None:
        """Adds the gradient of this process's share of a batch of `planned` images."""
        rank, world = self._processes.rank, self._processes.world
        seed = draw(self._settings.seed, epoch, number, rank, 1)
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        counts = batch is not None and rank < planned
        if batch is None:
            if world == 1:
                return
            # Others wait for this process's gradient: an empty image with weight 0.
            form = self._form
            images = torch.zeros(1, form.channels, form.size, form.size, dtype=torch.uint8)
            labels = torch.zeros(1, dtype=torch.long)
        else:
            images, labels = batch.images, batch.labels
        images = images.to(self._device, non_blocking=True, memory_format=self._memory_format)
        labels = labels.to(self._device, non_blocking=True)
        inputs, targets = self._augment(images, labels)
        with self._autocast():
            logits = self._wrapped(inputs)
            loss = F.cross_entropy(logits.float(), targets, reduction="sum")
        if not counts:
            loss = loss * 0.0
        # The mean over the whole batch, of all processes: their gradients are averaged.
        torch.autograd.backward(self._scaler.scale(loss * (world / (planned * group))))
        if counts:
            hits = (logits.detach().argmax(dim=1) == labels).sum()
            totals += torch.stack([loss.detach().double(), hits.double(), torch.full_like(hits, len(labels)).double()])

    def _update(self) -> None:
        if self._settings.gradient_clip_value:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._model.parameters(), self._settings.gradient_clip_value)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def _autocast(self) -> Any:
        kind = torch.float16 if self._device.type == "cuda" else torch.bfloat16
        return torch.autocast(self._device.type, dtype=kind, enabled=self._settings.mixed_precision)

    # --- validation

    def _is_validated(self, epoch: int) -> bool:
        validation = self._settings.validation
        if not validation.enabled or not self._validation_samples:
            return False
        due = epoch >= validation.val_start_epoch and epoch % validation.val_interval == 0
        return due or epoch == self._settings.epochs

    def _validate(self, model: nn.Module, *, alone: bool = False) -> Measured | None:
        """Measures a model on the validation images. None when a stop was asked for before the end.

        `alone`: this process measures on all of them, else each on its share.
        """
        rank, world = (0, 1) if alone else (self._processes.rank, self._processes.world)
        samples = self._validation_samples
        loader = loader_of(
            ImageSet(self._job.data_dir, samples, self._form),
            PlainSampler(len(samples), self._batch_size, rank, world),
            workers=min(self._workers, -(-len(samples) // self._batch_size)),
            pin_memory=self._device.type == "cuda",
        )
        found: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        model.eval()
        with torch.inference_mode():
            for batch in loader:
                if batch is not None:
                    images = batch.images.to(self._device, memory_format=self._memory_format)
                    with self._autocast():
                        logits = model(self._augment.normalize(images))
                    found.append((logits.double().cpu().numpy(), batch.positions.numpy()))
                # Several processes go through together, or not at all.
                if world == 1 and self._processes.world == 1 and self._channel.stop_requested:
                    return None
        shares = [found] if alone else self._processes.gathered(found)
        parts = [part for share in shares for part in share]
        if not parts:
            raise DatasetUnavailable("none of the validation images can be read")
        logits_of_all = np.concatenate([logits for logits, _ in parts])
        positions = np.concatenate([places for _, places in parts])
        order = np.argsort(positions, kind="stable")
        chosen: list[Sample] = [samples[int(position)] for position in positions[order]]
        return measure(
            logits_of_all[order],
            np.array([sample.label for sample in chosen], dtype=np.int64),
            [sample.path for sample in chosen],
            len(self._class_names),
            [*self._settings.validation.metrics, self._settings.watched.metric, self._settings.primary.metric],
        )

    def _close_epoch(self, epoch: int, measured: Measured | None) -> bool:
        """Counts the epoch as complete; true when its weights are to be kept as the best."""
        progress, settings = self._progress, self._settings
        sums = progress.sums
        self._plan.end_epoch(epoch - 1, self._plateau_value(sums, measured))
        self._progress = Progress(epoch=epoch, best=progress.best, plateau=progress.plateau)
        if measured is None:
            return False
        watched = settings.watched
        mark = Mark(measured.value(watched.metric), measured.loss, epoch)
        plateau, best = progress.plateau, progress.best
        delta = settings.validation.early_stopping_min_delta
        if is_improvement(mark.value, None if plateau is None else plateau.value, watched.mode, delta):
            self._progress.plateau = mark
        # Accuracy on few images has few values and soon repeats its best one; the loss still tells those epochs apart.
        equal = best is not None and mark.value == best.value and is_improvement(mark.loss, best.loss, "min")
        if not equal and not is_improvement(mark.value, None if best is None else best.value, watched.mode):
            return False
        self._progress.best = mark
        return settings.validation.save_best

    def _plateau_value(self, sums: Sums, measured: Measured | None) -> float:
        """What a plateau plan watches: a loss where lower is better, else the job's metric or accuracy."""
        if self._settings.scheduler.mode == "min":
            return measured.loss if measured is not None else sums.loss / sums.images
        watched = self._settings.watched
        if measured is None:
            return sums.correct / sums.images
        return measured.value(watched.metric if watched.mode == "max" else "accuracy")

    def _stops_early(self) -> bool:
        validation, plateau, epoch = self._settings.validation, self._progress.plateau, self._progress.epoch
        if not validation.early_stopping or plateau is None or not self._is_validated(epoch):
            return False
        if epoch - plateau.epoch < validation.early_stopping_patience:
            return False
        self._log(
            f"early stopping: {self._settings.watched.name} has not improved on {plateau.value:.4f} "
            f"since epoch {plateau.epoch}"
        )
        return True

    def _keeps_best(self) -> bool:
        return self._settings.validation.enabled and self._settings.validation.save_best

    # --- what goes out

    def _report(self, epoch: int, rate: float, sums: Sums, measured: Measured | None, *, saves_best: bool) -> None:
        loss, accuracy = sums.loss / sums.images, sums.correct / sums.images
        extra: dict[str, float | None] = {
            "train_accuracy": accuracy,
            **({} if measured is None else extra_metrics(measured)),
            "epoch_seconds": sums.seconds,
            "images_per_second": sums.images / sums.seconds if sums.seconds > 0 else 0.0,
        }
        if measured is not None and (saves_best or epoch == self._settings.epochs) and self._is_too_large():
            int8 = self._validate(fake_quantize(copy.deepcopy(self._model)), alone=True)
            if int8 is not None:
                self._int8_accuracy = (epoch, int8.value("accuracy"), measured.value("accuracy"))
                extra["int8_accuracy"] = int8.value("accuracy")
        self._channel.send(
            Epoch(
                epoch=epoch,
                loss=loss,
                accuracy=accuracy if measured is None else measured.value("accuracy"),
                learning_rate=rate,
                extra_metrics=extra,
            )
        )
        validated = ""
        if measured is not None:
            data = validation_data(epoch, measured, self._class_names, self._settings)
            self._channel.send(Validation(data=data))
            validated = f"  val loss {measured.loss:.4f}  val acc {measured.value('accuracy'):.4f}"
        self._log(
            f"epoch {epoch}/{self._settings.epochs}  loss {loss:.4f}  acc {accuracy:.4f}{validated}  lr {rate:.2e}  "
            f"{sums.seconds:.1f} s"
        )

    def _keep_extras(self, epoch: int, measured: Measured) -> None:
        """Files that go along with the next checkpoint of each role."""
        validation = self._settings.validation
        folder = self._job.work_dir / "validation"
        files: list[CheckpointFile] = []
        if validation.save_predictions:
            path = write_predictions(folder / f"predictions-{epoch:04}.jsonl", measured, self._class_names)
            files.append(CheckpointFile(kind="file", path=path.absolute(), name=path.name))
        if validation.save_visualizations:
            target = folder / f"validation-{epoch:04}.png"
            pictures = write_pictures(
                target, self._job.data_dir, measured, self._class_names, validation.num_visualizations
            )
            if pictures is not None:
                files.append(CheckpointFile(kind="file", path=pictures.absolute(), name=pictures.name))
        self._extras = {"best": files, "last": files}

    def _stop_if_asked(self) -> FinishReason | None:
        if self._progress.epoch == self._settings.epochs or not self._processes.flag(self._channel.stop_requested):
            return None
        return self._stop()

    def _stop(self) -> FinishReason:
        if self._processes.leads:
            self._save("last")
            self._log(
                f"stopped after epoch {self._progress.epoch} and {self._progress.batch} batches, checkpoint saved"
            )
        return "user_stop"

    def _weight_bytes(self) -> int:
        return 4 * sum(int(tensor.numel()) for tensor in self._model.state_dict().values())

    def _is_too_large(self) -> bool:
        return form_for(self._weight_bytes()) == "int8"

    def _manifest(self) -> dict[str, Any]:
        measured: dict[str, Any] = {}
        if self._int8_accuracy is not None and self._int8_accuracy[0] == self._progress.epoch:
            measured = {"measured": {"accuracy": self._int8_accuracy[1], "float32_accuracy": self._int8_accuracy[2]}}
        return {
            "schema": 1,
            "task": TASK,
            "framework": "timm",
            "model_name": self._settings.model_name,
            "format": "onnx",
            "input": self._form.manifest(),
            "output": {"name": "logits", "decode": "softmax"},
            "labels": list(self._class_names),
            "external_data": [],
            **measured,
        }

    def _save(self, role: Role) -> None:
        """Puts a checkpoint on disk and says so. `last` is resumable; an agent that is gone gets no model any more."""
        progress = self._progress
        stem = self._store.stem(role, progress.epoch, progress.batch)
        files: list[CheckpointFile] = []
        if role == "last":
            state = State(
                model_name=self._settings.model_name,
                class_names=list(self._class_names),
                input=self._form.state(),
                progress=progress,
                model=self._model.state_dict(),
                optimizer=self._optimizer.state_dict(),
                scaler=self._scaler.state_dict(),
                schedule=self._plan.state_dict(),
            )
            path = save_state(stem.with_name(f"{stem.name}.state"), state)
            files.append(CheckpointFile(kind="checkpoint", path=path.absolute(), name=f"{role}.state"))
        if not self._channel.agent_gone:
            shape = (self._form.channels, self._form.size, self._form.size)
            proto = export_onnx(self._model, shape)
            files += publish(
                proto,
                stem,
                role,
                self._manifest(),
                form=form_for(self._weight_bytes()),
                keep_float32=role == "best",
            )
            files += self._extras[role]
            self._extras[role] = []
        self._channel.send(self._store.saved(role, progress.epoch, files))

    def _log(self, line: str) -> None:
        if self._processes.leads:
            print(line, flush=True)


def _same_shape(own: Tensor | None, given: Any) -> bool:
    return own is not None and isinstance(given, Tensor) and own.shape == given.shape


def _loader_processes(cuda: bool) -> int:
    given = os.environ.get(WORKERS_VARIABLE)
    if given is not None:
        return max(int(given), 0)
    # On a CPU the cores are better spent on the training itself.
    if not cuda:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    devices = max(int(torch.cuda.device_count()), 1)
    return max(min(MOST_WORKERS, cores // devices), 1)
