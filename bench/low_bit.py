"""The accuracy of slots in fewer bits, in trainings: ``python bench/low_bit.py --help``."""

import sys

from fusedopt.bench.extra import require

try:
    require()
except ImportError as error:
    sys.exit(str(error))

from fusedopt.bench.command import main
from low_bit_suite import LOW_BIT

if __name__ == "__main__":
    sys.exit(main(suite=LOW_BIT))
