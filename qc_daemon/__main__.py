"""`python -m qc_daemon`."""

from qc_daemon.cli.app import main

if __name__ == "__main__":
    main()
