"""The command line: `python -m g2e_lib COMMAND ...`, each command with `--help`. run_all.sh calls `run`."""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

COMMANDS = {
    "embed": "g2e_lib.experiments.embed",
    "download": "g2e_lib.data.download",
    "publish": "g2e_lib.scale.publish",
    "train": "g2e_lib.train",
}


def setting_defaults() -> dict[str, dict[str, object]]:
    """All settings of all notebooks with their defaults, as profiles and JSON write them: lists, no tuples."""
    from g2e_lib.experiments.settings import NOTEBOOK_SETTINGS

    defaults = {stem: vars(kind()) for stem, kind in NOTEBOOK_SETTINGS.items()}
    return {s: {n: list(v) if isinstance(v, tuple) else v for n, v in own.items()} for s, own in defaults.items()}


def _concludes(name: str) -> None:
    from g2e_lib import report
    from g2e_lib.report import compare, pages

    pages.write_notebook_pages(report.Report(name).folder)
    if text := report.conclude(name):
        print(f"\n{text}", flush=True)  # noqa: T201
    compare.conclude(name)


def _refreshes(profile: str) -> None:
    from g2e_lib.report import Report, readme

    if readme.refresh(Report(f"reference/{profile}")):
        print(f"{readme.NAME}: numbers brought up to date", flush=True)  # noqa: T201


def _later(module: str, name: str) -> Callable[..., Any]:
    """A function of a module that is imported only when it is called."""
    return lambda *arguments: getattr(importlib.import_module(module), name)(*arguments)


def run(arguments: Sequence[str]) -> int:
    """What run_all.sh calls: the runner, given what lies above it."""
    from g2e_lib.project.command import Hooks, main

    compares, summarizes = (_later("g2e_lib.report.compare", name) for name in ("compare_runs", "against_reference"))
    confirms = _later("g2e_lib.scale.costs", "confirm")
    return main(arguments, Hooks(setting_defaults, confirms, _concludes, compares, summarizes, _refreshes))


def main() -> int:
    """Hand the arguments to a command; returns its exit status."""
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if name == "run":
        return run(arguments)
    if name not in COMMANDS:
        print(f"usage: python -m g2e_lib {{run,{','.join(COMMANDS)}}} ...", file=sys.stderr)  # noqa: T201
        return 2
    return importlib.import_module(COMMANDS[name]).main(arguments)


if __name__ == "__main__":
    sys.exit(main())
