"""Spread the frozen weights of a model over processes while a small adapter trains (FSDP2); decides no result.

Each process keeps a part of every layer of the language model, and gathers the rest while it computes. Adapter and
vision tower stay whole: a process whose chunk shows no image would keep all others waiting for the tower.
"""

import os

from accelerate import Accelerator
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import Qwen2VLForConditionalGeneration


def wants_sharding(accelerator: Accelerator, pairs_per_step: int) -> bool:
    """Whether accelerate was told to shard, and there is a second process to share with.

    Asks for accelerate's variable, as its DistributedType.FSDP is known on accelerators only. ValueError where
    processes would not have equally many pairs, and wait for each other without end.
    """
    processes = accelerator.num_processes
    if processes == 1 or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if pairs_per_step % processes:
        raise ValueError(
            f"pairs_per_step {pairs_per_step} is no multiple of the {processes} processes, as sharded weights (FSDP) "
            f"need: set it to {max(1, pairs_per_step // processes) * processes}, or launch without sharding"
        )
    # True is accelerate's default: transformers may then load weights on the first process only (which versions do,
    # differs), for accelerate's own preparation of a model to hand them on. Here every process needs its own.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return True


def shard_frozen_layers(model: Qwen2VLForConditionalGeneration) -> None:
    """Leave this process its part of the frozen weights of the language model's layers, in place.

    From here on all processes must run the language model equally often, forward and backward. The model comes with
    its adapter, whose weights have the same values on every process.
    """
    language_model = model.model.language_model
    mesh = init_device_mesh(model.device.type, (distributed.get_world_size(),))
    for layer in language_model.layers:
        trained = {weight for weight in layer.parameters() if weight.requires_grad}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    # Shards nothing itself, but lets a layer be gathered while the one before it computes.
    fully_shard(language_model, mesh=mesh, ignored_params=set(language_model.parameters()))
