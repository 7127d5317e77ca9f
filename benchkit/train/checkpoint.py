"""Checkpoints of a run: saved and loaded by all its processes together, uploaded while training goes on.

A checkpoint is saved into a folder of its own. When all ranks have met, its marker is written, and then one
process of each place, which is a machine or several that share a disk, sends the files there to the store.
What is killed on the way leaves no marker, or no version in the store, and is as if it had not been.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from accelerate import Accelerator

from benchkit.errors import BenchKitError, NotFoundError, UsageError
from benchkit.settings import load_settings
from benchkit.store.bundles import Shelf, new_folder
from benchkit.store.urls import open_remote
from benchkit.train import accelerator_state
from benchkit.train.checkpoint_folder import CHECKPOINT_FOLDER, LocalCopies
from benchkit.train.checkpoint_record import Checkpoint
from benchkit.train.checkpoint_store import fetch_copy, find_stored, open_shelf
from benchkit.train.ranks import together
from benchkit.train.sending import Sending
from benchkit.train.uploads import UPLOADS

Latest = Literal["latest"]


def upload_model_checkpoint(
    acc: Accelerator,
    checkpoint_name: str,
    checkpoint_folder: str | Path = CHECKPOINT_FOLDER,
    *,
    keep: int | None = None,
    wait: bool = False,
) -> Checkpoint:
    """Save model, optimizer, scheduler, random states and the loaders' positions, and upload them.

    Call it on every rank, at the same step, in the loop behind the optimizer's step. It returns when the
    files are saved on the local disk; the upload goes on in the background. At most one is under way: the
    next call waits for it, and so does the end of the process.

    Args:
        acc: The Accelerator, with everything prepared.
        checkpoint_name: The name; every upload becomes its next version, `NAME@1`, `NAME@2`, ….
        checkpoint_folder: Where the files are saved, relative to the project. The newest stays there, so that
            a restart need not fetch it.
        keep: How many of the newest versions stay in the store; None keeps all. Older ones are removed when
            the new one is whole.
        wait: Return when the checkpoint is in the store.

    Returns:
        The checkpoint; its number is None where the upload was not waited for.

    Raises:
        UsageError: There is no model, `keep` is less than 1, or gradients wait for the optimizer.
        StateError: A registered object holds more than tensors and plain values.
        StoreError: The disk or the store failed, also in the upload before this one. The checkpoints before
            are as they were.

    Example::

        for step, (labels, images) in enumerate(train_loader):
            ...
            optimizer.step()
            if step % 100 == 99:
                upload_model_checkpoint(accelerator, "digits", keep=3)
    """
    if keep is not None and keep < 1:
        raise UsageError(f"keep {keep} is less than 1: the newest checkpoint always stays")
    accelerator_state.check_ready(acc)
    accelerator_state.check_between_steps(acc)
    shelf, copies = _open(checkpoint_name, checkpoint_folder)
    checkpoint, owners = _save(acc, copies)
    sending = Sending(shelf, copies, checkpoint, owners=tuple(owners), rank=acc.process_index, keep=keep)
    together(acc, lambda: UPLOADS.begin(sending) if acc.process_index in owners else None)
    if wait:
        (number,) = together(acc, UPLOADS.wait, by="main")
        checkpoint = checkpoint.numbered(number)
    return checkpoint


def load_model_checkpoint(
    acc: Accelerator,
    name: str,
    version: int | Latest = "latest",
    *,
    checkpoint_folder: str | Path = CHECKPOINT_FOLDER,
) -> Checkpoint:
    """Restore model, optimizer, scheduler, random states and the loaders' positions on every rank.

    The number of processes may be another than when the checkpoint was saved. A rank that did not exist then
    gets random numbers seeded from the checkpoint's id and its rank; what the ranks do otherwise, and which
    samples are left, does not depend on it. Nothing but tensors and plain values is unpickled.

    Args:
        acc: The Accelerator, with the same prepared in the same order; the last may be left out.
        name: The checkpoint's name.
        version: Its number, or the newest that is whole: in the store, or on this machine's disk where its
            upload was cut off, which is then taken up again.
        checkpoint_folder: Where `upload_model_checkpoint` saves on this machine.

    Returns:
        The checkpoint: its number, and the epoch and position of the loader that was prepared first.

    Raises:
        NotFoundError: There is none of that name or number.
        StateError: It is not of what was prepared.
        CorruptError: Its bytes are not what was written, or hold more than tensors and plain values.
        StoreError: The store or the disk failed.
    """
    if version != "latest" and (type(version) is not int or version < 1):
        raise UsageError(f'version {version!r:.40} is neither a number from 1 on nor "latest"')
    accelerator_state.check_ready(acc)
    shelf, copies = _open(name, checkpoint_folder)
    found = together(acc, lambda: {copy.id for copy in copies.find_all() if copy.places == 1}, by="machines")
    here = set.intersection(*found)
    (checkpoint,) = together(acc, lambda: _choose(shelf, copies, here, version), by="main")
    if checkpoint.number:
        together(acc, lambda: _fetch(shelf, copies, checkpoint), by="machines")
    with ExitStack() as held:

        def hold() -> None:
            held.enter_context(copies.hold(checkpoint.id))
            if not checkpoint.number:
                copies.check(checkpoint.id)

        together(acc, hold, by="machines")
        folder = copies.folder(checkpoint.id)
        together(acc, lambda: accelerator_state.load_state(acc, folder, checkpoint))
    if not checkpoint.number:
        sending = Sending(shelf, copies, checkpoint)
        together(acc, lambda: UPLOADS.begin(sending), by="main")
    return checkpoint


def _open(name: str, folder: str | Path) -> tuple[Shelf, LocalCopies]:
    settings = load_settings()
    shelf = open_shelf(open_remote(settings), name)
    return shelf, LocalCopies(settings.project / folder / name, name)


def _save(acc: Accelerator, copies: LocalCopies) -> tuple[Checkpoint, list[int]]:
    """Save a whole local copy; return it, and the ranks that own the files of a place, the main one first."""
    with ExitStack() as held:

        def begin() -> tuple[str, float]:
            checkpoint_id = new_folder()
            held.enter_context(copies.hold(checkpoint_id))
            copies.make_folder(checkpoint_id)
            return checkpoint_id, time.time()

        ((checkpoint_id, created),) = together(acc, begin, by="main")

        def join() -> int | None:
            if not acc.is_main_process:
                if copies.folder(checkpoint_id).is_dir():
                    return None  # this machine shares the disk of another
                held.enter_context(copies.hold(checkpoint_id))
                copies.make_folder(checkpoint_id)
            return int(acc.process_index)

        owners = [rank for rank in together(acc, join, by="machines") if rank is not None]
        checkpoint = Checkpoint(
            name=copies.name,
            id=checkpoint_id,
            created=created,
            processes=acc.num_processes,
            places=len(owners),
            step=acc.step,
            prepared=accelerator_state.count_prepared(acc),
            loaders=accelerator_state.loader_states(acc),
        )

        def complete(theirs: list[str]) -> None:
            if acc.process_index in owners:
                copies.drop(checkpoint_id, () if acc.is_main_process else theirs)
                copies.complete(checkpoint)

        try:
            together(acc, lambda: accelerator_state.save_state(acc, copies.folder(checkpoint_id)))
            # What several machines wrote, as the loaders' positions, is the main one's.
            (theirs,) = together(acc, lambda: copies.paths(checkpoint_id), by="main")
            together(acc, lambda: complete(theirs))
        except BenchKitError:
            if acc.process_index in owners:
                copies.clear(checkpoint_id)
            raise
    return checkpoint, owners


def _choose(shelf: Shelf, copies: LocalCopies, here: set[str], version: int | Latest) -> Checkpoint:
    """Return the checkpoint that is asked for; of those not in the store, only what every machine has."""
    if version != "latest":
        return find_stored(shelf, version).checkpoint
    unsent = [copy for copy in copies.find_all() if not copy.number and copy.id in here]
    try:
        stored = find_stored(shelf).checkpoint
    except NotFoundError:
        if not unsent:
            raise
        return unsent[-1]
    newer = [copy for copy in unsent if copy.created > stored.created]
    return newer[-1] if newer else stored


def _fetch(shelf: Shelf, copies: LocalCopies, checkpoint: Checkpoint) -> None:
    fetch_copy(shelf, find_stored(shelf, checkpoint.number), copies)
