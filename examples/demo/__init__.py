"""SFT and SOLAR side by side on a tiny model, offline, in about two minutes: `python examples/demo/run.py`."""
