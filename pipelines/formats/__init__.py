"""Readers and writers of file formats: bytes in, record batches out, within stated bounds."""
