"""All ways of training that are compared, rebuilt from settings that a notebook has recorded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from g2e_lib.data.items import EvalRow
from g2e_lib.experiments.benchmarks import Benchmark
from g2e_lib.experiments.study import Arm, Laboratory, Sentences, main_arms
from g2e_lib.experiments.unime_study import unime_arms
from g2e_lib.glyphworld.text_teacher import open_teacher

JUDGED = 1000  # held-out pairs of sentences by which a teacher is judged


def open_methods(
    bench: Benchmark,
    settings: Mapping[str, Any],
    rows: Mapping[str, Sequence[EvalRow]],
    facts: Mapping[str, Mapping[str, Any]],
    cache: Path,
    is_fresh: bool = False,
    launch: str = "",
) -> tuple[Laboratory, dict[str, Arm], dict[str, Any]]:
    """A laboratory and its arms; the embedded text teacher is trained if it is asked for and not there.

    Args:
        bench: the data.
        settings: `common` (of TrainConfig), `shown` (of the embedder that mines and is evaluated), `subsets`, `top_k`
            and `pool_mult` (of SaHa), `teacher`, `teacher_pairs` and `sentence_pairs` (of stage 1), `first` and
            `second` (of TrainConfig, for UniME's stages).
        rows: evaluation rows by dataset name.
        facts: of these datasets.
        cache: folder of everything that can be made again.
        is_fresh: train again what was trained before.
        launch: see Laboratory.

    Returns:
        The laboratory; arms by name: those of main_arms and of unime_arms; what is known of the teacher.
    """
    trained = bench.training_facts(settings["subsets"])
    common, shown = settings["common"], settings["shown"]
    laboratory = Laboratory(bench.root / "train", trained, rows, facts, cache, common, is_fresh, shown, launch)
    held_out = bench.held_out_sentences(JUDGED)
    folder, known = open_teacher(cache, settings["teacher"], settings["teacher_pairs"], held_out, laboratory.embeddings)
    data, subset = bench.sentences(settings["sentence_pairs"])
    stages = unime_arms(Sentences(data, (subset,), str(folder)), settings["first"], settings["second"])
    arms = {arm.name: arm for arm in main_arms(settings["top_k"], settings["pool_mult"])}
    return laboratory, arms | stages, known
