"""``python -m recmtl_lessons.lessons.maml``: the full run of the sinusoid."""

from recmtl_lessons.lessons.maml.sinusoid import main

if __name__ == "__main__":
    main()
