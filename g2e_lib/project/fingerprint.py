"""What code decides a result: a module with everything it imports inside the package, hashed without its comments.

A cached result is found again only under the code that would make it again. Docstrings, comments and layout are no
part of the hash, so that a mended sentence costs no training.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

from g2e_lib.project.config import PACKAGE, fingerprint

UNDECISIVE = ("project", "report")  # folders of places, caches, records and drawings: they decide no number
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_fingerprint(*modules: str) -> str:
    """A short hash of modules, such as "evaluation.scores", and of what they import: equal for equal code.

    Raises:
        ValueError: the package has no such module.
    """
    return fingerprint(decisive_modules(*modules))


def decisive_modules(*modules: str) -> dict[str, str]:
    """The digest of the code of every module that decides what `modules` compute, by dotted name, in order.

    Imports are followed wherever they stand, in functions as well; folders of UNDECISIVE are not entered.

    Raises:
        ValueError: the package has no such module.
    """
    for name in modules:
        if not _path(name):
            raise ValueError(f"{PACKAGE.name} has no module {name!r}: give a dotted name such as 'evaluation.scores'")
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if path and name not in found and name.partition(".")[0] not in UNDECISIVE:
            facts = path.stat()
            found[name], imported = _read(path, facts.st_size, facts.st_mtime_ns)
            waiting += [*imported, name.rpartition(".")[0]]  # importing a module runs the folder above it, too
    return dict(sorted(found.items()))


def _path(name: str) -> Path | None:
    """The file of a module or of a folder of modules; the package's own __init__ decides nothing."""
    place = PACKAGE.joinpath(*name.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if name and path.is_file()), None)


@cache
def _read(path: Path, *_: int) -> tuple[str, tuple[str, ...]]:
    """The digest of a file's code, and every name it imports from the package: modules, or names in them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path} has a relative import: name the module from {PACKAGE.name} on")
            imported += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    inside = f"{PACKAGE.name}."
    names = tuple(name.removeprefix(inside) for name in imported if name.startswith(inside))
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16], names
