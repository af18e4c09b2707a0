"""What the rules cost on this machine: ``python -m fusedopt.bench --help``.

Not imported by ``import fusedopt``. It needs the extra ``bench``; the thorough run in the repository's
``bench`` folder is made of the same parts.
"""
