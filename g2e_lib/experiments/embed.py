"""Embed and mine for a profile on many GPUs or machines; its notebooks then find everything done.

    accelerate launch --num_processes 8 -m g2e_lib embed qwen2-vl-2b
    ./run_all.sh --profile qwen2-vl-2b

Notebook 00 must have run. What notebooks 01 and 02 would embed is embedded with the same settings into the same store,
each shard on one process. A killed run goes on at the shards that are missing.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
import yaml

from g2e_lib.data.items import item_digests
from g2e_lib.experiments import negatives, zero_shot
from g2e_lib.experiments.settings import MiningSettings, ZeroShotSettings
from g2e_lib.mining import labelled_subsets
from g2e_lib.project import config
from g2e_lib.project.results import Results
from g2e_lib.scale.parallel import embed_all, join_processes, leave_processes, mine_all


def embed_zero_shot(results: Results, settings: ZeroShotSettings) -> int:
    """Embed what notebook 01 compares prompts on; returns the number of shards."""
    bench, embedder = zero_shot.open_model(results, settings)
    rows, _ = bench.load(settings.datasets, settings.limit)
    queries = [row.query for some in rows.values() for row in some]
    targets = [item for some in rows.values() for row in some for item in row.candidates]
    items, digests = {"query": queries, "target": targets}, item_digests([*queries, *targets])
    store = results.store("embeddings")
    return sum(embed_all(embedder.with_prompt(prompt), items, store, digests) for prompt in settings.prompts)


def embed_and_mine(results: Results, settings: MiningSettings) -> int:
    """Embed and mine what notebook 02 compares miners on; returns the number of subsets times miners."""
    bench, subsets, embedder = negatives.open_model(results, settings)
    miners, labelled = negatives.asked_miners(settings), labelled_subsets(bench.training_facts(settings.subsets))
    return mine_all(embedder, subsets, miners, labelled, results.store("embeddings"))


def _given(pairs: Sequence[Sequence[str]], kinds: Sequence[type]) -> dict[type, dict[str, Any]]:
    """Values of `-p`, for whichever settings have them; ValueError if none has one of them."""
    known = {kind: [field.name for field in fields(kind)] for kind in kinds}
    if unknown := [name for name, _ in pairs if not any(name in names for names in known.values())]:
        choice = dict.fromkeys(name for names in known.values() for name in names)
        raise ValueError(f"unknown parameter {unknown[0]!r}: choose among {', '.join(choice)}")
    return {kind: {n: yaml.safe_load(text) for n, text in pairs if n in names} for kind, names in known.items()}


def embed(name: str, only: str, pairs: Sequence[Sequence[str]]) -> None:
    """Do the work of notebooks 01 and 02 for the run or profile `name`.

    Raises:
        ValueError: there is no such run or profile, notebook 00 has not run, or settings are wrong.
    """
    results, work = Results(name), {ZeroShotSettings: embed_zero_shot, MiningSettings: embed_and_mine}
    if not results.folder.is_dir():
        config.load_profile(name)  # says so if there is none
    asked = config.load_profile(results.profile)
    kinds = [kind for kind in work if kind.notebook in asked and kind.notebook.startswith(only)]
    given = _given(pairs, kinds)
    for kind in kinds:
        settings = kind.of(results, **given[kind])
        if settings.device == "auto" and torch.cuda.is_available():
            settings = replace(settings, device=f"cuda:{torch.cuda.current_device()}")
        done = work[kind](results, settings)
        if os.environ.get("RANK", "0") == "0":
            print(f"{kind.notebook}: {done} parts are in {results.store('embeddings').folder}")  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m g2e_lib embed", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="name of a run, or of the profile it is made from")
    parser.add_argument("--only", choices=("01", "02"), default="", help="do the work of this notebook only")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args(arguments)
    try:
        join_processes()
        embed(options.run, options.only, options.parameters)
    except (ValueError, RuntimeError) as error:
        print(f"embed: {error}", file=sys.stderr)  # noqa: T201
        return 2
    finally:
        leave_processes()
    return 0


if __name__ == "__main__":
    sys.exit(main())
