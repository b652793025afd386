"""`python -m bp_merge` is `bp-merge`."""

from bp_merge.cli import main

if __name__ == "__main__":
    main()
