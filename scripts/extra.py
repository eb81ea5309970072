"""Prints the requirements of one of our extras, one a line, so that they can be installed without the worker itself."""

import sys
import tomllib
from pathlib import Path

if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
    print("\n".join(project["optional-dependencies"][sys.argv[1]]))
