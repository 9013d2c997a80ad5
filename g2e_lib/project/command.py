"""The command line of run_all.sh; what it needs of the experiments and of the report is handed to it."""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from g2e_lib.project import config, runner
from g2e_lib.project.notebooks import Settings, UsageError, known_settings, list_text
from g2e_lib.project.plan import make_plan
from g2e_lib.project.results import RECORD, REFERENCE, Results
from g2e_lib.project.store import write_json


@dataclass(frozen=True)
class Hooks:
    """What the runner needs of packages above its own."""

    defaults: Callable[[], Settings] = dict  # of all settings
    confirms: Callable[[Settings], bool] = lambda settings: True  # says what a run costs, and whether to go on
    concludes: Callable[[str], None] = lambda name: None  # prints what came out of a run
    compares: Callable[[str, str], object] = lambda first, second: None  # prints and stores what differs
    summarizes: Callable[[str, str], str] = lambda name, reference: ""  # says briefly how much differs
    refreshes: Callable[[str], None] = lambda profile: None  # brings up to date what depends on a reference


def parser() -> argparse.ArgumentParser:
    """The command line of run_all.sh."""
    made = argparse.ArgumentParser(
        prog="run_all.sh",
        description="Run the notebooks in order and regenerate every table and figure in results/ and figures/.",
        epilog="Further commands: `run_all.sh compare A B` says what differs between two runs; `run_all.sh publish "
        "NAME` makes a run the reference that is in git; `run_all.sh test [--quick] [pytest arguments]` runs the test "
        "suite.",
    )
    made.add_argument("--profile", default="mini", help="size of the run (default: mini); --list shows all")
    made.add_argument("--as", dest="name", default="", metavar="NAME", help="keep a variant under this name")
    which = made.add_mutually_exclusive_group()
    which.add_argument("--from", dest="first", metavar="NN", help="start at this notebook")
    which.add_argument("--only", metavar="NN", help="run this notebook only")
    made.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="set a parameter; the run is a variant with a name of its own",
    )  # fmt: skip
    made.add_argument("--list", action="store_true", help="show notebooks, parameters and profiles, and stop")
    made.add_argument(
        "--fresh", dest="is_fresh", action="store_true", help="ignore caches and compute everything again"
    )
    return made


def main(arguments: Sequence[str], hooks: Hooks = Hooks()) -> int:  # noqa: B008 (frozen)
    """Run from the command line; returns the exit status: 0, 1 if a notebook failed, 2 for a wrong command line."""
    verb, *names = arguments or [""]
    try:
        if verb == "compare":
            hooks.compares(*_names(names, 2, "compare A B"))
            return 0
        if verb == "publish":
            return publish(*_names(names, 1, "publish NAME"), hooks)
        return _run(parser().parse_args(arguments), hooks)
    except (ValueError, RuntimeError) as error:
        print(f"run_all.sh: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, ValueError) else 1


def _names(names: Sequence[str], count: int, usage: str) -> Sequence[str]:
    if len(names) != count or any(name.startswith("-") for name in names):
        raise UsageError(f"usage: run_all.sh {usage}, with names of folders in results/")
    return [name.rstrip("/").removeprefix("results/") for name in names]


def _run(options: argparse.Namespace, hooks: Hooks) -> int:
    known = known_settings(hooks.defaults())
    if options.list:
        print(list_text(known))  # noqa: T201
        return 0
    config.load_profile(options.profile, known)  # an unknown profile is told of first
    runner.places_of(options.name or options.profile)
    plan = make_plan(options, known)
    if not hooks.confirms({stem: plan.settings[stem] for stem in plan.notebooks}):
        return 0
    if plan.start:
        print(f"results/{plan.name}/ begins with what results/{plan.start}/ has")  # noqa: T201
    runner.run(plan)
    hooks.concludes(plan.name)
    return 0


def publish(name: str, hooks: Hooks, asks: bool | None = None) -> int:
    """Make a run the reference of its profile, which is in git; `asks` first, or with None only on a terminal.

    Raises:
        ValueError: it is not a whole run of a profile as it is.
    """
    results = Results(name)
    _check_publishable(results, known_settings(hooks.defaults()))
    target = f"{REFERENCE}/{results.profile}"
    print(f"results/{target}/ and figures/{target}/ become those of results/{name}/.")  # noqa: T201
    is_first = not Results(target).folder.is_dir()
    print("There is no reference yet." if is_first else hooks.summarizes(name, target), flush=True)  # noqa: T201
    asks = sys.stdin.isatty() if asks is None else asks
    if asks and input("Publish? [y/N] ").strip().lower() not in ("y", "yes"):
        return 0
    with runner.staging(target) as staged:
        for source, place in zip((results.folder, results.figures), staged, strict=True):
            shutil.copytree(source, place)
        write_json(staged[0] / RECORD, {**results.record, "name": target})
    hooks.refreshes(results.profile)
    return 0


def _check_publishable(results: Results, known: Settings) -> None:
    """Refuse anything but a profile's whole run: what a profile publishes is exactly what its command gives."""
    results.require()
    name, profile, record = results.name, results.profile, results.record
    if name.startswith(f"{REFERENCE}/"):
        raise UsageError(f"{name} is the reference already: name a run of yours")
    for stem, chosen in config.load_profile(profile, known).items():
        if stem not in record["notebooks"]:
            raise UsageError(f"results/{name} lacks {stem}: run ./run_all.sh --profile {profile} to the end first")
        if record["settings"].get(stem) != known[stem] | chosen:
            raise UsageError(
                f"results/{name} is a variant of profile {profile} ({stem} has other settings): change the profile, "
                f"run it, and publish that"
            )
