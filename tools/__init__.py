"""What `make setup` and `make lock` run. Standard library only: it runs before anything is installed."""
