"""Embed and mine on several processes; what comes out does not depend on how many there are.

A store is the only thing they talk through: each makes its part of the entries and waits for the others.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from g2e_lib.data.items import Item, item_digests, unique
from g2e_lib.data.subsets import Subset
from g2e_lib.embedder import Embedder, embedding_shards
from g2e_lib.miners import Miner
from g2e_lib.mining import mine_subset
from g2e_lib.project.store import Store
from g2e_lib.prompts import Role

PATIENCE = timedelta(hours=12)  # processes wait for the slowest one


def join_processes() -> None:
    """Find the other processes, if this one was started with some, and take a GPU of its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("gloo", timeout=PATIENCE)  # nothing but waiting goes over it


def leave_processes() -> None:
    """Undo join_processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def ours(things: Sequence[Any]) -> Sequence[Any]:
    """This process's part of the things: all of them if it is the only one."""
    rank, processes = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    return things[rank::processes]


def wait() -> None:
    """Go on when every process has come this far."""
    if distributed.is_initialized():
        distributed.barrier()


def embed_all(
    embedder: Embedder, items: Mapping[Role, Iterable[Item]], store: Store, digests: Mapping[Item, str] | None = None
) -> int:
    """Bring embeddings of items into the store that all processes share, each shard on one of them.

    Args:
        embedder: with its prompt.
        items: by role, in the order in which they will be asked for, with or without repetitions.
        store: that all processes share.
        digests: as from `item_digests`, if known already.

    Returns:
        The number of shards, over all processes.
    """
    shards = []
    for role, some in items.items():
        distinct, _ = unique(some)
        known = item_digests(distinct) if digests is None else digests
        shards += [(key, role, shard) for key, shard in embedding_shards(embedder, distinct, role, known)]
    for key, role, shard in ours(shards):
        store.array(key, lambda r=role, s=shard: embedder.encode(s, r, show_progress=True))
    wait()
    return len(shards)


def mine_all(
    embedder: Embedder, subsets: Sequence[Subset], miners: Sequence[Miner], labelled: set[str], store: Store
) -> int:
    """Bring embeddings and clusters of training subsets into the store, each mined on one process; returns how many.

    Raises:
        ValueError: no query of a subset has a negative.
    """
    for subset in subsets:
        embed_all(embedder, {"query": [pair.query for pair in subset.pairs], "target": subset.targets}, store)
    jobs = [(subset, miner) for subset in subsets for miner in miners]
    for subset, miner in ours(jobs):
        mine_subset(embedder, subset, miner, subset.name in labelled, store, embedder.device.type)
    wait()
    return len(jobs)
