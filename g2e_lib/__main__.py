"""The command line: `python -m g2e_lib COMMAND ...`, each command with `--help`. run_all.sh calls `run`."""

import importlib
import sys

COMMANDS = {
    "run": "g2e_lib.project.runner",
    "embed": "g2e_lib.experiments.embed",
    "download": "g2e_lib.data.download",
    "publish": "g2e_lib.scale.publish",
    "train": "g2e_lib.train",
}


def main() -> int:
    """Hand the arguments to a command; returns its exit status."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: python -m g2e_lib {{{','.join(COMMANDS)}}} ...", file=sys.stderr)  # noqa: T201
        return 2
    return importlib.import_module(COMMANDS[sys.argv[1]]).main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
