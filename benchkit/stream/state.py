"""The state of a loader: a few integers and strings that say exactly which samples are left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from benchkit.errors import StateError
from benchkit.stream.order import ORDER_VERSION

STATE_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderState:
    """Where a loader stands in which order of which data.

    Attributes:
        dataset: Name of the dataset.
        manifest: Digest of the version's manifest.
        seed, shuffle, lanes: What decides the order, beside the manifest.
        epoch: Number of the pass, from 0.
        position: Samples of the epoch's order consumed, all ranks together.
    """

    dataset: str
    manifest: str
    seed: int
    shuffle: bool
    lanes: int
    epoch: int
    position: int

    def to_dict(self) -> dict[str, int | str | bool]:
        """Return the state as a flat dict for JSON or `torch.save`."""
        return {"format": STATE_FORMAT, "order": ORDER_VERSION, **asdict(self)}

    def check_fits(self, other: LoaderState) -> None:
        """Raise `StateError` unless this state continues the order that the other one belongs to."""
        for name in ("dataset", "manifest", "seed", "shuffle", "lanes"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise StateError(
                    f"the state was saved with {name} {mine!r}, the loader has {theirs!r}: "
                    f"make the dataset with the same {name}, or begin without the state"
                )


def read_state(values: Mapping[str, Any]) -> LoaderState:
    """Return the state that `LoaderState.to_dict` wrote.

    Raises:
        StateError: A newer format or order, or values that are no state.
    """
    if not isinstance(values, Mapping):
        raise StateError(f"the state is {values!r:.60}, not a dictionary as state_dict() returns it")
    if values.get("format") != STATE_FORMAT:
        raise StateError(f"the state has format {values.get('format')!r}, this benchkit reads {STATE_FORMAT}")
    if values.get("order") != ORDER_VERSION:
        raise StateError(
            f"the state belongs to order version {values.get('order')!r}, this benchkit has {ORDER_VERSION}: "
            "finish the epoch with the version that began it"
        )
    kinds: dict[str, type] = {"dataset": str, "manifest": str, "shuffle": bool}
    kinds |= dict.fromkeys(("seed", "lanes", "epoch", "position"), int)
    for name, kind in kinds.items():
        if type(values.get(name)) is not kind:
            raise StateError(f"the state's {name} is {values.get(name)!r:.60}, not of type {kind.__name__}")
    if values["epoch"] < 0 or values["position"] < 0 or values["lanes"] < 1:
        raise StateError("the state has a negative epoch or position, or no lanes")
    return LoaderState(**{name: values[name] for name in kinds})
