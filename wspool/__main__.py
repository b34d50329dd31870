"""`python -m wspool` is `wspool`."""

from wspool.cli import main

if __name__ == "__main__":
    main()
