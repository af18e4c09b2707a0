"""What the rules cost on this machine: ``python -m fusedopt.bench --help``.

Not imported by ``import fusedopt``. It needs the extra ``bench``. The repository's folder ``bench`` plugs a larger
suite into the same command.
"""
