"""The command line: `python -m g2e_lib COMMAND ...`, each command with `--help`. run_all.sh calls `run`."""

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "embed": "g2e_lib.experiments.embed",
    "download": "g2e_lib.data.download",
    "publish": "g2e_lib.scale.publish",
    "train": "g2e_lib.train",
}


def setting_defaults() -> dict[str, dict[str, object]]:
    """All settings of all notebooks with their defaults."""
    from g2e_lib.experiments.settings import NOTEBOOK_SETTINGS

    return {stem: {n: _listed(v) for n, v in vars(kind()).items()} for stem, kind in NOTEBOOK_SETTINGS.items()}


def _listed(value: object) -> object:
    """As notebooks, profiles and JSON write it."""
    return list(value) if isinstance(value, tuple) else value


def _confirms(settings: dict[str, dict[str, object]]) -> bool:
    from g2e_lib.scale.costs import confirm

    return confirm(settings)


def _concludes(name: str) -> None:
    from g2e_lib import report
    from g2e_lib.report import compare, pages

    pages.write_notebook_pages(report.Report(name).folder)
    if text := report.conclude(name):
        print(f"\n{text}", flush=True)  # noqa: T201
    compare.conclude(name)


def _compares(first: str, second: str) -> None:
    from g2e_lib.report.compare import compare_runs

    compare_runs(first, second)


def _summarizes(name: str, reference: str) -> str:
    from g2e_lib.report.compare import against_reference

    return against_reference(name, reference)


def _refreshes(profile: str) -> None:
    from g2e_lib.report import Report, readme

    if readme.refresh(Report(f"reference/{profile}")):
        print(f"{readme.NAME}: numbers brought up to date", flush=True)  # noqa: T201


def run(arguments: Sequence[str]) -> int:
    """What run_all.sh calls: the runner, given what lies above it. All of it is imported only where it is used."""
    from g2e_lib.project.command import Hooks, main

    return main(arguments, Hooks(setting_defaults, _confirms, _concludes, _compares, _summarizes, _refreshes))


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
