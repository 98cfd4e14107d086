"""The process that talks to the server: claims jobs, starts trainers, reports, uploads."""
