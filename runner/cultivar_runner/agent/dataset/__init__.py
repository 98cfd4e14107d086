"""Brings a job's dataset to this machine."""
