"""`python -m bifusion`, as torchrun starts it: the command line."""

from bifusion.cli import main

if __name__ == "__main__":
    main()
