"""Makes an environment for each peer, with pinned versions.

    python benchmarks/make_peers.py --folder ../peers torch fedjax

Run it with Python 3.11, for which the versions were chosen.  Torch comes with its GPU libraries, 6 GB.
"""

import argparse
import pathlib
import subprocess
import sys
import venv

PACKAGES = {
    "torch": ["torch==2.15.0", "numpy==2.4.6"],
    "fedjax": [
        "fedjax==0.0.17", "jax==0.10.2", "jaxlib==0.10.2", "dm-haiku==0.0.17", "optax==0.2.8",
        "numpy==2.4.6", "scipy==1.17.1",
    ],
    "pfl": ["pfl==0.6.0", "torch==2.15.0", "numpy==2.4.6"],
    # 1.42 differs in two requirements, and one of them, certifi 2026.10.19, could not be had.
    "flower": ["flwr[simulation]==1.41.0", "torch==2.15.0", "numpy==2.4.6"],
    "byzfl": ["byzfl==0.0.11", "torch==2.14.1", "numpy==2.4.6", "scipy==1.17.1"],
    "flower_secagg": ["flwr==1.41.0", "numpy==2.4.6"],
    "drjax": ["drjax==0.2.1", "jax==0.10.2", "jaxlib==0.10.2", "numpy==2.4.6"],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="outside the checkout")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PACKAGES)}; all by default")
    options = parser.parse_args()
    if unknown := set(options.names) - set(PACKAGES):
        parser.error(f"no peers of these names: {', '.join(unknown)}")
    for name in options.names or PACKAGES:
        where = options.folder / name
        print(f"{name}: {where}", flush=True)
        venv.create(where, with_pip=True)
        pip = [where / "bin" / "python", "-m", "pip", "install", "--quiet", *PACKAGES[name]]
        if subprocess.run(pip, check=False).returncode:
            sys.exit(f"{name} could not be installed; the others so far are in place")


if __name__ == "__main__":
    main()
