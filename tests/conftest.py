"""What every test starts from."""

import os

# A command that names no model gets the toy: what has weights is tested where it is named.
os.environ["TOKIX_MODEL"] = "toy"

# What several files share. As plugins they bring their fixtures, and their asserts show the two sides.
pytest_plugins = ["bench", "cached", "driven", "facts", "harness", "rig", "stage"]
