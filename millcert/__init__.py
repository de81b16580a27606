"""millcert: a gate in front of training that issues a signed certificate for each data set."""

__version__ = "0.1.0"
