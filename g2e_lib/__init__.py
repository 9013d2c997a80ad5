"""Multimodal embedding from generative models: Gen2Embed and UniME, reproducible from a laptop to many GPUs."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType

__version__ = "0.2.0"

_AUTO_PROCESSOR_MODULE = "transformers.models.auto.processing_auto"


class _RegisterProcessor(importlib.abc.MetaPathFinder):
    """Registers our processor right after transformers' AutoProcessor is first imported.

    Importing transformers here would do too, but it loads torch, which configuration, prompts and reports do without.
    """

    def find_spec(
        self, fullname: str, path: object, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _AUTO_PROCESSOR_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            importlib.import_module("g2e_lib.backbone.processor")

        spec.loader.exec_module = execute_and_register
        return spec


if _AUTO_PROCESSOR_MODULE in sys.modules:
    importlib.import_module("g2e_lib.backbone.processor")
else:
    sys.meta_path.insert(0, _RegisterProcessor())
