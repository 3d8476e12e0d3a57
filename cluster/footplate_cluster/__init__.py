"""Footplate on Ray. The only package that imports Ray."""
