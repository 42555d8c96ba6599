"""Run the command line: `python -m ragqueue`."""

from ragqueue.cli import main

if __name__ == "__main__":
    main()
