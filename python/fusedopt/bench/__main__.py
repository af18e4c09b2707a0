"""The command ``python -m fusedopt.bench``."""

import sys

from fusedopt.bench.extra import require

try:
    require()
except ImportError as error:
    sys.exit(str(error))

from fusedopt.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
