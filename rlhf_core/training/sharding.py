"""Weights spread over the processes of a run, so that a model need fit no single one (FSDP).

torch's ``fully_shard`` keeps a share of every tensor in each process, with its gradient and the optimiser's moments,
and gathers a block's weights just before the block is run. What reads weights otherwise gets a copy of the whole model.

Source: Zhao et al. 2023, https://arxiv.org/abs/2304.11277; Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from rlhf_core.distributed import Group
from rlhf_core.modules.lora import BlockLoRA
from rlhf_core.modules.palm import PaLM

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def spread(palm: PaLM, group: Group) -> None:
    """Spread a model over the processes of ``group``, each block by itself; with one process nothing happens.

    Gradients are summed, not averaged: losses are parts of the whole minibatch's mean already.
    """
    if group.size == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(palm.device.type, (group.size,))
    for module in (*palm.each_block(), palm):
        fully_shard(module, mesh=mesh)
        spread_module = cast(FSDPModule, module)
        spread_module.set_force_sum_reduction_for_comms(True)  # gloo has no sum of scaled numbers
        spread_module.set_gradient_divide_factor(1.0)


def is_spread(tensor: Tensor) -> bool:
    """Whether this process holds a share of it alone."""
    return hasattr(tensor, "full_tensor")  # without loading DTensor, which takes long


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of one that is spread; every process has to ask."""
    return tensor.full_tensor() if is_spread(tensor) else tensor  # type: ignore[attr-defined]


def spread_as(tensor: Tensor, example: Tensor) -> Tensor:
    """This process's share of a whole tensor, where ``example`` is spread and of its shape; else the tensor itself."""
    if not is_spread(example) or tensor.shape != example.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    example = cast("DTensor", example)
    # Nothing is sent: each process has the whole tensor and takes its share.
    return distribute_tensor(tensor.to(example.device), example.device_mesh, example.placements, src_data_rank=None)


def whole_copy(palm: PaLM) -> PaLM:
    """The model itself, or a copy of all of one that is spread; every process has to ask.

    For what reads weights without running the blocks: decoding, saving, and passes that not all processes make.
    """
    if not any(map(is_spread, palm.parameters())):
        return palm
    plain = PaLM.from_config(palm.config)
    for scope, adapters in palm.lora.items():
        first = cast(BlockLoRA, cast(nn.ModuleList, adapters)[0]).q
        plain.add_finetune_params(scope, first.rank, first.alpha)
    with torch.no_grad():
        state = {name: whole(tensor) for name, tensor in palm.state_dict().items()}
    plain.load_state_dict(state)
    return plain.to(palm.device).train(palm.training)
