"""Resume state as tensors and JSON, never pickle: weights and optimisers, there and back exactly."""

from collections.abc import Mapping
from typing import Any

import safetensors.torch
from torch import Tensor
from torch.optim import Optimizer

from rlhf_core.training.sharding import spread_as, whole

Tensors = dict[str, Tensor]


def pack_tensors(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file; tensors that share memory are stored once each."""
    packed: Tensors = {}
    seen: set[int] = set()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        packed[name] = tensor
    return safetensors.torch.save(packed, metadata)


def unpack_tensors(data: bytes) -> Tensors:
    """What ``pack_tensors`` packed."""
    return safetensors.torch.load(data)


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The same tensors under ``prefix.name``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def take_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors under ``prefix.``, with the prefix taken off."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}


def optimizer_tensors(optimizer: Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """An optimiser's state as tensors and plain values; parameters are named by their place in the groups.

    Raises:
        TypeError: the optimiser keeps something that is neither a tensor nor a plain value.
    """
    state = optimizer.state_dict()
    tensors: Tensors = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in sorted(state["state"].items()):  # in one order: of what is spread, all processes send a part
        for name, value in sorted(entries.items()):
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = whole(value.detach()).clone()
            elif value is None or isinstance(value, bool | int | float | str):
                scalars.setdefault(str(index), {})[name] = value
            else:
                raise TypeError(f"optimiser state {name} is a {type(value).__name__}, not a tensor or a plain value")
    groups = [{name: plain(name, value) for name, value in group.items()} for group in state["param_groups"]]
    return tensors, {"param_groups": groups, "scalars": scalars}


def plain(name: str, value: Any) -> Any:
    """A parameter group's option as JSON keeps it; pairs such as betas become lists."""
    if isinstance(value, tuple | list):
        return [plain(name, item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"optimiser option {name} is a {type(value).__name__}, not a plain value")


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Bring back what ``optimizer_tensors`` took, into an optimiser over parameters in the same order.

    Raises:
        ValueError: the groups differ in number or length.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = spread_as(tensor.clone(), parameters[int(index)])
    for index, entries in values["scalars"].items():
        state.setdefault(int(index), {}).update(entries)
    groups = [
        {name: tuple(value) if isinstance(value, list) and name != "params" else value for name, value in group.items()}
        for group in values["param_groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
