"""Small results made by hand, in the shapes that notebooks store."""

NO_PROMPT, PROMPT, TOP_K = "in_batch_no_prompt", "in_batch", "topk"


def estimate(value, spread=1.0, n=100):
    return {"value": value, "low": value - spread, "high": value + spread, "n": n}


def groups(value):
    return {"vqa": estimate(value), "IND": estimate(value), "OOD": estimate(value - 5), "overall": estimate(value)}


def log(seed, loss=3.0):
    fields = {"gradient_norm": 2.0 * loss, "hardest_negative_similarity": 0.5, "positive_similarity": 0.9}
    fields |= {"seconds": 1.0, "peak_memory_mib": 50.0}
    return [{"step": s, "loss": loss / s + seed, "pairs_per_second": 10.0 * s, **fields} for s in (1, 2, 3)]


def method(value, seeds=2):
    return {
        "groups": groups(value),
        "datasets": {"ColourQA": estimate(value), "RelationQA": estimate(value - 9)},
        "overall_by_seed": [value + s for s in range(seeds)],
        "seconds": [3.0] * seeds,
        "log": [log(s) for s in range(seeds)],
    }


def untrained(value):
    return {**method(value, 1), "log": [], "seconds": []}


def difference(value, *by_seed):
    return {**groups(value), "overall_by_seed": list(by_seed or (value, value))}


DATASETS = {
    name: {"meta_task": "vqa", "distribution": side, "n": 100, "chance": 1.0}
    for name, side in (("ColourQA", "IND"), ("RelationQA", "OOD"))
}


def training():
    methods = {"zero_shot": untrained(50), TOP_K: method(60), "saha": method(65)}
    differences = {
        "zero_shot": {TOP_K: difference(10, 10, 1.0), "saha": difference(15, 15, 1.0)},
        TOP_K: {"saha": difference(-5, -5, 1.0)},
    }
    return {"provenance": {"cpu_count": 2}, "methods": methods, "differences": differences, "datasets": DATASETS}


def ablations():
    methods = {"base": method(60, 1), "top_k=3": method(55, 1), "top_k=15": method(60, 1)}
    methods |= {"fraction=0.1": method(52, 1), "fraction=1.0": method(60, 1), "lora_rank=8": method(60, 1)}
    differences = {"base": {"top_k=3": difference(-5, -5.0), "fraction=0.1": difference(-0.5, -0.5)}}
    for name in ("top_k=15", "fraction=1.0", "lora_rank=8"):
        differences["base"][name] = {**difference(0, 0.0), "overall": estimate(0, 0)}
    questions = {
        "top_k": ["top_k=3", "top_k=15"],
        "fraction": ["fraction=0.1", "fraction=1.0"],
        "lora_rank": ["lora_rank=8"],
    }
    base = {"base": "base", "base_names": ["base", "top_k=15", "fraction=1.0", "lora_rank=8"]}
    return {"methods": methods, "differences": differences, "questions": questions, **base, "datasets": DATASETS}


def mining():
    def miner(value, hardness, passes):
        kinds = {kind: estimate(value) for kind in ("anchor", "trained", "masked")}
        facts = {"rows": 9, "rows_of": 10, "clusters": 3, "mean_size": 3.0, "positive": 0.9, "hardness": hardness}
        facts |= {"passes": passes, "seconds": 0.5}
        by_group = {"other": kinds, "all": kinds}
        return {**facts, "subsets": {"Crop": {**facts, **kinds, "targets": 5}}, "groups": by_group}

    return {
        "groups": {"other": ["Crop"], "all": ["Crop"]},
        "miners": {"topk": miner(6, 0.8, 27.0), "saha": miner(2, 0.7, 2.4)},
        "differences": {
            "random": {"all": estimate(9)},
            "topk": {"all": estimate(4), "other": estimate(0, 0)},
        },
    }


def unime():
    start, first, alone, both = "zero_shot_unime", "unime_1", "unime_2", "unime_1_2"
    differences = {
        start: {first: difference(4, 3.9)},  # one seed
        NO_PROMPT: {both: difference(1.5, 1.0, 2.0)},
        "saha": {both: difference(-3, -2.0, -4.0)},
        alone: {both: difference(0.2)},
    }
    methods = {start: untrained(40), first: method(44, 1), NO_PROMPT: method(70), "saha": method(74), both: method(71)}
    negatives = {
        kind: [log(s, loss) for s in range(2)] for kind, loss in (("hard", 6.0), ("random", 5.0), ("easy", 1.0))
    }
    more = {kind: {f: estimate(5, 1, 3) for f in ("loss", "gradient_norm")} for kind in ("easy", "random")}
    judged = {"differences": {"beta = 0.1": estimate(-5)}}
    filters = {"filter": {"as stage 2 begins": judged}, "filter_used": "beta = 0.1", "negatives_differences": more}
    return {"methods": methods, "differences": differences, "negatives": negatives, "datasets": DATASETS, **filters}


def sugarcrepe():
    both = "unime_1_2"
    image = {
        "zero_shot:unime": {"unime_1": {"mean": estimate(-2)}},
        "zero_shot:hierarchical": {"saha": {"mean": estimate(-0.5)}, PROMPT: {"mean": estimate(-1.5)}},
        NO_PROMPT: {both: {"mean": estimate(5)}},
        "saha": {both: {"mean": estimate(-4)}},
    }
    scores = {"sugarcrepe": {"image": {"saha": {"groups": {"swap": estimate(50.5)}}}}}
    return {"sets": scores, "differences": {"sugarcrepe": {"image": image}}}
