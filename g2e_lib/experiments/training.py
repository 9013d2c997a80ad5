"""Notebook 03: does training on SaHa's clusters beat training on random pairs?"""

from typing import Any

from g2e_lib.experiments.benchmarks import open_benchmark
from g2e_lib.experiments.settings import StudySettings, TrainingSettings
from g2e_lib.experiments.study import Study, main_methods
from g2e_lib.project.results import Results


def open_study(results: Results, settings: StudySettings) -> Study:
    """A study for notebook 03 or 04; ValueError if notebook 00 has not prepared what the settings name."""
    return Study(results, open_benchmark(results), settings)


def run(results: Results, settings: TrainingSettings, study: Study) -> dict[str, Any]:
    """Compare each of the main methods with all before it, and store `training`; returns what Study.compare does."""
    record = study.provenance()
    records = {"zero_shot": [study.zero_shot("hierarchical")]}
    records |= study.run_all(list(main_methods(settings).values()))
    found = study.compare(records, list(records)[:-1], settings.seed)
    results.save("training", found, record, study.queries)
    return found
