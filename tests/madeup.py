"""Small results made by hand, in the shapes that notebooks store."""

NO_PROMPT, PROMPT, TOP_K = "in-batch, no prompt (VLM2Vec)", "in-batch, hierarchical prompt", "top-k hard negatives"


def estimate(value, spread=1.0, n=100):
    return {"value": value, "low": value - spread, "high": value + spread, "n": n}


def groups(value):
    return {"vqa": estimate(value), "IND": estimate(value), "OOD": estimate(value - 5), "overall": estimate(value)}


def log(seed, loss=3.0):
    fields = {"gradient_norm": 2.0 * loss, "hardest_negative_similarity": 0.5, "positive_similarity": 0.9}
    fields |= {"seconds": 1.0, "peak_memory_mib": 50.0}
    return [{"step": s, "loss": loss / s + seed, "pairs_per_second": 10.0 * s, **fields} for s in (1, 2, 3)]


def arm(value, seeds=2):
    return {
        "groups": groups(value),
        "datasets": {"ColourQA": estimate(value), "RelationQA": estimate(value - 9)},
        "overall_by_seed": [value + s for s in range(seeds)],
        "seconds": [3.0] * seeds,
        "log": [log(s) for s in range(seeds)],
    }


def untrained(value):
    return {**arm(value, 1), "log": [], "seconds": []}


def difference(value, *by_seed):
    return {**groups(value), "overall_by_seed": list(by_seed or (value, value))}


DATASETS = {
    name: {"meta_task": "vqa", "distribution": side, "n": 100, "chance": 1.0}
    for name, side in (("ColourQA", "IND"), ("RelationQA", "OOD"))
}


def training():
    arms = {"zero-shot": untrained(50), TOP_K: arm(60), "SaHa": arm(65)}
    differences = {
        "zero-shot": {TOP_K: difference(10, 10, 1.0), "SaHa": difference(15, 15, 1.0)},
        TOP_K: {"SaHa": difference(-5, -5, 1.0)},
    }
    return {"provenance": {"cpu_count": 2}, "arms": arms, "differences": differences, "datasets": DATASETS}


def ablations():
    arms = {"SaHa": arm(60, 1), "K = 3": arm(55, 1), "K = 15": arm(60, 1)}
    arms |= {"10 % of pairs": arm(52, 1), "100 % of pairs": arm(60, 1), "rank 8": arm(60, 1)}
    differences = {"SaHa": {"K = 3": difference(-5, -5.0), "10 % of pairs": difference(-0.5, -0.5)}}
    for name in ("K = 15", "100 % of pairs", "rank 8"):
        differences["SaHa"][name] = {**difference(0, 0.0), "overall": estimate(0, 0)}
    questions = {"top_k": ["K = 3", "K = 15"], "fraction": ["10 % of pairs", "100 % of pairs"], "lora_rank": ["rank 8"]}
    base = {"base": "SaHa", "base_names": ["SaHa", "K = 15", "100 % of pairs", "rank 8"]}
    return {"arms": arms, "differences": differences, "questions": questions, **base, "datasets": DATASETS}


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
    start, first, alone, both = "zero-shot, UniME's prompt", "UniME stage 1", "UniME stage 2 alone", "UniME stage 1 + 2"
    differences = {
        start: {first: difference(4, 3.9)},  # one seed
        NO_PROMPT: {both: difference(1.5, 1.0, 2.0)},
        "SaHa": {both: difference(-3, -2.0, -4.0)},
        alone: {both: difference(0.2)},
    }
    arms = {start: untrained(40), first: arm(44, 1), NO_PROMPT: arm(70), "SaHa": arm(74), both: arm(71)}
    negatives = {order: {"loss": estimate(3), "gradient_norm": estimate(0.5)} for order in ("easy", "random")}
    judged = {"as stage 2 begins": {"differences": {"beta = 0.1": estimate(-5)}}}
    judged["as stage 2 ends"] = {"differences": {"beta = 0.1": estimate(-0.5)}}
    more = {"negatives_differences": negatives, "filter": judged, "filter_used": "beta = 0.1", "datasets": DATASETS}
    return {"arms": arms, "differences": differences, **more}


def sugarcrepe():
    both = "UniME stage 1 + 2"
    image = {
        "zero-shot: unime": {"UniME stage 1": {"mean": estimate(-2)}},
        "zero-shot: hierarchical": {"SaHa": {"mean": estimate(-0.5)}, both: {"mean": estimate(-1.5)}},
        NO_PROMPT: {both: {"mean": estimate(5)}},
        "SaHa": {both: {"mean": estimate(-3)}},
    }
    sets = {"sugarcrepe": {"image": {"SaHa": {"groups": {"swap": estimate(52)}}}}}
    return {"differences": {"sugarcrepe": {"image": image}}, "sets": sets}
