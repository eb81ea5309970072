"""Puts what is not Python into the wheel, below `worker/shipped`: pyproject.toml names files of packages alone."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = (
    "package.json", "package-lock.json", "sidecar-baileys", "simulator", "supabase/migrations", "supabase/optional",
    "seeds",
)  # fmt: skip
LEFT_OUT = shutil.ignore_patterns("node_modules", "test", "make.sh")


class BuildWithShipped(build_py):
    """`build_py`, and copies of `SHIPPED`. An editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for name in SHIPPED:
            target = Path(self.build_lib, "worker", "shipped", name)
            if Path(name).is_dir():
                shutil.copytree(name, target, ignore=LEFT_OUT, dirs_exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(name, target)


setup(cmdclass={"build_py": BuildWithShipped})
