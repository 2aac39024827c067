"""`python -m anypo` is the command `anypo`."""

from anypo.cli import main

if __name__ == "__main__":
    main()
