"""The record of a checkpoint: what is known of it beside its files, in plain numbers and strings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchkit.errors import FormatError

RECORD_FORMAT = 1
_MAX_LOADERS = 100
_YEAR_9999 = 253_370_764_800


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint: what is known of it.

    Attributes:
        name: Its name.
        number: Its version, counted from 1; None for one that is not in the store (yet).
        id: Names its folder on a machine: when it was made and 8 random hexadecimal digits.
        created: When it was made, in seconds since 1970.
        processes: How many processes made it.
        places: Among how many machines' disks its files are spread; 1 where they share one.
        step: Batches since the optimizer stepped last, as Accelerate counts them.
        prepared: How many models, optimizers, schedulers, loaders and further objects it holds.
        loaders: The state of each of the project's loaders, in the order in which they were prepared.
    """

    name: str
    number: int | None = None
    id: str
    created: float
    processes: int
    places: int
    step: int
    prepared: dict[str, int]
    loaders: tuple[dict[str, int | str | bool], ...]

    @property
    def label(self) -> str:
        """`NAME@NUMBER`, or the name and that it has no number yet."""
        return f"{self.name}@{self.number}" if self.number else f"{self.name} ({self.id}, not in the store)"

    @property
    def epoch(self) -> int:
        """The epoch of the loader that was prepared first, from 0; 0 where there is none."""
        return int(self.loaders[0]["epoch"]) if self.loaders else 0

    @property
    def position(self) -> int:
        """The samples of that epoch that all processes together have had."""
        return int(self.loaders[0]["position"]) if self.loaders else 0

    def numbered(self, number: int | None) -> Checkpoint:
        """Return it with the number under which it is in the store."""
        return replace(self, number=number)

    def to_details(self) -> dict[str, Any]:
        """Return all but name and number, for JSON."""
        values = asdict(self) | {"format": RECORD_FORMAT, "loaders": list(self.loaders)}
        del values["name"], values["number"]
        return values


def read_details(details: Mapping[str, Any], *, name: str, number: int | None) -> Checkpoint:
    """Return the checkpoint that `Checkpoint.to_details` told of.

    Raises:
        FormatError: A newer format, or values that are no checkpoint's.
    """
    if details.get("format") != RECORD_FORMAT:
        raise FormatError(
            f"checkpoint {name} has format {details.get('format')!r:.40}, and this benchkit reads "
            f"{RECORD_FORMAT}: upgrade benchkit"
        )
    kinds: dict[str, tuple[type, ...]] = {
        "id": (str,),
        "created": (int, float),
        "prepared": (dict,),
        "loaders": (list,),
    }
    kinds |= dict.fromkeys(("processes", "places", "step"), (int,))
    for key, allowed in kinds.items():
        if type(details.get(key)) not in allowed:
            raise FormatError(f"checkpoint {name}: its {key} is {details.get(key)!r:.60}")
    loaders = details["loaders"]
    whole = all(type(count) is int for count in details["prepared"].values()) and all(
        isinstance(state, dict) and type(state.get("epoch")) is type(state.get("position")) is int
        for state in loaders
    )
    counts = [details["processes"], details["places"], details["step"] + 1]
    if (
        not whole
        or len(loaders) > _MAX_LOADERS
        or min(counts) < 1
        or not 0 <= details["created"] < _YEAR_9999
    ):
        raise FormatError(f"checkpoint {name} does not say what it holds")
    values = {key: details[key] for key in kinds} | {"loaders": tuple(loaders)}
    return Checkpoint(name=name, number=number, **values)
