"""Embed and mine for a profile on many GPUs or machines; its notebooks then find everything done.

    accelerate launch --num_processes 8 -m g2e_lib embed qwen2-vl-2b
    ./run_all.sh --profile qwen2-vl-2b

Notebook 00 must have run. What notebooks 01 and 02 would embed is embedded here, with the same settings, into the
same store: by the shard, each on one process. A killed run goes on at the shards that are missing.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from g2e_lib.data.items import item_digests
from g2e_lib.data.subsets import load_subsets
from g2e_lib.embedder import Embedder
from g2e_lib.experiments import benchmarks as worlds
from g2e_lib.miners import Miner
from g2e_lib.mining import labelled_subsets
from g2e_lib.project import config, store
from g2e_lib.project import runner as run
from g2e_lib.project.store import Store
from g2e_lib.scale.parallel import embed_all, join_processes, leave_processes, mine_all

ZERO_SHOT, MINING = "01_zero_shot", "02_mining"


def load_embedder(parameters: Mapping[str, Any]) -> Embedder:
    """The embedder that a notebook with these parameters makes, on this process's GPU."""
    device = parameters["device"]
    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{torch.cuda.current_device()}"
    names = ("dtype", "images", "max_length", "tokens_per_batch")
    adapter = parameters.get("adapter") or None
    return Embedder.from_pretrained(
        parameters["model"], adapter=adapter, device=device, **{name: parameters[name] for name in names}
    )


def embed_zero_shot(parameters: Mapping[str, Any], bench: worlds.Benchmark, cache: Store) -> int:
    """Embed what notebook 01 compares prompts on; returns the number of shards."""
    rows, _ = bench.load(parameters["datasets"], parameters["limit"])
    queries = [row.query for some in rows.values() for row in some]
    targets = [item for some in rows.values() for row in some for item in row.candidates]
    digests, embedder, shards = item_digests([*queries, *targets]), load_embedder(parameters), 0
    for prompt in parameters["prompts"]:
        shards += embed_all(embedder.with_prompt(prompt), {"query": queries, "target": targets}, cache, digests)
    return shards


def embed_and_mine(parameters: Mapping[str, Any], bench: worlds.Benchmark, cache: Store) -> int:
    """Embed and mine what notebook 02 compares miners on; returns the number of subsets times miners."""
    facts = bench.training_facts(parameters["subsets"])
    sizes = {"split": bench.split, "fraction": parameters["fraction"], "limit": parameters["limit"]}
    subsets = load_subsets(bench.root / "train", list(facts), **sizes)
    top_k, pool_mult, seed = (parameters[name] for name in ("top_k", "pool_mult", "seed"))
    miners = [Miner(name, top_k, pool_mult, seed=seed) for name in parameters["miners"]]
    embedder = load_embedder(parameters).with_prompt(parameters["prompt"])
    return mine_all(embedder, subsets, miners, labelled_subsets(facts), cache)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m g2e_lib embed", description=__doc__.splitlines()[0])
    parser.add_argument("profile", help="name of a profile")
    parser.add_argument("--only", choices=("01", "02"), help="do the work of this notebook only")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args(arguments)
    stems = [stem for stem in (ZERO_SHOT, MINING) if stem.startswith(options.only or "")]
    notebooks = [path for path in run.notebook_paths() if path.stem in stems]
    try:
        overrides = run.parse_parameters(options.parameters, notebooks)
        settings = run.all_settings(options.profile, notebooks, overrides)
        metrics = config.results_folder(options.profile) / "metrics"
        bench = worlds.open_benchmark(store.read_json(metrics / "setup.json", made_by="notebook 00_setup")["benchmark"])
        cache = Store(config.CACHE / "embeddings")
        join_processes()
        for stem, work in ((ZERO_SHOT, embed_zero_shot), (MINING, embed_and_mine)):
            if stem in settings:
                done = work(settings[stem], bench, cache)
                if os.environ.get("RANK", "0") == "0":
                    print(f"{stem}: {done} parts are in {cache.folder}")  # noqa: T201
    except (ValueError, RuntimeError) as error:
        print(f"embed: {error}", file=sys.stderr)  # noqa: T201
        return 2
    finally:
        leave_processes()
    return 0


if __name__ == "__main__":
    sys.exit(main())
