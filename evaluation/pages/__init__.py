"""Self-contained HTML pages of runs, tables and whole folders of runs: one file each, offline, without requests."""
