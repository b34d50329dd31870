"""`python -m wspool` is `wspool`."""

from wspool_command import main

if __name__ == "__main__":
    main()
