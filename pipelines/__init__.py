"""How checks and provenance run over a data set. The only Beam code."""
