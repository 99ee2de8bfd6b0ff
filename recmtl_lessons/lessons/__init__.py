"""One module a notebook, of the same name: its experiments, its explorers, its exercises.

Whoever opens a lesson is going to compute in it: the number of threads is settled here, before anything else is.
"""

from recmtl_lessons.training.device import settle_threads

settle_threads()
