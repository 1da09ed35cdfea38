"""The figures of a simulation as a table for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HEAD = ("seed", "round", "taste before", "after", "difference (95 %)", "KL to base", "RM accuracy (95 %)", "distinct-2",
        "length", "seconds")  # fmt: skip


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """One row a round and seed, columns aligned."""
    rows: list[tuple[str, ...]] = [HEAD]
    for result in results:
        rows += [row(result["seed"], 1, result), row(result["seed"], 2, result["round2"])]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in rows)


def row(seed: int, number: int, found: Mapping[str, Any]) -> tuple[str, ...]:
    taste, kl, reward_model = found["taste"], found["kl"], found["rm_accuracy"]
    return (
        str(seed),
        str(number),
        *numbers([taste["before"], taste["after"]]),
        "{} ({} to {})".format(*numbers([taste["difference"], taste["low"], taste["high"]])),
        "{} ± {}".format(*numbers([kl["value"], kl["se"]])),
        "{} ({} to {})".format(*numbers([reward_model["value"], reward_model["low"], reward_model["high"]])),
        *numbers([found["distinct2_ratio"], found["length_ratio"]]),
        f"{sum(found['seconds'].values()):.0f}",
    )


def numbers(values: Iterable[float | None]) -> list[str]:
    return ["–" if value is None else f"{value:.3g}" for value in values]
