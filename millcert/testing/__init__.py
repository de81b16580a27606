"""Test kit: a private Sigstore and planted data, for tests, the demo and third parties."""
