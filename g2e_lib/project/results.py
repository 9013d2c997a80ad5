"""What a run has written: its metrics, the settings it runs with, and the caches it may use. Needs no torch."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

from g2e_lib import __version__
from g2e_lib.project import config
from g2e_lib.project.provenance import Run
from g2e_lib.project.store import Store, read_json, write_json

RECORD = "run.json"  # in a results folder: profile, name, base, commit, settings by notebook; written by the runner
REFERENCE = "reference"  # results/reference/<profile> is what we publish
DEFAULT_PROFILE = "mini"


class Results:
    """The results of one run, in `folder` and `figures`, which are staging folders while run_all.sh runs.

    Args:
        run: name of the results folder: that of a profile, of a variant, or "reference/<profile>".
    """

    def __init__(self, run: str) -> None:
        self.name, self.folder, self.figures = run, config.results_folder(run), config.figures_folder(run)
        self._stores: dict[str, Store] = {}

    @cached_property
    def record(self) -> dict[str, Any]:
        """What run.json says; {} where no runner has written one, as for a notebook opened in Jupyter.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.folder / RECORD
        return read_json(path, made_by="run_all.sh") if path.is_file() else {}

    @property
    def profile(self) -> str:
        """The profile that was run."""
        named = Path(self.name).name
        is_profile = named in config.profile_names() or self.name.startswith(f"{REFERENCE}/")
        return self.record.get("profile") or (named if is_profile else DEFAULT_PROFILE)

    @property
    def is_fresh(self) -> bool:
        """Whether caches are to be ignored."""
        return self.record.get("is_fresh", False)

    def settings(self, notebook: str, known: Collection[str] | None = None) -> dict[str, Any]:
        """Every setting of a notebook that was chosen, or all of them, as a runner records them.

        Only `known` ones, if given: a profile's common settings go to every notebook.
        """
        if "settings" in self.record:
            chosen = self.record["settings"].get(notebook, {})
        else:
            chosen = config.load_profile(self.profile).get(notebook, {})
        return {name: value for name, value in chosen.items() if known is None or name in known}

    def require(self) -> None:
        """Refuse a run that does not exist, or that another version made.

        Raises:
            ValueError: it is so; the message says what to do.
        """
        place = f"results/{self.name}/"
        if not self.folder.is_dir():
            if self.name.startswith(f"{REFERENCE}/"):
                raise ValueError(f"there is no reference of profile {self.profile}: {place} does not exist")
            there = sorted(path.parent.name for path in config.RESULTS.glob(f"*/{RECORD}"))
            raise ValueError(f"there is no run {self.name!r}: results/ has {', '.join(there) or 'none yet'}")
        if not self.record:
            raise ValueError(f"{place} has no {RECORD}, so nothing says what it is: make it again with ./run_all.sh")
        if (version := self.record.get("g2e_lib")) != __version__:
            raise ValueError(f"{place} is of version {version}, not {__version__}: make it again with ./run_all.sh")

    def _metrics_path(self, name: str) -> Path:
        return self.folder / "metrics" / f"{name}.json"

    def has(self, name: str) -> bool:
        """Whether `metrics/<name>.json` exists."""
        return self._metrics_path(name).is_file()

    def metrics(self, name: str) -> Any:  # noqa: ANN401 (whatever was saved)
        """The content of `metrics/<name>.json`.

        Raises:
            ValueError: it does not exist, or is damaged.
        """
        return read_json(self._metrics_path(name), made_by="the notebook that writes it")

    def save(self, name: str, value: dict[str, Any], run_record: Run, n: int) -> None:
        """Write `metrics/<name>.json`: the value and, as "provenance", what it depends on, with the n behind it."""
        write_json(self._metrics_path(name), {"provenance": run_record.record(n), **value})

    def store(self, kind: str) -> Store:
        """The cache for one kind of things, such as "embeddings": one object each, even where caches are ignored."""
        if kind not in self._stores:
            self._stores[kind] = Store(config.CACHE / kind, self.is_fresh)
        return self._stores[kind]
