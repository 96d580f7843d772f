"""Python code that changes every process of a sweep, for faults that cannot be brought about from outside.

``sitecustomize.py`` in a folder of PYTHONPATH is run by each Python process when it starts, Ray's own among them.
"""

from __future__ import annotations

import os
from pathlib import Path

WHEN_IMPORTED = """
import importlib.abc, importlib.util, sys

class Tamper(importlib.abc.MetaPathFinder):
    busy = False
    def find_spec(self, name, path, target=None):
        if name != {module!r} or self.busy:
            return None
        self.busy = True
        spec = importlib.util.find_spec(name)
        self.busy = False
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            change(module)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Tamper())
"""

CLOCK_THAT_JUMPS = """
import time
_clock = time.time
def _jumping():
    now = _clock()
    return now + (86400 if int(now) // 3 % 2 else -86400)
time.time = _jumping
"""
"""A day ahead for three seconds, a day behind for three."""

OUT_OF_MEMORY = (
    WHEN_IMPORTED.format(module="raydistill.tuning.trainable")
    + """
def change(module):
    start = module.DistillTrainable._start
    def starve(self, config):
        start(self, config)
        if (config["spec"]["phase"], config["spec"]["arm"], config["spec"]["number"]) == ("search", "uniform", 1):
            import resource
            in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (in_use + (64 << 20), resource.RLIM_INFINITY))
            self.hoard = bytearray(1 << 30)
    module.DistillTrainable._start = starve
"""
)
"""One trial has no more than 64 MiB left, and wants a GiB."""

OTHER_CODE = (
    WHEN_IMPORTED.format(module="raydistill.tuning.versions")
    + """
def change(module):
    module.code_hash = lambda folder=None: "0ther0de"
"""
)

OTHER_CODE_IN_TRAIN_WORKERS = (
    WHEN_IMPORTED.format(module="raydistill.tuning.versions")
    + """
def change(module):
    own = module.code_hash
    def code_hash(folder=None):
        from ray._raylet import getproctitle
        return "0ther0de" if getproctitle().startswith("ray::RayTrainWorker") else own(folder)
    module.code_hash = code_hash
"""
)
"""As where workers that were lost are replaced on a machine that has joined late."""


UNSHARED_CHECKPOINTS_IN_TRAIN_WORKERS = (
    WHEN_IMPORTED.format(module="raydistill.tuning.places")
    + """
def change(module):
    own = module.read_probe
    def read_probe(address, name):
        from ray._raylet import getproctitle
        return own(address + "/elsewhere" * getproctitle().startswith("ray::RayTrainWorker"), name)
    module.read_probe = read_probe
"""
)
"""As where such a machine has a folder of its own in the place of the checkpoints."""


def python_path(folder: Path, code: str) -> str:
    """Return a value of PYTHONPATH under which every process runs some code when it starts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
