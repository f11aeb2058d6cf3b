"""The `crossdock` command line: `main` puts the command groups together, one module or package each."""
