"""Other people's runtimes, measured beside tokix; `venvs.run_peer` is the door."""
