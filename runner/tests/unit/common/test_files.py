from pathlib import Path

import pytest

from cultivar_runner.trainer.common.files import CheckpointStore, write_durably
from cultivar_runner.trainer.messages import CheckpointFile


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.bin"
    write_durably(path, b"old")

    def half(target: Path) -> None:
        target.write_bytes(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_durably(path, half)
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def save(store: CheckpointStore, epoch: int) -> None:
    path = write_durably(store.stem("last", epoch, 0).with_suffix(".state"), b"x")
    store.saved("last", epoch, [CheckpointFile(kind="checkpoint", path=path, name="last.state")])


@pytest.mark.parametrize(("keep", "left"), [(1, 3), (3, 3), (5, 5), (100, 8)])
def test_the_newest_stay_and_never_fewer_than_three(tmp_path: Path, keep: int, left: int) -> None:
    store = CheckpointStore(tmp_path, keep)
    for epoch in range(1, 9):
        save(store, epoch)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"last-{epoch:04}.state" for epoch in range(9 - left, 9)]


def test_a_checkpoint_saved_again_at_the_same_place_is_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 3)
    for epoch in (1, 2, 3, 3, 3):
        save(store, epoch)
    assert len(list(tmp_path.iterdir())) == 3


def test_names_tell_role_epoch_and_batch(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 3)
    assert store.stem("best", 12, 0).name == "best-0012"
    assert store.stem("last", 12, 7).name == "last-0012-00007"
