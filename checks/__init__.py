"""Is this data fit to train on? Numpy and Arrow; no Beam, no input or output."""
