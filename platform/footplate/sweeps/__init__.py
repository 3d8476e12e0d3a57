"""Sweeps: the same recipe many times, with some of its keys changed from trial to trial.

Everything but running them: the file, the trials that follow from it, their folders, the table and the picture. What
runs them is an installed package's (`footplate.sweepers`).
"""
