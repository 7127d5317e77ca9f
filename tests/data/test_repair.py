"""Repair puts whole chunks of staging in the place of damaged ones, and removes only what nobody can read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchkit.data.pack import PackReport
from benchkit.data.repair import plan_repair, repair
from benchkit.data.upload import upload
from benchkit.data.verify import verify
from benchkit.errors import CorruptError
from benchkit.store.local import LocalStore

Pack = Callable[..., PackReport]


@pytest.fixture
def remote(many: Any, pack_small: Pack, staging: LocalStore, tmp_path: Path) -> LocalStore:
    """Return a store with an uploaded version."""
    pack_small(many)
    store = LocalStore(tmp_path / "remote")
    upload(staging, store, "train")
    return store


@pytest.fixture
def damage(
    remote: LocalStore, chunk_paths: Callable[..., list[Path]], flip: Callable[..., None]
) -> tuple[Path, ...]:
    """Return where three of its chunks are: one is missing, one short, one has a flipped byte."""
    missing, short, flipped, *_ = chunk_paths(remote)
    missing.unlink()
    short.write_bytes(short.read_bytes()[:-1])
    flip(flipped, 700)
    return missing, short, flipped


def test_what_staging_holds_is_sent_again_and_nothing_is_removed(
    staging: LocalStore, remote: LocalStore, damage: tuple[Path, ...], contents: Callable[..., Any]
) -> None:
    plan = plan_repair(remote, verify(remote, "train", full=True), staging=staging)
    assert {item.name.rpartition("/")[2] for item in plan.send} == {path.name for path in damage}
    assert (plan.remove, plan.missing) == ((), 0)
    repair(remote, plan, staging=staging)
    assert verify(remote, "train", full=True).problems == ()
    assert contents(remote) == contents(staging)


def test_what_staging_does_not_hold_whole_is_removed_so_that_it_can_be_sent_again(
    many: Any,
    pack_small: Pack,
    staging: LocalStore,
    remote: LocalStore,
    damage: tuple[Path, ...],
    flip: Callable[..., None],
) -> None:
    missing, short, flipped = (path.relative_to(remote.root) for path in damage)
    for name in (missing, short):
        (staging.root / name).unlink()
    flip(staging.root / flipped, 700)
    plan = plan_repair(remote, verify(remote, "train", full=True), staging=staging)
    assert (plan.send, sorted(plan.remove), plan.missing) == ((), sorted([str(short), str(flipped)]), 1)
    repair(remote, plan, staging=staging)
    assert len(verify(remote, "train", full=False).damaged) == 3
    (staging.root / flipped).unlink()
    pack_small(many)
    assert upload(staging, remote, "train").chunks_sent == 3
    assert verify(remote, "train", full=True).problems == ()


def test_planning_changes_nothing(
    staging: LocalStore, remote: LocalStore, damage: tuple[Path, ...], contents: Callable[..., Any]
) -> None:
    before = contents(remote), contents(staging)
    plan_repair(remote, verify(remote, "train", full=True), staging=staging)
    assert (contents(remote), contents(staging)) == before


def test_a_staged_chunk_that_is_damaged_after_the_plan_is_not_sent(
    staging: LocalStore, remote: LocalStore, damage: tuple[Path, ...], flip: Callable[..., None]
) -> None:
    plan = plan_repair(remote, verify(remote, "train", full=True), staging=staging)
    before = damage[2].read_bytes()
    flip(staging.root / damage[2].relative_to(remote.root), 700)
    with pytest.raises(CorruptError, match="was not sent"):
        repair(remote, plan, staging=staging)
    assert damage[2].read_bytes() == before


def test_of_staging_itself_damaged_chunks_are_removed_and_packed_again(
    many: Any,
    pack_small: Pack,
    staging: LocalStore,
    chunk_paths: Callable[..., list[Path]],
    flip: Callable[..., None],
) -> None:
    pack_small(many)
    flip(chunk_paths(staging)[0], 700)
    plan = plan_repair(staging, verify(staging, "train", full=True), staging=None)
    assert len(plan.remove) == 1
    repair(staging, plan, staging=None)
    pack_small(many)
    assert verify(staging, "train", full=True).problems == ()
