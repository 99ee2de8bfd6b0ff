"""One module a notebook, of the same name: its experiments, its explorers, its exercises."""
