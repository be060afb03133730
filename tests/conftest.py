"""What every test starts from."""

import os
import signal

# A command that names no model gets the toy: what has weights is tested where it is named.
os.environ["TOKIX_MODEL"] = "toy"

# And one that names no state directory has none: no test reads or writes what belongs to whoever runs it.
os.environ["TOKIX_STATE"] = "/dev/null/tokix"
os.environ.pop("TOKIX_KEY_FILE", None)

# Whoever starts the tests in the background may have them ignore these, and all that they start with them.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# What several files share. As plugins they bring their fixtures, and their asserts show the two sides.
# One that imports another comes after it: what is imported already would keep its plain asserts.
pytest_plugins = ["bench", "cached", "driven", "facts", "harness", "rig", "stage"]
pytest_plugins += ["command", "glass", "home", "indexed", "saved", "simulated", "stores"]
