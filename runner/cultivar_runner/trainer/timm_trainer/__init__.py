"""Trains image classifiers of timm."""

from .train import train

__all__ = ["train"]
