"""One of the further processes of a job on several devices: `python -m …timm_trainer.peer JOBFILE`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from ..channel import Channel
from ..messages import TrainerJob
from .train import train


def main(arguments: list[str]) -> int:
    """Takes part until rank 0 says that it is over."""
    # Signals are for rank 0, which tells the others.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    train(TrainerJob.model_validate_json(Path(arguments[0]).read_bytes()), Channel(None))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
