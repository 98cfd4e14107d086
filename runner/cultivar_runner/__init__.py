"""Runner of the cultivar training platform: pulls jobs over HTTPS, trains them, reports."""

__version__ = "0.1.0"
