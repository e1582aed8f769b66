"""`python -m bbpyro` is the command bbpyro."""

from bbpyro.cli import main

if __name__ == "__main__":
    main()
