"""Where is the data from, and who says so? No Beam, no numpy."""
