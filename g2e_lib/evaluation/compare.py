"""Methods on the same queries: scores with intervals, their spread over seeds, and paired differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from g2e_lib.evaluation.statistics import estimate, paired_difference

Record = Mapping[str, Any]  # `right`: a method's answers with one seed, by dataset a string of 0 and 1


def write_answers(right: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Answers as a string of 0 and 1 for each dataset; they come as (N,) bool."""
    return {name: "".join("01"[value] for value in values.astype(int)) for name, values in right.items()}


def answers(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """For each dataset (N,) float64: the share of seeds that answer a query right."""
    names = records[0]["right"]
    return {name: np.mean([[c == "1" for c in record["right"][name]] for record in records], axis=0) for name in names}


def compare(
    records: Mapping[str, Sequence[Record]],
    groups: Mapping[str, Sequence[str]],
    baselines: Sequence[str],
    seed: int = 0,
    by_seed: str = "",
    against_all: bool = False,
) -> dict[str, Any]:
    """Compare methods, for each one record a seed, query by query.

    Args:
        records: by method.
        groups: for each average the datasets that enter, such as `statistics.group_names` gives.
        baselines: methods that all later ones are compared with; those that are not among `records` are left out.
        seed: of the bootstrap.
        by_seed: the group of which every seed's score is told as well, as `<group>_by_seed`.
        against_all: compare earlier methods with the baselines too.

    Returns:
        `methods`: by name estimates in percent in `groups` and `datasets`, and `right`, for each dataset one string a
            seed; `differences`: by baseline and method estimates by group, in points.
    """
    shares = {name: answers(some) for name, some in records.items()}
    methods: dict[str, Any] = {}
    for name, some in records.items():
        methods[name] = {
            "groups": {group: vars(estimate(_of(shares[name], members), seed)) for group, members in groups.items()},
            "datasets": {dataset: vars(estimate({dataset: v}, seed)) for dataset, v in shares[name].items()},
            "right": {dataset: [record["right"][dataset] for record in some] for dataset in shares[name]},
        }
        if by_seed:
            each = [estimate(_of(answers([record]), groups[by_seed]), seed).value for record in some]
            methods[name][f"{by_seed}_by_seed"] = each
    names, differences = list(records), {}
    for baseline in [name for name in baselines if name in records]:
        rivals = names if against_all else names[names.index(baseline) + 1 :]
        differences[baseline] = {
            rival: _differences(shares[rival], shares[baseline], groups, seed) for rival in rivals if rival != baseline
        }
        if by_seed:
            for rival, found in differences[baseline].items():
                ours, theirs = (methods[name][f"{by_seed}_by_seed"] for name in (rival, baseline))
                theirs = theirs * len(ours) if len(theirs) == 1 else theirs
                found[f"{by_seed}_by_seed"] = [a - b for a, b in zip(ours, theirs, strict=False)]
    return {"methods": methods, "differences": differences}


def _of(right: Mapping[str, np.ndarray], members: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: right[name] for name in members}


def _differences(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], groups: Mapping[str, Sequence[str]], seed: int
) -> dict[str, Any]:
    return {
        group: vars(paired_difference(_of(ours, members), _of(theirs, members), seed))
        for group, members in groups.items()
    }
