"""What every test starts from."""

import os

# A command that names no model gets the toy: what has weights is tested where it is named.
os.environ["TOKIX_MODEL"] = "toy"
