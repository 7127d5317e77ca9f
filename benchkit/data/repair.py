"""Repair: damaged chunks of a version are replaced by those of staging, and the others make room.

A put replaces an object at once, so that a chunk is never away in between. A damaged chunk that staging does
not hold is removed: no reader takes it, and packing and uploading write what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchkit.data.verify import VerifyReport
from benchkit.format.layout import chunk_name
from benchkit.store.base import Store
from benchkit.store.transfer import TransferItem, copy_objects, is_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What is to be done about damaged chunks; nothing has been done yet.

    Attributes:
        send: Chunks that staging holds whole: they are sent again.
        remove: Damaged objects that staging does not hold, by name.
        missing: How many chunks neither store has.
    """

    send: tuple[TransferItem, ...]
    remove: tuple[str, ...]
    missing: int


def plan_repair(store: Store, report: VerifyReport, *, staging: Store | None) -> Repair:
    """Return what can be done about the damaged chunks of a verification.

    Args:
        store: The store that was verified.
        report: What was found.
        staging: Where whole chunks may be, each checked here; None where staging itself was verified.
    """
    send, remove, missing = [], [], 0
    for chunk in report.damaged:
        name = chunk_name(report.version.dataset, chunk.stored, chunk.codec)
        item = TransferItem(name=name, size=chunk.stored_bytes, digest=chunk.stored)
        if staging and is_whole(staging, item):
            send.append(item)
        elif store.stat(name):
            remove.append(name)
        else:
            missing += 1
    return Repair(send=tuple(send), remove=tuple(remove), missing=missing)


def repair(store: Store, plan: Repair, *, staging: Store | None) -> None:
    """Send what staging holds, each chunk checked on its way, and remove what it does not hold.

    Raises:
        CorruptError: A staged chunk is damaged since it was looked at.
        StoreError: One of the stores failed.
    """
    if staging:
        copy_objects(staging, store, plan.send)
    for name in plan.remove:
        store.delete(name)
