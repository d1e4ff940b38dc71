"""Results of papers, run again: the published figure beside ours, over five seeds with intervals.

Each module is one command, such as ``python -m benchmarks.reproduce.scaffold_quadratics``.  It prints
what was published, what it found, and what differs between the two experiments.  ``--record`` writes
the same text into ``benchmarks/results/reproduce/``.
"""
