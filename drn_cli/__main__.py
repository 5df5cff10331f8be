"""`python -m drn_cli`, which is also what torchrun starts."""

from drn_cli.cli.app import main

if __name__ == "__main__":
    main()
