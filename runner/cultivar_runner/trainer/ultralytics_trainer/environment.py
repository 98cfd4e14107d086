"""Imports Ultralytics so that it talks to nobody and writes only where it is told."""

from __future__ import annotations

import os
from pathlib import Path

from ..channel import InvalidConfig


def prepare(folder: Path) -> None:
    """Sets the library up; has to come before its first import in this process, later calls change nothing.

    Its settings live in `folder`; no telemetry, no look-ups, no packages installed on the fly, no experiment trackers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("YOLO_CONFIG_DIR", str(folder))
    # "Offline" switches events, version look-ups and font downloads off; published weights are fetched all the same.
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    # A key of the vendor's platform in the machine's environment would send every job there.
    os.environ.pop("ULTRALYTICS_API_KEY", None)

    from ultralytics import settings

    wanted = {
        "sync": False,
        "datasets_dir": str(folder),
        "runs_dir": str(folder / "runs"),
        **dict.fromkeys(("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb"), False),
    }
    wanted = {key: value for key, value in wanted.items() if key in settings}
    if any(settings.get(key) != value for key, value in wanted.items()):
        settings.update(wanted)


def weights_folder() -> Path:
    """Where published weights are kept between jobs: `CULTIVAR_WEIGHTS_DIR`, else the user's cache folder."""
    chosen = os.environ.get("CULTIVAR_WEIGHTS_DIR")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cultivar-runner" / "weights"


def published_weights(model_name: str) -> Path:
    """The file with the published weights of a model, fetched when it is not there yet.

    `InvalidConfig` on `advanced_config.pretrained` when it cannot be had: training from random weights instead would be
    a different job than the one that was asked for.
    """
    folder = weights_folder()
    path = folder / f"{model_name}.pt"
    if path.is_file():
        return path
    reason = "the library does not publish them"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

        if path.name in GITHUB_ASSETS_NAMES and Path(attempt_download_asset(path, retry=1)).is_file():
            return path
    except Exception as error:  # The library raises what its many ways of downloading raise.
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else 'no reason given'}"
    raise InvalidConfig(
        "advanced_config.pretrained",
        f"the published weights of {model_name} cannot be had ({reason}). Put {path.name} into {folder}, or set "
        "pretrained to false to begin from random weights",
    )
